"""Claims and refills against an API server of our own, with real caches; the test plays the
kubelet.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from support.desktop_key import KEY
from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from unit.operator.operator_world import NAMESPACE as NS
from unit.operator.operator_world import OperatorWorld
from vdi.cluster.objects import Pod
from vdi.kube.errors import ConnectionFailed, ServerError
from vdi.kube.resource import PODS
from vdi.kube.store import Store
from vdi.kube.transport import NO_RETRY, Client
from vdi.operator.controllers.pool import PoolController, PoolDesktops
from vdi.operator.owned_resources import OwnedResource, UncertainCreates
from vdi.operator.pool_claims import CALM_SECONDS, PoolClaims
from vdi.operator.queueing import QueueManager
from vdi.operator.release_keys import ReleaseKey
from vdi.session.children import Secret
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.credentials import derive_pool_tokens
from vdi.session.decide import Observed
from vdi.session.effective import Blocked, Desktop, resolve

SETTINGS = ClusterSettings()
TEMPLATE = {"image": "registry.example.com/desktop:1", "persistence": {"enabled": False}}


class PoolWorld(OperatorWorld):
    """Caches over an API server with one template, one node and one pool."""

    def __init__(self, api: FakeApi, client: Client) -> None:
        super().__init__(client, start=datetime(2026, 11, 20, 9, tzinfo=UTC))
        self.api = api
        self.due: set[str] = set()
        self.key = cast(ReleaseKey, SimpleNamespace(value=KEY, known=True))
        pods = OwnedResource(client, PODS, Pod, self.caches.pods)
        self.pools = PoolClaims(
            self.cluster, pods, self.recorder, self.key, lambda name, _: self.due.add(name)
        )
        self.room: list[Blocked | None] = []
        self.asked: list[str] = []
        self.noted: list[str] = []
        self.refusal: Blocked | None = None
        self.withdrawn: list[str] = []
        self.woken: list[tuple[str, str]] = []
        self.controller = PoolController(
            self.cluster,
            self.pools,
            PoolDesktops(
                self.cluster, self.pools, cast(QueueManager, self), UncertainCreates(pods), self.key
            ),
            enqueue=lambda name, _: self.due.add(name),
            enqueue_session=self.woken.append,
        )

    def request_for_pool(self, pod: str, desktop: Desktop) -> Blocked | None:
        self.asked.append(pod)
        return self.room.pop(0) if self.room else None

    def note_refusal(self, pod: Pod) -> None:
        self.noted.append(pod.metadata.name)

    def find_refusal(self, _desktop: Desktop) -> Blocked | None:
        return self.refusal

    def isolate(self, desktop: Desktop) -> Desktop:
        return desktop

    def withdraw(self, uid: str) -> None:
        self.withdrawn.append(uid)

    def template(self, **spec: Any) -> None:
        before = self.api.objects.get(
            ("vditemplates", "", "desktop"), {"metadata": {"generation": 0}}
        )
        metadata = {"generation": before["metadata"]["generation"] + 1}
        self.api.put(
            "vditemplates", "desktop", namespace="", metadata=metadata, spec={**TEMPLATE, **spec}
        )

    def pool(self, ready: int) -> None:
        metadata = {"generation": 1, "uid": "uid-warm"}
        spec = {"template": "desktop", "replicas": ready}
        self.api.put("vdipools", "warm", namespace="", metadata=metadata, spec=spec)

    def node(self, *, cordoned: bool = False) -> None:
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.api.put(
            "nodes", "node-1", namespace="", spec={"unschedulable": cordoned}, status=status
        )

    def session(self, name: str = "alice", **spec: Any) -> Any:
        spec = {"user": f"{name}@example.com", "template": "desktop", **spec}
        return self.api.put("vdisessions", name, namespace=NS, spec=spec)

    def start(self, name: str) -> None:
        """Play scheduler and kubelet."""
        made = {"creationTimestamp": "2026-11-20T08:59:00Z"}
        container = {"name": "desktop", "state": {"running": {"startedAt": "2026-11-20T08:59:01Z"}}}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-20T08:59:02Z"}
        status = {"phase": "Running", "conditions": [ready], "containerStatuses": [container]}
        spec = {**self.api.objects["pods", NS, name]["spec"], "nodeName": "node-1"}
        self.api.put("pods", name, namespace=NS, metadata=made, spec=spec, status=status)

    def live(self, plural: str) -> dict[str, Any]:
        """Objects of a kind by name, as the API server has them."""
        return {name: one for (kind, _, name), one in self.api.objects.items() if kind == plural}

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.live("vdipools")["warm"].get("status", {})
        return status

    async def synced(self) -> None:
        """The watches have brought everything that has been done so far."""

        def is_known(plural: str) -> bool:
            store: Store[Any] = getattr(self.caches, plural.removeprefix("vdi"))
            known = {one.metadata.name: one.metadata.resource_version for one in store.values()}
            return known == {
                name: one["metadata"]["resourceVersion"] for name, one in self.live(plural).items()
            }

        for plural in ("pods", "secrets", "nodes", "vditemplates", "vdipools", "vdisessions"):
            await eventually(partial(is_known, plural), f"{plural} are known")

    async def fill(self) -> list[str]:
        """Reconcile until the pool's desktops run; gives the names of those that wait."""
        await self.synced()
        self.clock.seconds += 1.0
        await self.controller.reconcile("warm")
        for name, pod in self.live("pods").items():
            if "status" not in pod:
                self.start(name)
        await self.synced()
        await self.controller.reconcile("warm")
        return [pod.metadata.name for pod in self.pools.waiting_in("warm")]

    async def claim(self, name: str = "alice", **observed: Any) -> Pod | None:
        await self.synced()
        session = self.caches.sessions.get(NS, name)
        template = self.caches.templates.get("", "desktop")
        assert session and template
        desktop = resolve(session, template, SETTINGS)
        assert isinstance(desktop, Desktop)
        return await self.pools.claim(Observed(session, template=template, **observed), desktop)


