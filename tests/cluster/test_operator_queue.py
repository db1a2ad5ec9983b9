"""The queue against a real API server and a real scheduler: who waits has no pod, says why, and starts by itself."""

import asyncio
from typing import Any

import msgspec
import pytest

from cluster.operator_stage import Object, Stage, condition
from support.waiting import eventually
from vdi.kinds import SESSIONS
from vdi.kube.resource import CLAIMS, PODS, VOLUMES

pytestmark = pytest.mark.timeout(150)
GPU = "nvidia.com/gpu"


def queue_of(session: Object) -> Object:
    queue: Object = session["status"]["queue"]
    return queue


def reason_of(session: Object) -> str:
    return str(condition(session, "Admitted")["reason"])


async def gpu_template(stage: Stage, suffix: str = "desktop", **spec: Any) -> str:
    """A template whose desktops have no home and stay on the stage's own nodes."""
    placement = {"nodeSelector": stage.here}
    name = f"{stage.namespace}-{suffix}"
    return await stage.template_named(name, **{"persistence": {"enabled": False}, "placement": placement, **spec})


async def running(stage: Stage, template: str, count: int, **spec: Any) -> list[str]:
    """So many sessions of different people, all Running."""
    names = [f"r{number}" for number in range(count)]
    await asyncio.gather(*(stage.session(name, template, **{"user": f"{name}@x.yz", **spec}) for name in names))
    await asyncio.gather(*(stage.run(name) for name in names))
    return names


async def waits(stage: Stage, name: str, reason: str, words: str = "") -> Object:
    """The session, once it waits for that reason in those words; and it has no pod."""

    async def look() -> Object | None:
        session = await stage.get(SESSIONS, name)
        status = (session or {}).get("status", {})
        reported = session and (status.get("queue") or {}).get("reason") == reason and words in status["message"]
        return session if reported else None

    try:
        session = await eventually(look, f"{name} waits: {reason} {words!r}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {(await stage.get(SESSIONS, name) or {}).get('status')}") from None
    assert session["status"]["phase"] == "Pending"
    assert reason_of(session) == reason
    assert condition(session, "Admitted")["status"] == "False"
    assert await stage.owned(PODS, session) == []
    return session


async def started(stage: Stage, names: list[str]) -> list[str]:
    """Which of these have a pod."""
    owners = {one["metadata"]["ownerReferences"][0]["name"] for one in await stage.all(PODS)}
    return [name for name in names if name in owners]


async def starts(stage: Stage, *names: str) -> None:
    """Wait until these, and of `names` in this order, have their pods."""

    async def look() -> bool:
        return await started(stage, list(names)) == list(names)

    await eventually(look, f"{names} have started")


async def test_ninth_session_waits_and_starts_by_itself(stage: Stage) -> None:
    node = await stage.node("gpu", gpu="8")
    template = await gpu_template(stage)
    async with stage.operator():
        await running(stage, template, 8)
        await stage.session("ninth", template, user="late@x.yz")
        ninth = await waits(stage, "ninth", "GPUsBusy", f"all 8 {GPU} on node {node} are in use")
        assert queue_of(ninth)["position"] == 1
        ends = [(await stage.get(SESSIONS, f"r{number}") or {})["status"]["expiresAt"] for number in range(8)]
        assert queue_of(ninth)["earliestSlot"] == min(ends)
        assert "startTime" not in ninth["status"]
        await stage.delete(SESSIONS, "r3")
        await starts(stage, "ninth")
        session = await stage.run("ninth")
        assert session["status"]["nodeName"] == node
        assert "queue" not in session["status"]
        assert reason_of(session) == "Admitted"
        for name in ("ninth", *(f"r{number}" for number in range(8) if number != 3)):
            assert (await stage.get(PODS, name) or {})["spec"]["nodeName"] == node


async def test_home_on_a_full_node_waits_for_that_node(stage: Stage) -> None:
    full, free = await stage.node("full", gpu="1"), await stage.node("free", gpu="1")
    template = await gpu_template(stage, persistence={"enabled": True, "storageClass": "by-hand"})
    elsewhere = await gpu_template(stage, "pinned", placement={"nodeSelector": {"kubernetes.io/hostname": full}})
    async with stage.operator():
        await stage.session("first", template)
        (home,) = await eventually(lambda: stage.all(CLAIMS), "the home's claim is there")
        try:
            await _provision(stage, home, full)
            await stage.run("first")
            await stage.end("first")
            await stage.session("other", elsewhere, user="bob@x.yz")
            await stage.run("other")
            await stage.session("second", template)
            in_use = f"the home is on node {full}, where the only {GPU} on node {full} is in use"
            words = f"{in_use}; the capacity of node {free}"
            await waits(stage, "second", "HomeNodeFull", words)
            await stage.delete(SESSIONS, "other")
            await stage.run("second")
            assert (await stage.get(PODS, "second") or {})["spec"]["nodeName"] == full
        finally:
            await stage.api.delete(VOLUMES, f"{stage.namespace}-home", into=dict)


async def _provision(stage: Stage, claim: Object, node: str) -> None:
    """Play local-path: a volume on that node, bound to the claim."""
    name = claim["metadata"]["name"]
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{stage.namespace}-home"},
        "spec": {
            "capacity": {"storage": "10Gi"},
            "accessModes": claim["spec"]["accessModes"],
            "storageClassName": "by-hand",
            "hostPath": {"path": "/nonexistent"},
            "claimRef": {"namespace": stage.namespace, "name": name, "uid": claim["metadata"]["uid"]},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    }
    await stage.api.create(VOLUMES, volume, into=msgspec.Raw)

    async def bound() -> bool:
        found = await stage.get(CLAIMS, name) or {}
        return bool(found.get("status", {}).get("phase") == "Bound")

    await eventually(bound, "the home is bound")


async def test_burst_never_exceeds_capacity(stage: Stage) -> None:
    await stage.node("a", gpu="3")
    await stage.node("b", gpu="4")
    template = await gpu_template(stage)
    names = [f"b{number:02}" for number in range(20)]
    async with stage.operator():
        await asyncio.gather(*(stage.session(name, template, user=f"{name}@x.yz") for name in names))
        done: list[str] = []
        while len(done) < len(names):

            async def placed() -> list[Object] | None:
                pods = await stage.all(PODS)
                assert len(pods) <= 7
                ready = [pod for pod in pods if pod["spec"].get("nodeName")]
                return ready if len(ready) == min(7, len(names) - len(done)) else None

            pods = await eventually(placed, "as many as there are GPUs have a node")
            for pod in pods[:3]:
                name = pod["metadata"]["ownerReferences"][0]["name"]
                await stage.end(name)
                done.append(name)
