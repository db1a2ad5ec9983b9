"""The pass over all placeholders, with the queue on hand-filled stores and an API server that records."""

from typing import Any, cast

import msgspec
import pytest

from unit.operator.test_operator_queueing import NAMESPACE, World
from vdi.kube.errors import Forbidden
from vdi.kube.transport import Client
from vdi.operator.context import ClusterContext
from vdi.operator.placeholders import PLACEHOLDERS, Placeholders
from vdi.session.autoscaling import AutoscalerEvent, AutoscalingMode, AutoscalingSettings
from vdi.session.capacity import PersistentVolume
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.observed import PersistentVolumeClaim, Pod

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


class Stage(World):
    """A full cluster, and the placeholders' pass."""

    def __init__(self, gpus: int = 1, **settings: Any) -> None:
        super().__init__(gpus, autoscaled=True)
        self.server = FakeServer()
        cluster = ClusterContext(cast(Client, self.server), self.caches, ClusterSettings(), self.clock, NAMESPACE)
        chosen = AutoscalingSettings(
            AutoscalingMode.PLACEHOLDERS, namespace=PLACE, image="i", priority_class="low", **settings
        )
        self.placeholders = Placeholders(cluster, chosen, self.admission, self.node_requests)

    async def sync(self) -> list[str]:
        """One pass; what it sent, without the shape's key."""
        self.server.requests.clear()
        await self.placeholders.reconcile(PLACEHOLDERS)
        return [f"{line.split()[0]} {line.rsplit('-', 1)[1]}" for line in self.server.requests]

    def pods(self) -> list[Pod]:
        return sorted(self.caches.placeholders.values(), key=lambda pod: pod.metadata.name)


async def test_a_placeholder_for_each_session_that_waits_and_none_when_it_has_gone() -> None:
    stage = Stage()
    (running,) = stage.fill(1)
    assert await stage.sync() == []
    waiting = [stage.session(f"w{number}") for number in range(2)]
    assert all(stage.request(session) for session in waiting)
    assert await stage.sync() == ["create 0", "create 1"]
    assert await stage.sync() == [], "nothing is requested twice"
    stage.remove(stage.caches.pods, running)
    assert stage.request(waiting[0]) is None
    assert await stage.sync() == ["delete 1"]
    stage.admission.withdraw("uid-w1")
    assert await stage.sync() == ["delete 0"]
    assert stage.pods() == []


async def test_no_more_placeholders_than_the_limit() -> None:
    stage = Stage(max_placeholders=2)
    stage.fill(1)
    assert all(stage.request(stage.session(f"w{number}")) for number in range(5))
    assert await stage.sync() == ["create 0", "create 1"]


async def test_headroom_is_kept_without_anyone_who_waits() -> None:
    stage = Stage(headroom={"desktop": 2, "unknown": 3})
    assert await stage.sync() == ["create 0", "create 1"]
    assert stage.node_requests == {}, "no session waits"


async def test_a_new_operator_deletes_what_no_one_needs() -> None:
    stage = Stage()
    stage.put(
        stage.caches.placeholders,
        Pod,
        "placeholder-old-0",
        metadata={"namespace": PLACE, "labels": {"vdi.kasm.io/placeholder": "old"}},
    )
    assert await stage.sync() == ["delete 0"]


async def test_a_refusal_is_tried_again_after_a_pause_and_does_not_stop_the_operator() -> None:
    stage = Stage()
    stage.fill(1)
    assert stage.request(stage.session("w"))
    stage.server.refusal = Forbidden(403, "Forbidden", 'no PriorityClass with name "low" was found')
    result = await stage.placeholders.reconcile(PLACEHOLDERS)
    assert result.requeue_after == 30.0
    stage.server.refusal = None
    assert await stage.sync() == ["create 0"]


async def test_the_session_says_what_the_autoscaler_says() -> None:
    stage = Stage()
    stage.fill(1)
    session = stage.session("w")
    before = stage.request(session)
    assert before and not before.queue.node_request_time
    await stage.sync()
    waiting = stage.request(session)
    assert waiting and waiting.blocked.message.endswith("A node was requested at 08:00:00 UTC.")
    assert waiting.queue.node_request_time == "2026-11-20T08:00:00Z"
    (pod,) = stage.pods()
    stage.put(
        stage.caches.autoscaler_events,
        AutoscalerEvent,
        "e",
        regarding={"kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid},
        reason="TriggeredScaleUp",
    )
    assert await stage.sync() == []
    waiting = stage.request(session)
    assert waiting and waiting.blocked.message.endswith("A node is being added (requested at 08:00:00 UTC).")


async def test_a_session_that_no_node_of_today_can_take_stands_in_line() -> None:
    stage = Stage(gpus=0)
    session = stage.session("w")
    assert stage.reported(session) == (1, "NoGPUs")
    home = stage.put(stage.caches.claims, PersistentVolumeClaim, "home", spec={"volumeName": "v"})
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]
    affinity = {"required": {"nodeSelectorTerms": terms}}
    stage.put(stage.caches.volumes, PersistentVolume, "v", spec={"nodeAffinity": affinity})
    waiting = stage.request(session, home)
    assert waiting and (waiting.queue.position, waiting.queue.reason) == (0, "NoGPUs"), "its home is on one machine"
    assert await stage.sync() == []


@pytest.mark.parametrize("change", ["none", "settings"])
async def test_nothing_is_sent_while_nothing_changes(change: str) -> None:
    stage = Stage()
    stage.fill(1)
    assert stage.request(stage.session("w"))
    await stage.sync()
    if change == "settings":
        stage.template = stage.put(stage.caches.templates, type(stage.template), "desktop", spec={"image": "j"})
    assert await stage.sync() == []
