"""The end of a run, and of a session, against an API server that is ahead of its watch."""

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from unit.operator.operator_world import NAMESPACE, START, OperatorWorld
from vdi.api.session import VDISession
from vdi.cluster.objects import Pod
from vdi.cluster.units import format_time
from vdi.kube.errors import Conflict
from vdi.kube.transport import Client
from vdi.operator.agents import Agents
from vdi.operator.controllers.session import SessionController
from vdi.operator.metrics import Metrics
from vdi.operator.owned_resources import OwnedResources, UncertainCreates
from vdi.operator.pool_claims import PoolClaims
from vdi.operator.queueing import QueueManager
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.status import SessionEvents
from vdi.session.naming import FINALIZER

KEY = (NAMESPACE, "alice")


class FakeServer:
    """Has one session; checks resourceVersions as the API server does, and notes what it has
    done.
    """

    def __init__(self) -> None:
        self.session: dict[str, Any] = {}
        self.done: list[str] = []
        # So many writes are done before someone extends the session.
        self.extend_after = 0
        self.field_manager = "vdi-operator"

    async def patch(
        self, _kind: object, _name: str, patch: dict[str, Any], **where: Any
    ) -> VDISession:
        self._expect(patch["metadata"].get("resourceVersion"))
        if "finalizers" in patch["metadata"]:
            return self._release(patch["metadata"]["finalizers"])
        self._merge({name: value for name, value in patch.items() if name != "metadata"})
        self.done.append("status" if where.get("subresource") else f"spec {patch['spec']}")
        return msgspec.convert(self.session, VDISession)

    async def delete(
        self, _kind: object, _name: str, *, resource_version: str | None = None, **_: Any
    ) -> None:
        self._expect(resource_version)
        self.done.append("delete")

    def _release(self, finalizers: list[str]) -> VDISession:
        """An update that leaves no finalizer deletes: the answer has the version from before."""
        self.done.append(f"finalizers {finalizers}")
        self.session["metadata"] = {**self.session["metadata"], "finalizers": finalizers}
        if finalizers:
            self._merge({})
        return msgspec.convert(self.session, VDISession)

    def _expect(self, version: str | None) -> None:
        if len(self.done) == self.extend_after:
            self._merge({"spec": {"timeout": "4h"}})
        if version not in (None, self.session["metadata"]["resourceVersion"]):
            raise Conflict(409, "Conflict", "the object has been modified")

    def _merge(self, changes: dict[str, Any]) -> None:
        for name, values in changes.items():
            self.session[name] = {**self.session[name], **values}
        version = int(self.session["metadata"]["resourceVersion"]) + 1
        self.session["metadata"] = {**self.session["metadata"], "resourceVersion": str(version)}


class EndingWorld(OperatorWorld):
    """A session whose time of one hour is over."""

    def __init__(self, on_timeout: str, **metadata: object) -> None:
        self.server = FakeServer()
        super().__init__(cast(Client, self.server))
        self.put_template(lifecycle={"onTimeout": on_timeout})
        session = self.put_session(
            timeout="1h",
            metadata={"finalizers": [FINALIZER], **metadata},
            status={"phase": "Running"},
        )
        self.server.session = msgspec.to_builtins(session)
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        metadata = {"creationTimestamp": format_time(START)}
        self.put(self.caches.pods, Pod, "alice", "alice", metadata=metadata, status=status)
        self.clock.forward(hours=1)

    def controller(self) -> SessionController:
        client, key = self.cluster.client, cast(ReleaseKey, SimpleNamespace(value=b"k" * 32))
        owned = OwnedResources(client, self.caches)
        return SessionController(
            self.cluster,
            owned,
            UncertainCreates(owned.pods),
            key,
            key,
            queue=cast(QueueManager, SimpleNamespace(withdraw=lambda _: None)),
            pools=cast(PoolClaims, None),
            agents=cast(Agents, SimpleNamespace(report=lambda _: None)),
            reports=None,
            events=SessionEvents(self.recorder, Metrics()),
        )


@pytest.mark.parametrize("on_timeout", ["Terminate", "Suspend"])
@pytest.mark.parametrize("writes", [0, 1])
async def test_extension_just_before_the_end_wins(on_timeout: str, writes: int) -> None:
    world = EndingWorld(on_timeout)
    world.server.extend_after = writes
    with pytest.raises(Conflict):
        await world.controller().reconcile(KEY)
    assert world.server.done == ["status"] * writes
    reported = [reason for _, reason, _ in world.said]
    assert reported == ["TimedOut"] * writes, (
        "it is not reported that the time is over before that is certain"
    )


@pytest.mark.parametrize(("others", "is_known"), [([], False), (["example.com/hold"], True)])
async def test_deleted_session_is_released_once_ahead_of_the_watch(
    others: list[str], is_known: bool
) -> None:
    world = EndingWorld(
        "Terminate", deletionTimestamp=format_time(START), finalizers=[FINALIZER, *others]
    )
    world.server.extend_after = -1
    controller = world.controller()
    for _ in range(2):  # the second because of a child that is gone
        await controller.reconcile(KEY)
    assert [done for done in world.server.done if done.startswith("finalizers")] == [
        f"finalizers {others}"
    ]
    assert (world.caches.sessions.get(*KEY) is not None) is is_known
