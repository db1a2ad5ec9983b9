"""The pass over all placeholders, with the queue on hand-filled stores and an API server that
records.
"""

from typing import Any, cast

import msgspec

from unit.operator.operator_world import NAMESPACE
from unit.operator.test_operator_queueing import QueueWorld
from vdi.cluster.objects import PersistentVolume, PersistentVolumeClaim, Pod
from vdi.kube.errors import Forbidden
from vdi.kube.transport import Client
from vdi.operator.caches import ClusterContext
from vdi.operator.controllers.placeholders import PLACEHOLDERS, Placeholders
from vdi.session.autoscaling import AutoscalerEvent, AutoscalingSettings
from vdi.session.cluster_settings import ClusterSettings

PLACE = "vdi-placeholders"


class FakeServer:
    """Creates and deletes pods, and counts the requests."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.refusal: Exception | None = None
        self._version = 1000

    async def create(self, _resource: object, body: dict[str, Any], **_: object) -> msgspec.Raw:
        name = body["metadata"]["name"]
        self.requests.append(f"create {name}")
        if self.refusal:
            raise self.refusal
        self._version += 1
        made = {"uid": f"uid-{self._version}", "resourceVersion": str(self._version)}
        made["creationTimestamp"] = "2026-11-20T08:00:00Z"
        return msgspec.Raw(msgspec.json.encode({**body, "metadata": {**body["metadata"], **made}}))

    async def delete(self, _resource: object, name: str, **_: object) -> None:
        self.requests.append(f"delete {name}")


class PlaceholderWorld(QueueWorld):
    """A full cluster, and the placeholders' pass."""

    def __init__(self, gpus: int = 1, **settings: Any) -> None:
        super().__init__(gpus, autoscaled=True)
        self.server = FakeServer()
        cluster = ClusterContext(
            cast(Client, self.server), self.caches, ClusterSettings(), self.clock, (NAMESPACE,)
        )
        chosen = AutoscalingSettings(namespace=PLACE, image="i", priority_class="low", **settings)
        self.placeholders = Placeholders(cluster, chosen, self.admission, self.node_requests)

    async def sync(self) -> list[str]:
        """One pass; what it sent, without the shape's key."""
        self.server.requests.clear()
        await self.placeholders.reconcile(PLACEHOLDERS)
        return [f"{line.split()[0]} {line.rsplit('-', 1)[1]}" for line in self.server.requests]

    def pods(self) -> list[Pod]:
        return sorted(self.caches.placeholders.values(), key=lambda pod: pod.metadata.name)


async def test_each_waiting_session_has_a_placeholder() -> None:
    world = PlaceholderWorld()
    (running,) = world.fill(1)
    assert await world.sync() == []
    waiting = [world.session(f"w{number}") for number in range(2)]
    assert all(world.request(session) for session in waiting)
    assert await world.sync() == ["create 0", "create 1"]
    assert await world.sync() == [], "nothing is requested twice"
    world.remove(world.caches.pods, running)
    assert world.request(waiting[0]) is None
    assert await world.sync() == ["delete 1"]
    world.admission.withdraw("uid-w1")
    assert await world.sync() == ["delete 0"]
    assert world.pods() == []


async def test_no_more_placeholders_than_the_limit() -> None:
    world = PlaceholderWorld(max_placeholders=2)
    world.fill(1)
    assert all(world.request(world.session(f"w{number}")) for number in range(5))
    assert await world.sync() == ["create 0", "create 1"]


async def test_headroom_is_kept_without_waiting_sessions() -> None:
    world = PlaceholderWorld(headroom={"desktop": 2, "unknown": 3})
    assert await world.sync() == ["create 0", "create 1"]
    assert world.node_requests == {}, "no session waits"


async def test_new_operator_deletes_unneeded_placeholders() -> None:
    world = PlaceholderWorld()
    world.put(
        world.caches.placeholders,
        Pod,
        "placeholder-old-0",
        metadata={"namespace": PLACE, "labels": {"vdi.kasm.io/placeholder": "old"}},
    )
    assert await world.sync() == ["delete 0"]


async def test_refused_placeholder_is_retried_after_a_pause() -> None:
    world = PlaceholderWorld()
    world.fill(1)
    assert world.request(world.session("w"))
    world.server.refusal = Forbidden(403, "Forbidden", 'no PriorityClass with name "low" was found')
    result = await world.placeholders.reconcile(PLACEHOLDERS)
    assert result.requeue_after == 30.0
    world.server.refusal = None
    assert await world.sync() == ["create 0"]


async def test_status_follows_the_autoscalers_events() -> None:
    world = PlaceholderWorld()
    world.fill(1)
    session = world.session("w")
    before = world.request(session)
    assert before and not before.queue.node_request_time
    await world.sync()
    waiting = world.request(session)
    assert waiting and waiting.blocked.message.endswith("A node was requested at 08:00:00 UTC.")
    assert waiting.queue.node_request_time == "2026-11-20T08:00:00Z"
    (pod,) = world.pods()
    world.put(
        world.caches.autoscaler_events,
        AutoscalerEvent,
        "e",
        regarding={"kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid},
        reason="TriggeredScaleUp",
    )
    assert await world.sync() == []
    waiting = world.request(session)
    assert waiting and waiting.blocked.message.endswith(
        "A node is being added (requested at 08:00:00 UTC)."
    )


async def test_session_for_a_future_node_has_a_queue_position() -> None:
    world = PlaceholderWorld(gpus=0)
    session = world.session("w")
    assert world.reported(session) == (1, "NoGPUs")
    home = world.put(world.caches.claims, PersistentVolumeClaim, "home", spec={"volumeName": "v"})
    terms = [
        {
            "matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}
            ]
        }
    ]
    affinity = {"required": {"nodeSelectorTerms": terms}}
    world.put(world.caches.volumes, PersistentVolume, "v", spec={"nodeAffinity": affinity})
    waiting = world.request(session, home)
    assert waiting and (waiting.queue.position, waiting.queue.reason) == (
        0,
        "NoGPUs",
    ), "its home is on one machine"
    assert await world.sync() == []


async def test_new_settings_alone_send_nothing() -> None:
    world = PlaceholderWorld()
    world.fill(1)
    assert world.request(world.session("w"))
    await world.sync()
    world.template = world.put_template(image="j")
    assert await world.sync() == []
