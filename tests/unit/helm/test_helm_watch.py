"""Progress while helm waits: what is shown as things change, and which reasons count when helm has
failed.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from vdi.cluster.objects import Event, Pod
from vdi.helm.run import Watch, stop_telling
from vdi.kube.errors import Forbidden
from vdi.kube.resource import EVENTS, PODS, Resource

META = {"name": "x", "namespace": "kasm", "uid": "u"}
BACK_OFF = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}
NOT_FOUND = (
    "The image registry.example.com/a:1 cannot be pulled: the registry has no such image; check"
    " name and tag in the chart's values."
)


def a_pod(**status: Any) -> Pod:
    return msgspec.convert(
        {"metadata": META, "spec": {"nodeName": "n1"}, "status": {"phase": "Pending", **status}},
        Pod,
    )


def an_event(
    kind: str, name: str, reason: str, note: str, seen: str = "2026-11-20T00:00:01Z"
) -> Event:
    meta = {"name": "e", "namespace": "kasm"}
    regarding = {"kind": kind, "name": name}
    return msgspec.convert(
        {
            "metadata": meta,
            "regarding": regarding,
            "reason": reason,
            "note": note,
            "eventTime": seen,
        },
        Event,
    )


PULLING = a_pod(
    containerStatuses=[{"name": "c", "image": "registry.example.com/a:1", "state": BACK_OFF}]
)
WHY = an_event("Pod", "x", "Failed", "manifest unknown")
STARTING = a_pod(containerStatuses=[{"name": "c", "state": {"running": {"startedAt": ""}}}])
READY = a_pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}])
DONE = a_pod(phase="Succeeded")


class EnoughError(Exception):
    pass


class Cluster:
    """Answers each look with the next moment; the clock of the watch is its metronome."""

    def __init__(
        self, *moments: list[Pod], events: tuple[Event, ...] = (), forbidden: bool = False
    ) -> None:
        self.moments = list(moments)
        self.events = list(events)
        self.forbidden = forbidden

    async def list(self, resource: Resource, **_: Any) -> list[Any]:
        if self.forbidden:
            raise Forbidden(403, "Forbidden", "no")
        answers: dict[Resource, list[Any]] = {PODS: self.moments[0], EVENTS: self.events}
        return answers[resource]

    async def sleep(self, _: float) -> None:
        self.moments.pop(0)
        if not self.moments:
            raise EnoughError

    def now(self) -> datetime:
        return datetime(2026, 11, 20, tzinfo=UTC)


class View:
    def __init__(self) -> None:
        self.shown: list[str] = []
        self.lines: list[str] = []

    def waiting(self, text: str) -> None:
        self.shown.append(text)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def passed(self, text: str, seconds: float) -> None:
        self.lines.append(text)


async def watched(cluster: Cluster, **more: Any) -> tuple[Watch, View]:
    view = View()
    watch = Watch(cluster, "kasm", view, clock=cluster, **more)  # type: ignore[arg-type]
    with pytest.raises(EnoughError):
        await watch.run()
    return watch, view


async def test_a_stuck_pod_is_reported_once_and_remembered() -> None:
    watch, view = await watched(
        Cluster([STARTING], [PULLING], [PULLING], [STARTING], [], events=(WHY,))
    )
    assert view.lines == [f"  pod/kasm/x: {NOT_FOUND}"]
    assert (
        view.shown[0]
        == "0 of 1 pods ready; pod/kasm/x: The pod is starting and does not respond yet."
    )
    assert [reason.sentence for reason in watch.reasons] == [NOT_FOUND], (
        "the pod is gone, its reason stays"
    )


async def test_reason_without_a_stuck_pod_is_the_missing_pod() -> None:
    watch, view = await watched(Cluster([STARTING], [READY, DONE]))
    assert [reason.sentence for reason in watch.reasons] == [
        "The pod is starting and does not respond yet."
    ]
    assert view.shown[-1] == "2 of 2 pods ready"


async def test_pods_that_a_quota_refuses_are_named() -> None:
    note = 'pods "vdi-gateway-1" is forbidden: exceeded quota: small'
    events = (
        an_event("ReplicaSet", "vdi-gateway", "FailedCreate", note),
        an_event(
            "ReplicaSet", "vdi-gateway", "FailedCreate", "of last week", "2026-11-13T00:00:00Z"
        ),
        an_event("ReplicaSet", "other", "FailedCreate", note),
    )
    watch, _ = await watched(Cluster([], events=events), names=("vdi-",))
    assert watch.reasons == (
        ("replicaset/kasm/vdi-gateway", f"Its pods are refused: {note}.", True),
    )


async def test_pods_of_others_in_the_namespace_are_left_out() -> None:
    watch, view = await watched(Cluster([PULLING]), names=("vdi-",))
    assert watch.reasons == () and view.shown == ["0 of 0 pods ready"]


async def test_an_account_that_may_not_list_pods_waits_all_the_same() -> None:
    view = View()
    await Watch(Cluster([READY], forbidden=True), "kasm", view).run()  # type: ignore[arg-type]
    assert len(view.lines) == 1 and "what is waited for is not shown" in view.lines[0]


async def test_failing_view_is_reported_and_helm_continues() -> None:
    view, begun = View(), asyncio.Event()

    async def tell(fault: Exception | None) -> None:
        begun.set()
        if fault:
            raise fault
        await asyncio.Event().wait()

    for fault in (None, KeyError("status")):
        telling = asyncio.create_task(tell(fault))
        await begun.wait()
        begun.clear()
        await stop_telling(telling, view)
        assert telling.done()
    assert view.lines == ["  (some resources were not shown while waiting: KeyError('status'))"]
