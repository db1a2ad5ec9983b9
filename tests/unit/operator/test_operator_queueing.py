"""The queue on the operator's own stores, filled by hand: admission, wake-ups and published
positions.
"""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from unit.operator.operator_world import NAMESPACE, OperatorWorld
from vdi.api.session import VDISession
from vdi.cluster.capacity import Demand
from vdi.cluster.objects import ForeignPod, Node, PersistentVolume, PersistentVolumeClaim, Pod
from vdi.cluster.units import format_time
from vdi.gateway.queue_message import queue_message
from vdi.gateway.web.template_filters import local_times
from vdi.operator.queue_positions import PublishedPosition
from vdi.operator.queueing import QueueManager
from vdi.session.autoscaling import NodeRequest
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Desktop, resolve
from vdi.session.naming import STORAGE, USER_ANNOTATION

GPU = "nvidia.com/gpu"


ABLE: dict[str, Any] = {
    "nodeInfo": {
        "kubeletVersion": "1.36",
        "kernelVersion": "6.8",
        "containerRuntimeVersion": "containerd://2.4",
    },
    "runtimeHandlers": [{"name": "", "features": {"userNamespaces": True}}],
}


class QueueWorld(OperatorWorld):
    """One node with GPUs, and the queue in front of it: its first look is at the first ask."""

    def __init__(self, gpus: int = 2, *, autoscaled: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.woken: list[str] = []
        self.yielded: list[str] = []
        self.waited: list[float] = []
        self.node_requests: dict[Demand, NodeRequest] = {}
        self.admission = QueueManager(
            self.cluster,
            weights={},
            node_requests=self.node_requests if autoscaled else None,
            on_admitted=self.waited.append,
            enqueue=lambda key: self.woken.append(key[1]),
            yield_capacity=self._yield,
        )
        self.template = self.put_template()
        self.node("n1", gpus)

    def _yield(self, pods: Iterable[Pod]) -> None:
        self.yielded += [pod.metadata.name for pod in pods]

    def node(
        self, name: str, gpus: int = 2, *, features: dict[str, Any] | None = None, **spec: Any
    ) -> Node:
        status = (features or {}) | {
            "allocatable": {GPU: str(gpus), "cpu": "8", "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        labels = {"kubernetes.io/hostname": name}
        return self.put(
            self.caches.nodes, Node, name, metadata={"labels": labels}, spec=spec, status=status
        )

    def session(
        self, name: str, *, status: dict[str, Any] | None = None, **spec: Any
    ) -> VDISession:
        return self.put_session(name, status=status, **{"user": f"{name}@x.yz"} | spec)

    def request(
        self, session: VDISession, home: PersistentVolumeClaim | None = None
    ) -> PublishedPosition | None:
        desktop = resolve(session, self.template, ClusterSettings())
        assert isinstance(desktop, Desktop)
        return self.admission.request(session, desktop, home)

    def pod(
        self, name: str, *, owner: str = "", node: str = "n1", gpu: int = 1, **fields: Any
    ) -> Pod:
        metadata: dict[str, Any] = {"annotations": {USER_ANNOTATION: f"{owner}@x.yz"}}
        if fields.pop("pool", False):
            pool = {
                "apiVersion": "v",
                "kind": "VDIPool",
                "name": "p",
                "uid": "uid-p",
                "controller": True,
            }
            metadata["ownerReferences"] = [pool]
        requests = {"cpu": "250m", "memory": "1Gi", GPU: str(gpu)}
        spec = {"nodeName": node, "containers": [{"resources": {"requests": requests}}]}
        metadata |= fields.pop("metadata", {})
        return self.put(self.caches.pods, Pod, name, owner, metadata=metadata, spec=spec, **fields)

    def fill(self, count: int) -> list[Pod]:
        """Desktops that run already."""
        return [self.pod(f"r{number}", owner=f"r{number}") for number in range(count)]

    def reported(self, session: VDISession) -> tuple[int, str]:
        waiting = self.request(session)
        assert waiting
        return waiting.queue.position, waiting.queue.reason


@pytest.fixture
def world() -> QueueWorld:
    """With one GPU."""
    return QueueWorld(gpus=1)


def test_capacity_of_an_admitted_session_is_kept_for_its_pod(world: QueueWorld) -> None:
    first, second = world.session("first"), world.session("second")
    assert world.request(first) is None
    assert world.reported(second) == (1, "GPUsBusy")
    assert world.request(first) is None, "asked again, before its pod is in the caches"
    pod = world.pod("first", owner="first", node="")
    assert world.reported(second) == (1, "GPUsBusy")
    world.remove(world.caches.pods, pod)
    assert world.woken == ["second"]
    world.clock.forward(seconds=3)
    assert world.request(second) is None
    assert world.request(first), "its capacity went with its pod"
    assert world.waited == [0.0, 3.0]


def test_run_keeps_its_capacity_while_its_pod_is_replaced(world: QueueWorld) -> None:
    running, waiting = world.session("running"), world.session("waiting")
    assert world.request(running) is None
    pod = world.pod("running", owner="running")
    assert world.request(waiting)
    world.remove(world.caches.pods, pod)
    assert world.woken == []
    assert world.request(waiting)
    assert world.request(running) is None
    world.remove(world.caches.pods, world.pod("running-2", owner="running"))
    world.admission.withdraw("uid-running")
    assert world.woken == ["waiting"], "it is given up, or pauses after a loss"


@pytest.mark.parametrize(
    "change", [{"suspended": True}, {"resources": {"gpu": 1, "cpu": "1", "memory": "99Ti"}}]
)
def test_session_that_cannot_run_loses_its_capacity(
    world: QueueWorld, change: dict[str, Any]
) -> None:
    running, waiting = world.session("running"), world.session("waiting")
    assert world.request(running) is None
    pod = world.pod("running", owner="running")
    assert world.request(waiting)
    world.session("running", **change)
    world.remove(world.caches.pods, pod)
    assert world.woken == ["waiting"]


def test_capacity_on_a_cordoned_node_is_lost(world: QueueWorld) -> None:
    world.node("n2", 1)
    running, waiting = world.session("running"), world.session("waiting")
    assert world.request(running) is None
    pod = world.pod("running", owner="running")
    world.node("n1", 1, unschedulable=True)
    assert world.request(waiting) is None
    world.remove(world.caches.pods, pod)
    assert world.reported(running) == (1, "GPUsBusy")


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_ended_pod_takes_no_capacity(world: QueueWorld, phase: str) -> None:
    (pod,) = world.fill(1)
    waiting = world.session("waiting")
    assert world.request(waiting)
    world.pod(pod.metadata.name, owner="r0", status={"phase": phase})
    assert world.woken == ["waiting"]


def test_pods_of_others_count_in_every_namespace() -> None:
    for name in ("foreign_pods", "foreign_pods_elsewhere"):
        world = QueueWorld(gpus=1)
        store = getattr(world.caches, name)
        spec = {"nodeName": "n1", "containers": [{"resources": {"requests": {GPU: "1"}}}]}
        theirs = world.put(store, ForeignPod, "training", spec=spec)
        waiting = world.request(world.session("waiting"))
        assert waiting and "(1 by other workloads)" in waiting.blocked.message
        world.remove(store, theirs)
        assert world.woken == ["waiting"]


def test_heartbeat_of_a_node_does_not_change_the_queue(world: QueueWorld) -> None:
    before = world.admission._queue.changes
    world.node("n1", 1)
    assert world.admission._queue.changes == before
    world.node("n1", 2)
    assert world.admission._queue.changes > before


def waited_since(moment: str, place: int) -> dict[str, Any]:
    condition = {
        "type": "Admitted",
        "status": "False",
        "reason": "GPUsBusy",
        "lastTransitionTime": moment,
    }
    return {"conditions": [condition], "queue": {"position": place, "reason": "GPUsBusy"}}


def test_restart_keeps_order_and_waiting_times(world: QueueWorld) -> None:
    world.fill(1)
    second = world.session("second", status=waited_since("2026-11-20T07:00:00Z", 2))
    first = world.session("first", status=waited_since("2026-11-20T07:00:00Z", 1))
    longest = world.session("longest", status=waited_since("2026-11-20T06:00:00Z", 3))
    newcomer = world.session("newcomer")
    assert world.request(newcomer)
    order = [
        one.uid for one in world.admission._queue.order(int(world.clock.now().timestamp() * 1000))
    ]
    assert order == [f"uid-{one.metadata.name}" for one in (longest, first, second, newcomer)]
    assert round(max(world.admission.waits())) == 7200


NO_ROOM = {
    "count": 1,
    "reason": "NoGPUFree",
    "message": "No room.",
    "time": "2026-11-20T08:00:15Z",
    "generation": 1,
}


@pytest.mark.parametrize(
    ("node", "position", "waited"), [("", 1, 7500), ("n1", 2, 0)], ids=["refused", "scheduled"]
)
def test_waiting_time_outlives_a_refusal_by_the_scheduler(
    world: QueueWorld, node: str, position: int, waited: int
) -> None:
    """Alice's pod is taken back, and she pauses; a pod that was on a node has ended the wait."""
    world.session("bob", status=waited_since("2026-11-20T07:00:00Z", 2))
    (pod,) = world.fill(1)
    alice = world.session("alice", status=waited_since("2026-11-20T05:55:00Z", 1))
    assert world.request(alice)
    world.remove(world.caches.pods, pod)
    assert world.request(alice) is None
    pod = world.pod("alice", owner="alice", node="")
    if node:
        pod = world.pod("alice", owner="alice", node=node)
    spec = {"nodeName": "n1", "containers": [{"resources": {"requests": {GPU: "1"}}}]}
    world.put(world.caches.foreign_pods, ForeignPod, "training", spec=spec)
    admitted = {"type": "Admitted", "status": "True", "reason": "Admitted"}
    alice = world.session("alice", status={"conditions": [admitted], "failures": NO_ROOM})
    world.remove(world.caches.pods, pod)
    world.admission.withdraw("uid-alice")
    assert world.reported(alice)[0] == position
    assert [round(seconds) for seconds in world.admission.waits()] == [
        3600,
        waited,
    ], "bob, then alice"
    world.admission.forget(alice.metadata.uid)
    assert world.admission._granted_since == {}, "nothing is kept of a session that is gone"


@pytest.mark.parametrize(("hours", "by"), [(11, "19:00 UTC"), (30, "2026-11-21T14:00:00Z")])
def test_expected_time_of_another_day_has_its_date(world: QueueWorld, hours: int, by: str) -> None:
    """In both sentences; the portal shows either form in the browser's time zone, on the right
    day.
    """
    world.fill(1)
    slot = world.clock.now() + timedelta(hours=hours)
    world.session("r0", status={"phase": "Running", "expiresAt": format_time(slot)})
    waiting = world.request(world.session("alice"))
    assert waiting
    assert waiting.blocked.message.endswith(f" Capacity is expected by {by}.")
    status = {"message": waiting.blocked.message, "queue": msgspec.to_builtins(waiting.queue)}
    said = queue_message(world.session("alice", status=status))
    assert said.endswith(f"not enough suitable GPUs are free. Capacity is expected by {by}.")
    assert f'<time datetime="{format_time(slot)}"' in local_times(said, world.clock.now())


def test_restart_admits_no_newcomer_before_waiting_sessions(world: QueueWorld) -> None:
    world.session("waiting", status=waited_since("2026-11-20T07:00:00Z", 1))
    assert world.request(world.session("newcomer"))
    assert world.woken == ["waiting"]


def test_waiting_time_counts_from_creation_and_apart_for_gpus() -> None:
    world = QueueWorld(gpus=0)
    early = world.session("early")
    world.clock.forward(minutes=5)
    world.request(early)
    assert world.admission.waits() == world.admission.waits(gpu=True) == [300.0]
    world.node("n1", unschedulable=True)
    world.template = world.put_template(resources={"defaultGPU": 0})
    world.request(world.session("without"))
    assert world.admission.waits() == [300.0, 0.0]
    assert world.admission.waits(gpu=True) == [300.0]


def test_pods_without_a_node_count_after_a_restart(world: QueueWorld) -> None:
    world.pod("made", owner="made", node="")
    assert world.request(world.session("waiting"))


def test_far_positions_are_published_again_only_when_they_matter() -> None:
    world = QueueWorld(gpus=0)
    world.node("n1", 1)
    pods = world.fill(1)
    sessions = [world.session(f"s{number:02}") for number in range(40)]
    for session in sessions:
        world.request(session)
    assert world.reported(sessions[30]) == (31, "GPUsBusy")
    before = world.request(sessions[30])
    for number in (0, 1):
        world.admission.withdraw(f"uid-s{number:02}")
    assert world.reported(sessions[5])[0] == 4, "near the front every step is published"
    assert world.request(sessions[30]) is before, "two of 31 are not worth a write"
    world.admission.withdraw("uid-s02")
    assert world.reported(sessions[30])[0] == 28
    assert pods


async def test_gpus_that_are_free_are_published_as_they_change() -> None:
    world = QueueWorld(gpus=4)
    world.template = world.put_template(resources={"defaultGPU": 1, "maxGPU": 4})
    pods = world.fill(3)
    session = world.session("large", resources={"gpu": 4})
    assert (waiting := world.request(session)) and waiting.queue.available_gpu == 1
    world.remove(world.caches.pods, pods[0])
    await world.admission._enqueue_outdated(int(world.clock.now().timestamp() * 1000))
    assert world.woken == ["large"]
    assert (waiting := world.request(session)) and waiting.queue.available_gpu == 2
    assert world.request(world.session("large", resources={"gpu": 2})) is None


async def test_sessions_with_a_changed_position_are_woken(world: QueueWorld) -> None:
    world.fill(1)
    sessions = [world.session(f"s{number}") for number in range(3)]
    for session in sessions:
        world.request(session)
    world.admission.withdraw("uid-s0")
    await world.admission._enqueue_outdated(int(world.clock.now().timestamp() * 1000))
    assert world.woken == ["s1", "s2"]


async def test_unused_capacity_is_taken_back(world: QueueWorld) -> None:
    pods = world.fill(1)
    first, second = world.session("first"), world.session("second")
    world.request(first)
    world.request(second)
    world.remove(world.caches.pods, pods[0])
    assert world.woken == ["first"]
    world.clock.forward(seconds=31)
    world.admission._drop_unclaimed(int(world.clock.now().timestamp() * 1000))
    assert world.woken == ["first", "second"]
    assert world.request(second) is None


def test_home_requires_the_node_of_its_volume(world: QueueWorld) -> None:
    world.node("n2", 1)
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n2"]}
    terms = [{"matchExpressions": [expression]}]
    world.put(
        world.caches.volumes,
        PersistentVolume,
        "v",
        spec={"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}},
    )
    home = world.put(world.caches.claims, PersistentVolumeClaim, "home", spec={"volumeName": "v"})
    world.pod("r0", owner="r0", node="n2")
    waiting = world.request(world.session("tied"), home)
    assert waiting and waiting.queue.reason == "HomeNodeFull"
    assert world.request(world.session("free")) is None


def test_pools_yield_as_many_desktops_as_sessions_wait() -> None:
    world = QueueWorld(gpus=3)
    for number in range(3):
        world.pod(f"pool-{number}", pool=True)
    first, second = world.session("first"), world.session("second")
    assert world.request(first)
    assert len(world.yielded) == 1
    assert world.request(first), "asked again: it is on its way"
    assert len(world.yielded) == 1
    assert world.request(second)
    assert len(set(world.yielded)) == 2
    gone = world.caches.pods.get(NAMESPACE, world.yielded[0])
    world.remove(world.caches.pods, gone)
    assert world.woken == ["first"]
    assert len(world.yielded) == 2


def test_pool_is_refused_while_a_session_waits(world: QueueWorld) -> None:
    session = world.session("one")
    desktop = resolve(session, world.template, ClusterSettings())
    assert isinstance(desktop, Desktop)
    assert world.admission.request_for_pool("p-1", desktop) is None
    refused = world.admission.request_for_pool("p-2", desktop)
    assert refused and refused.reason == "GPUsBusy" and "all" not in refused.message
    world.admission.withdraw("p-1")
    assert world.request(session) is None
    assert world.request(world.session("two"))
    world.admission.withdraw("uid-one")
    refused = world.admission.request_for_pool("p-2", desktop)
    assert refused and world.woken == ["two"]


def test_session_with_a_desktop_of_a_pool_leaves_the_queue(world: QueueWorld) -> None:
    pod = world.pod("pool-1", pool=True)
    session = world.session("alice")
    assert world.request(session)
    world.pod(pod.metadata.name, owner="alice")
    assert world.admission.waits() == []
    assert world.admission._queue._running == {"alice@x.yz": 1}


def test_isolation_follows_the_nodes_and_the_volumes_of_the_class() -> None:
    world = QueueWorld()
    session = world.session("alice")

    def obstacle() -> str:
        desktop = resolve(session, world.template, ClusterSettings())
        assert isinstance(desktop, Desktop)
        isolation = world.admission.isolate(desktop).isolation
        assert isolation.user_namespace == (not isolation.obstacle)
        return isolation.obstacle

    assert "node n1 has kubelet of unknown version" in obstacle()
    world.node("n1", features=ABLE)
    assert "StorageClass 'local-path' is not known" in obstacle()
    world.put(
        world.caches.volumes,
        PersistentVolume,
        "pv",
        spec={"storageClassName": "local-path", "hostPath": {}},
    )
    assert obstacle() == ""
    world.node("too-small", gpus=0)
    assert obstacle() == ""


def test_required_waits_until_a_node_is_updated() -> None:
    world = QueueWorld()
    world.template = world.put_template(isolation={"userNamespaces": "Required"})
    session = world.session("alice")
    waiting = world.request(session)
    assert waiting and waiting.queue.reason == "NodeFeatureMissing" and waiting.queue.position == 0
    world.node("n1", features=ABLE)
    assert world.woken == ["alice"] and world.request(session) is None


ERROR = "failed to set MOUNT_ATTR_IDMAP on /volumes/pv: invalid argument"
REFUSED = {"terminated": {"exitCode": 128, "reason": "StartError", "message": ERROR}}


@pytest.mark.parametrize("mode", ["Auto", "Required"])
def test_refused_user_namespace_is_remembered_for_the_class_for_an_hour(mode: str) -> None:
    """Auto goes on without; Required waits, and asks for no capacity meanwhile."""
    world = QueueWorld()
    world.node("n1", features=ABLE)
    world.template = world.put_template(isolation={"userNamespaces": mode})
    desktop = resolve(world.session("alice"), world.template, ClusterSettings())
    assert isinstance(desktop, Desktop)
    for storage_class in ("local-path", "fast"):
        volume: dict[str, Any] = {"storageClassName": storage_class, "hostPath": {}}
        world.put(world.caches.volumes, PersistentVolume, f"pv-{storage_class}", spec=volume)
    refused = world.put(
        world.caches.claims, PersistentVolumeClaim, "home", spec={"volumeName": "pv-local-path"}
    )
    other = world.put(
        world.caches.claims, PersistentVolumeClaim, "other", spec={"volumeName": "pv-fast"}
    )
    failed = {"containerStatuses": [{"name": "desktop", "state": REFUSED}]}
    annotations = {STORAGE: world.admission.isolate(desktop, refused).isolation.storage}
    pod = world.pod("alice", owner="alice", status=failed, metadata={"annotations": annotations})
    world.admission.note_refusal(pod)
    assert world.admission.isolate(desktop, refused).isolation.user_namespace, (
        "the pod had no user namespace"
    )
    pod.spec.host_users = False
    world.admission.note_refusal(pod)
    for home in (refused, None):  # a new home of this class, too
        isolation = world.admission.isolate(desktop, home).isolation
        assert isolation.obstacle == "node n1 has no idmapped mounts for StorageClass 'local-path'"
        assert isolation.user_namespace == (mode == "Required")
    blocked = world.admission.find_refusal(desktop, refused)
    assert (blocked is not None) == (mode == "Required")
    if blocked:
        assert blocked.reason == "NoIdmappedMounts" and 'userNamespaces: "Off"' in blocked.message
    assert not world.admission.find_refusal(desktop, other)
    assert world.admission.isolate(desktop, other).isolation.user_namespace
    world.clock.forward(seconds=3601)
    assert world.admission.isolate(desktop, refused).isolation.user_namespace
    assert not world.admission.find_refusal(desktop, refused)
