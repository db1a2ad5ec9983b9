"""The runtime against a real API server: what the fake one only imitates."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.waiting import PATIENCE, eventually
from unit.kube.kube_things import HASH, Meta
from vdi.kube import errors
from vdi.kube.apply import Applier
from vdi.kube.config import load_config
from vdi.kube.events import EventRecorder
from vdi.kube.managed_fields import FieldOwnershipReader
from vdi.kube.meta import ObjectReference
from vdi.kube.resource import CLAIMS, CONFIG_MAPS, EVENTS, PODS, SECRETS, SERVICES, Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector, WatchTiming


class Seen(msgspec.Struct, gc=False):
    metadata: Meta


def an_object(kind: str, name: str, namespace: str, **parts: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"app": "test"}}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **parts}


def config_map(name: str, namespace: str, **data: str) -> dict[str, Any]:
    return an_object("ConfigMap", name, namespace, data=data)


def service(namespace: str, owner: dict[str, Any]) -> dict[str, Any]:
    ports = [{"name": "web", "port": 80, "targetPort": 8080}, {"name": "more", "port": 81}]
    spec = {"clusterIP": "None", "selector": {"app": "test"}, "ports": ports}
    made = an_object("Service", "s", namespace, spec=spec)
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "controller": True}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    made["metadata"]["ownerReferences"] = [reference]
    return made


def claim(namespace: str) -> dict[str, Any]:
    requests = {"requests": {"storage": "1024Mi"}}
    spec = {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": requests}
    return an_object("PersistentVolumeClaim", "c", namespace, spec=spec)


async def run(kubectl: list[str], *words: str) -> bytes:
    done = await asyncio.to_thread(
        subprocess.run, [*kubectl, *words], check=True, capture_output=True
    )
    said: bytes = done.stdout
    return said


class Ground:
    """A reflected kind with its applier, and the count of requests."""

    def __init__(self, client: Client, resource: Resource, namespace: str) -> None:
        self.store: Store[Seen] = Store(FieldOwnershipReader("kube-test", HASH))
        self.reflector = Reflector(client, resource, Seen, self.store, namespace=namespace)
        self.applier = Applier(client, resource, Seen, self.store)

    async def __aenter__(self) -> "Ground":
        self.task = asyncio.create_task(self.reflector.run())
        await asyncio.wait_for(self.reflector.wait_synced(), PATIENCE)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def version_of(self, name: str, namespace: str) -> int:
        found = self.store.get(namespace, name)
        return int(found.metadata.resource_version) if found else 0


class Counter:
    def __init__(self) -> None:
        self.methods: list[str] = []

    def __call__(self, method: str, plural: str, status: int, seconds: float) -> None:
        self.methods.append(method)

    def since(self) -> list[str]:
        """The requests since the last call, watches and lists apart."""
        seen = [method for method in self.methods if method != "WATCH"]
        self.methods.clear()
        return seen


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
async def client(kubeconfig: Path, counter: Counter) -> AsyncIterator[Client]:
    async with Client(
        load_config(kubeconfig), field_manager="kube-test", on_request=counter
    ) as client:
        yield client


async def test_object_writes_raise_typed_errors(client: Client, namespace: str) -> None:
    made = await client.create(
        CONFIG_MAPS, config_map("a", namespace, x="1"), namespace=namespace, into=Seen
    )
    with pytest.raises(errors.AlreadyExists):
        await client.create(CONFIG_MAPS, config_map("a", namespace), namespace=namespace, into=Seen)
    stale = {"metadata": {"resourceVersion": made.metadata.resource_version}, "data": {"x": "2"}}
    await client.patch(CONFIG_MAPS, "a", stale, namespace=namespace, into=Seen)
    with pytest.raises(errors.Conflict) as conflict:
        await client.patch(
            CONFIG_MAPS, "a", {**stale, "data": {"x": "3"}}, namespace=namespace, into=Seen
        )
    assert not isinstance(conflict.value, errors.Replaced)
    with pytest.raises(errors.Replaced):
        await client.delete(CONFIG_MAPS, "a", namespace=namespace, uid="wrong", into=Seen)
    with pytest.raises(errors.Invalid) as caught:
        await client.create(PODS, {"metadata": {"name": "p"}}, namespace=namespace, into=Seen)
    assert any(cause.field == "spec.containers" for cause in caught.value.causes)
    assert (
        await client.delete(CONFIG_MAPS, "a", namespace=namespace, uid=made.metadata.uid, into=Seen)
        is None
    )
    with pytest.raises(errors.NotFound) as missing:
        await client.get(CONFIG_MAPS, "a", namespace=namespace, into=Seen)
    assert not missing.value.api_missing
    with pytest.raises(errors.NotFound) as missing:
        await client.list(Resource("nobody.example", "v1", "things", "Thing"), into=Seen)
    assert missing.value.api_missing


async def test_reflector_reads_pages_bookmarks_and_changes(client: Client, namespace: str) -> None:
    await asyncio.gather(
        *(
            client.create(
                CONFIG_MAPS, config_map(f"m{n}", namespace), namespace=namespace, into=Seen
            )
            for n in range(530)
        )
    )
    assert (
        len(
            await client.list(
                CONFIG_MAPS, namespace=namespace, label_selector="app=test", into=Seen
            )
        )
        == 530
    )
    async with Ground(client, CONFIG_MAPS, namespace) as ground:
        assert len(ground.store) >= 530
        await client.delete(CONFIG_MAPS, "m0", namespace=namespace, into=Seen)
        await client.patch(
            CONFIG_MAPS, "m1", {"data": {"x": "y" * 900_000}}, namespace=namespace, into=Seen
        )
        await eventually(lambda: ground.store.get(namespace, "m0") is None)
        live = await client.get(CONFIG_MAPS, "m1", namespace=namespace, into=Seen)
        await eventually(
            lambda: ground.version_of("m1", namespace) == int(live.metadata.resource_version)
        )


async def test_closed_watch_is_resumed(client: Client, counter: Counter, namespace: str) -> None:
    store: Store[Seen] = Store()
    timing = WatchTiming(session=(1, 1))
    reflector = Reflector(client, CONFIG_MAPS, Seen, store, namespace=namespace, timing=timing)
    task = asyncio.create_task(reflector.run())
    await eventually(lambda: counter.methods.count("WATCH") >= 3)
    assert counter.methods.count("GET") == 1
    await client.create(CONFIG_MAPS, config_map("late", namespace), namespace=namespace, into=Seen)
    await eventually(lambda: store.get(namespace, "late") is not None)
    assert reflector.last_error is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("kind", ["services", "claims", "configmaps", "secrets"])
async def test_unchanged_object_costs_no_request(
    client: Client, counter: Counter, namespace: str, kubectl: list[str], kind: str
) -> None:
    owner = await client.create(
        CONFIG_MAPS, config_map("owner", namespace), namespace=namespace, into=dict[str, Any]
    )
    resource, desired, edit = {
        "services": (
            SERVICES,
            service(namespace, owner),
            {"spec": {"selector": {"app": "hijacked"}}},
        ),
        "claims": (CLAIMS, claim(namespace), {"metadata": {"labels": {"app": "other"}}}),
        "configmaps": (
            CONFIG_MAPS,
            config_map("m", namespace, x="1", y="2"),
            {"data": {"x": None}},
        ),
        "secrets": (
            SECRETS,
            an_object("Secret", "m", namespace, data={"password": "c2VjcmV0"}, type="Opaque"),
            {"data": {"password": "aGFja2Vk"}},
        ),
    }[kind]
    name = desired["metadata"]["name"]
    async with Ground(client, resource, namespace) as ground:
        counter.since()
        await ground.applier.ensure(desired)
        assert counter.since() == ["POST"]
        await ground.applier.ensure(desired)
        assert counter.since() == []
        patch = [
            "patch",
            resource.plural,
            name,
            "-n",
            namespace,
            "--type=merge",
            "-p",
            json.dumps(edit),
        ]
        before = ground.version_of(name, namespace)
        await run(kubectl, *patch)
        await eventually(lambda: ground.version_of(name, namespace) > before)
        await ground.applier.ensure(desired)
        assert counter.since() == ["PATCH"]
        live = await client.get(resource, name, namespace=namespace, into=dict[str, Any])
        for part in ("data", "spec"):
            for field, value in desired.get(part, {}).items():
                if isinstance(value, str | dict) and field != "resources":
                    assert live[part][field] == value
        counter.since()
        await ground.applier.ensure(desired)
        assert counter.since() == []
    async with Ground(client, resource, namespace) as restarted:
        counter.since()
        await restarted.applier.ensure(desired)
        assert counter.since() == []
        before = restarted.version_of(name, namespace)
        await run(kubectl, "label", resource.plural, name, "-n", namespace, "other=one")
        await eventually(lambda: restarted.version_of(name, namespace) > before)
        await restarted.applier.ensure(desired)
        assert counter.since() == [], "what somebody adds beside ours is no drift"


@pytest.mark.parametrize(
    "edit",
    ['{"data":{"x":"2"}}', '{"data":{"x":null}}', '{"data":null}', '{"metadata":{"labels":null}}'],
)
async def test_drift_is_found_at_the_next_start(
    client: Client, counter: Counter, namespace: str, kubectl: list[str], edit: str
) -> None:
    desired = config_map("m", namespace, x="1")
    async with Ground(client, CONFIG_MAPS, namespace) as ground:
        await ground.applier.ensure(desired)
    await run(kubectl, "patch", "configmap", "m", "-n", namespace, "--type=merge", "-p", edit)
    async with Ground(client, CONFIG_MAPS, namespace) as ground:
        counter.since()
        await ground.applier.ensure(desired)
        assert counter.since() == ["PATCH"]
        live = await client.get(CONFIG_MAPS, "m", namespace=namespace, into=dict[str, Any])
        assert live["data"] == {"x": "1"}
        assert live["metadata"]["labels"] == {"app": "test"}


async def test_field_that_left_the_spec_leaves_the_object(
    client: Client, counter: Counter, namespace: str
) -> None:
    async with Ground(client, CONFIG_MAPS, namespace) as ground:
        await ground.applier.ensure(config_map("m", namespace, x="1", y="2"))
        counter.since()
        await ground.applier.ensure(config_map("m", namespace, x="1"))
        assert counter.since() == ["GET", "PATCH", "PATCH"]
        live = await client.get(CONFIG_MAPS, "m", namespace=namespace, into=dict[str, Any])
        assert live["data"] == {"x": "1"}
        counter.since()
        await ground.applier.ensure(config_map("m", namespace, z="3"))
        assert counter.since() == ["PATCH"], "handing over is needed once"
        live = await client.get(CONFIG_MAPS, "m", namespace=namespace, into=dict[str, Any])
        assert live["data"] == {"z": "3"}


async def test_events_become_a_series(client: Client, namespace: str, kubectl: list[str]) -> None:
    made = await client.create(
        CONFIG_MAPS, config_map("a", namespace), namespace=namespace, into=Seen
    )
    recorder = EventRecorder(client, controller="example.org/test", instance="test-0")
    about = ObjectReference("v1", "ConfigMap", "a", made.metadata.uid, namespace)
    recorder.emit(about, "Warning", "Tested", "said twice", "Test")
    recorder.emit(about, "Warning", "Tested", "said twice", "Test")
    task = asyncio.create_task(recorder.run())
    await asyncio.wait_for(recorder.flush(), PATIENCE)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert recorder.dropped == 0
    found = await client.list(EVENTS, namespace=namespace, into=dict[str, Any])
    assert [(event["note"], event["series"]["count"]) for event in found] == [("said twice", 2)]
    assert b"said twice" in await run(kubectl, "describe", "configmap", "a", "-n", namespace)