@pytest.fixture
async def world() -> AsyncIterator[PoolWorld]:
    async with (
        fake_api() as api,
        Client(api.config(), field_manager="vdi-operator", retry=NO_RETRY) as client,
    ):
        world = PoolWorld(api, client)
        world.template()
        world.node()
        world.pool(2)
        tasks = [asyncio.create_task(reflector.run()) for reflector in world.caches.reflectors]
        try:
            await asyncio.wait_for(world.caches.wait_synced(), PATIENCE)
            yield world
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_pool_starts_desktops_each_with_a_secret_of_its_own(world: PoolWorld) -> None:
    names = await world.fill()
    assert len(names) == 2 and set(names) == set(world.live("pods")) == set(world.asked)
    for name in names:
        pod, secret = world.live("pods")[name], world.live("secrets")[f"{name}-auth"]
        assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == [
            pod["metadata"]["uid"]
        ]
        tokens = derive_pool_tokens(KEY, namespace=NS, pod=name)
        assert (secret["stringData"]["password"], secret["stringData"]["agentToken"]) == (
            tokens.password,
            tokens.agent,
        )
    assert (world.status["ready"], world.status.get("message")) == (2, None)
    world.api.requests.clear()
    await world.synced()
    await world.controller.reconcile("warm")
    writes = [
        request for request in world.api.requests if request[0] in ("POST", "PATCH", "DELETE")
    ]
    assert writes == [], "nothing to do"


async def test_claimed_desktop_is_the_same_pod_with_another_owner(world: PoolWorld) -> None:
    names = await world.fill()
    before = world.live("pods")
    made = world.session()
    await world.synced()
    world.api.requests.clear()
    pod = await world.claim()
    assert pod is not None and pod.metadata.name == min(names)
    assert [request[0] for request in world.api.requests if "watch" not in request[1]] == [
        "PATCH"
    ], "no Secret is read"
    was, after = before[pod.metadata.name], world.live("pods")[pod.metadata.name]
    meta = after["metadata"]
    assert (meta["uid"], after["spec"], after["status"]) == (
        was["metadata"]["uid"],
        was["spec"],
        was["status"],
    )
    (owner,) = meta["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("VDISession", made["metadata"]["uid"])
    assert meta["labels"]["vdi.kasm.io/session"] == "alice"
    assert meta["labels"]["vdi.kasm.io/hold"] == "true"
    assert meta["annotations"]["vdi.kasm.io/user"] == "alice@example.com"
    assert meta["annotations"]["vdi.kasm.io/run-started"] == "2026-11-20T09:00:00Z"
    assert world.caches.pods.by_owner(made["metadata"]["uid"]), "known at once, without the watch"
    world.clock.seconds += CALM_SECONDS
    await world.fill()
    assert (world.status["ready"], world.status["claimed"], len(world.live("pods"))) == (2, 1, 3)


async def test_pool_starts_no_desktop_while_people_claim(world: PoolWorld) -> None:
    await world.fill()
    world.session("alice")
    world.session("bob")
    await world.claim("alice")
    await world.synced()
    result = await world.controller.reconcile("warm")
    assert len(world.live("pods")) == 2
    assert result.requeue_after is not None and 0 < result.requeue_after <= CALM_SECONDS
    world.clock.seconds += CALM_SECONDS - 0.1
    await world.claim("bob")
    await world.synced()
    await world.controller.reconcile("warm")
    assert len(world.live("pods")) == 2, "the second claim counts, too"
    world.clock.seconds += CALM_SECONDS
    await world.controller.reconcile("warm")
    assert len(world.live("pods")) == 4


async def test_claims_that_do_not_end_keep_no_pool_empty(world: PoolWorld) -> None:
    world.pool(4)
    await world.fill()
    for name in ("alice", "bob", "carol"):
        world.session(name)
        await world.claim(name)
        world.clock.seconds += CALM_SECONDS - 0.3
    world.session("dave")
    await world.claim("dave")
    await world.synced()
    await world.controller.reconcile("warm")
    assert len(world.live("pods")) == 8, "3 s after the first claim, and however many follow"


async def test_last_desktop_is_claimed_by_one_of_two_sessions(world: PoolWorld) -> None:
    world.pool(1)
    await world.fill()
    world.session("alice")
    world.session("bob")
    got = await asyncio.gather(world.claim("alice"), world.claim("bob"))
    assert sum(1 for one in got if one) == 1
    assert await world.claim("bob") is None or await world.claim("alice") is None


async def test_claim_survives_a_change_of_the_pod(world: PoolWorld) -> None:
    await world.fill()
    world.session()
    world.api.faults.append(("PATCH", refusal(409, "Conflict")))
    assert await world.claim() is not None
    assert world.api.count("GET") > 0


async def test_pod_that_became_unready_is_not_claimed(world: PoolWorld) -> None:
    world.pool(1)
    (name,) = await world.fill()
    world.session()
    await world.synced()

    async def turn_unready(request: Any) -> Any:
        conditions = [{"type": "Ready", "status": "False"}]
        world.api.put(
            "pods", name, namespace=NS, status={"phase": "Running", "conditions": conditions}
        )
        return await refusal(409, "Conflict")(request)

    world.api.faults.append(("PATCH", turn_unready))
    assert await world.claim() is None


@pytest.mark.parametrize("is_retried", [True, False])
async def test_lost_answer_to_a_claim_does_no_harm(world: PoolWorld, is_retried: bool) -> None:
    """The patch was executed, its answer lost: a second try meets a newer version, which is ours
    already.
    """
    world.pool(1)
    (name,) = await world.fill()
    made = world.session()

    async def execute(request: Any) -> Any:
        world.api._do("PATCH", "pods", NS, name, await request.json())
        if not is_retried:
            request.transport.abort()
        return await refusal(409, "Conflict")(request)

    world.api.faults.append(("PATCH", execute))
    if is_retried:
        pod = await world.claim()
        assert pod and pod.metadata.name == name
    else:
        with pytest.raises(ConnectionFailed):
            await world.claim()
    await world.synced()
    assert [pod.metadata.name for pod in world.caches.pods.by_owner(made["metadata"]["uid"])] == [
        name
    ]


@pytest.mark.parametrize("change", ["cordoned", "other-template", "home", "password"])
async def test_desktop_that_does_not_fit_is_not_claimed(world: PoolWorld, change: str) -> None:
    """A session that was suspended, or has lost its pod, keeps its Secret: its users know the
    password.
    """
    await world.fill()
    if change == "cordoned":
        world.node(cordoned=True)
    if change == "other-template":
        world.template(image="registry.example.com/desktop:2")
    secret = (
        msgspec.convert({"metadata": {"name": "alice-auth"}}, Secret)
        if change == "password"
        else None
    )
    world.session(persistence={"enabled": change == "home"})
    for _ in range(2):
        assert await world.claim(secret=secret) is None
    reported = [(name, reason) for name, reason, _ in world.said]
    assert reported == ([("alice", "NotFromPool")] if change in ("home", "password") else []), (
        "once"
    )


async def test_another_key_replaces_the_waiting_desktops(world: PoolWorld) -> None:
    old = await world.fill()
    world.key.value = b"n" * 32  # type: ignore[misc]  # what another leader reads
    world.session()
    assert await world.claim() is None, "the gateway could not open it"
    new = old
    for _ in range(4):  # they are replaced one after the other
        new = await world.fill()
    assert len(new) == 2 and not set(old) & set(new)


async def test_pool_without_capacity_yields_to_sessions(world: PoolWorld) -> None:
    world.room = [Blocked("GPUsBusy", "All 8 GPUs are taken.")] * 9
    await world.fill()
    assert world.live("pods") == {}
    assert world.status["message"] == "0 of 2 desktops are ready. All 8 GPUs are taken."
    world.room.clear()
    names = await world.fill()
    world.due.clear()
    world.pools.yield_capacity(
        [pod for pod in world.pools.waiting_in("warm") if pod.metadata.name == names[0]]
    )
    assert world.due == {"warm"}
    world.room = [Blocked("GPUsBusy", "Somebody waits.")] * 9
    world.session()
    await world.controller.reconcile("warm")
    assert set(world.live("pods")) == {names[1]}


async def test_desktop_claimed_behind_the_cache_is_not_removed(world: PoolWorld) -> None:
    """The last claim of the leader before, which our caches have not seen yet."""
    world.pool(1)
    (name,) = await world.fill()
    world.api.silent = True
    owner = {
        "apiVersion": "v",
        "kind": "VDISession",
        "name": "alice",
        "uid": "u",
        "controller": True,
    }
    world.api.put("pods", name, namespace=NS, metadata={"ownerReferences": [owner]})
    (seen,) = world.pools.waiting_in("warm")
    world.pools.yield_capacity([seen])
    await world.controller.reconcile("warm")
    assert name in world.live("pods")


async def test_outdated_desktop_is_replaced_when_there_is_capacity(world: PoolWorld) -> None:
    names = await world.fill()
    world.template(image="registry.example.com/desktop:2")
    await world.synced()
    world.room = [Blocked("TooLarge", "No node could ever hold it.")]
    await world.controller.reconcile("warm")
    assert set(world.live("pods")) == set(names), "they would go in vain"
    world.room = [Blocked("GPUsBusy", "All taken.")]
    await world.controller.reconcile("warm")
    assert len(set(world.live("pods")) & set(names)) == 1
    await world.fill()
    await world.fill()
    assert not set(world.live("pods")) & set(names)
    assert {pod["spec"]["containers"][0]["image"][-1] for pod in world.live("pods").values()} == {
        "2"
    }


async def test_failed_desktops_are_replaced_after_a_pause(world: PoolWorld) -> None:
    world.pool(1)
    (name,) = await world.fill()
    world.api.put("pods", name, namespace=NS, status={"phase": "Failed", "reason": "Evicted"})
    await world.synced()
    result = await world.controller.reconcile("warm")
    assert (world.live("pods"), result.requeue_after) == ({}, 10.0)
    assert "has ended (Evicted)" in world.status["message"]
    assert world.status["conditions"][0]["reason"] == "DesktopsFail"
    world.clock.wall = world.clock.wall.replace(second=11)
    assert len(await world.fill()) == 1


async def test_pool_that_requires_idmapped_mounts_waits_without_capacity(world: PoolWorld) -> None:
    """The queue hears of each desktop that goes, since its node may have refused the user
    namespace.
    """
    world.pool(1)
    (name,) = await world.fill()
    world.asked.clear()
    error = {
        "reason": "RunContainerError",
        "message": "failed to set MOUNT_ATTR_IDMAP on /x: invalid argument",
    }
    status = {
        "phase": "Pending",
        "containerStatuses": [{"name": "desktop", "state": {"waiting": error}}],
    }
    world.api.put("pods", name, namespace=NS, status=status, spec={"hostUsers": False})
    await world.synced()
    world.refusal = Blocked("NoIdmappedMounts", "The template requires a user namespace.")
    result = await world.controller.reconcile("warm")
    assert (world.noted, world.live("pods"), world.asked) == ([name], {}, [])
    assert "requires a user namespace" in world.status["message"] and result.requeue_after == 5.0


async def test_desktop_without_a_secret_gets_one(world: PoolWorld) -> None:
    """The operator was killed between the two writes."""
    world.pool(1)
    await world.synced()

    async def let_pass(_request: Any) -> None:
        return None

    world.api.faults += [("POST", let_pass), ("POST", refusal(500, "as if killed"))]
    with pytest.raises(ServerError):
        await world.controller.reconcile("warm")
    assert (len(world.live("pods")), world.live("secrets")) == (1, {})
    (name,) = await world.fill()
    assert set(world.live("secrets")) == {f"{name}-auth"}


@pytest.mark.parametrize(
    ("code", "message", "seconds"),
    [
        (403, "exceeded by the test", 30.0),
        (400, 'admission webhook "pods.example.com" denied the request: no', 30.0),
        (500, 'failed calling webhook "pods.example.com": EOF', 5.0),
    ],
)
async def test_refused_pod_is_reported_and_returns_its_capacity(
    world: PoolWorld, code: int, message: str, seconds: float
) -> None:
    world.pool(1)
    await world.synced()
    world.api.faults.append(("POST", refusal(code, "Refused", message=message)))
    result = await world.controller.reconcile("warm")
    assert world.withdrawn == world.asked
    ready, *_ = world.status["conditions"]
    assert ready["reason"] == "Refused" and message in ready["message"]
    assert result.requeue_after == seconds


async def test_uncertain_create_keeps_its_capacity_until_it_is_known(world: PoolWorld) -> None:
    await world.synced()
    world.api.faults.append(("POST", refusal(500, "trouble")))
    with pytest.raises(ServerError):
        await world.controller.reconcile("warm")
    (other,) = world.live("pods")
    assert f"{other}-auth" in world.live("secrets"), "the other one was made to its end"
    assert world.withdrawn == [], "it may have been made all the same"
    asked = list(world.asked)
    world.api.faults.append(("GET", refusal(500, "trouble")))
    with pytest.raises(ServerError):
        await world.controller.reconcile("warm")
    assert (world.withdrawn, world.asked) == ([], asked), "it is still not known"
    assert len(await world.fill()) == 2
    assert world.withdrawn == [name for name in asked if name != other]


async def test_waiting_session_is_woken_by_a_desktop_that_fits(world: PoolWorld) -> None:
    world.session("with-home", persistence={"enabled": True})
    world.session("waiting")
    await world.fill()
    assert set(world.woken) == {(NS, "waiting")}


async def test_node_template_pool_and_pods_enqueue_the_pool(world: PoolWorld) -> None:
    await world.fill()
    changes: tuple[Callable[[], None], ...] = (
        lambda: world.node(cordoned=True),
        lambda: world.template(displayName="x"),
        lambda: world.pool(3),
        lambda: world.api.remove("pods", next(iter(world.live("pods"))), namespace=NS),
    )
    for change in changes:
        world.due.clear()
        change()
        await world.synced()
        assert world.due == {"warm"}
