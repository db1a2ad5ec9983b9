"""The live view: what it says as things change, and which reasons count when helm has failed."""

import asyncio
from typing import Any

import msgspec
import pytest

from unit.helm.test_helm_waiting import a_pod, waiting
from vdi.helm.snapshot import Pod
from vdi.helm.watch import Watch, stop_telling
from vdi.kube.errors import Forbidden
from vdi.kube.resource import PODS, SECRETS, SERVICES, Resource
from vdi.session.observed import Event

PULLING = a_pod(containerStatuses=[waiting("ErrImagePull", "manifest unknown")])
STARTING = a_pod(containerStatuses=[{"name": "c", "state": {"running": {"startedAt": ""}}}])
READY = a_pod(phase="Running", conditions=[{"type": "Ready", "status": "True"}])


class EnoughError(Exception):
    pass


class Cluster:
    """Answers each look with the next moment; the clock of the watch is its metronome."""

    def __init__(self, *moments: tuple[list[Pod], bool], forbidden: tuple[Resource, ...] = ()) -> None:
        self.moments = list(moments)
        self.forbidden = forbidden

    async def list(self, resource: Resource, **_: Any) -> list[Any]:
        if resource in self.forbidden:
            raise Forbidden(403, "Forbidden", "no")
        pods, undoing = self.moments[0]
        answers: dict[Resource, list[Any]] = {PODS: pods, SECRETS: [b"{}"] if undoing else []}
        return answers.get(resource, [])

    async def sleep(self, _: float) -> None:
        self.moments.pop(0)
        if not self.moments:
            raise EnoughError

    def now(self) -> Any:
        from datetime import UTC, datetime

        return datetime(2026, 11, 20, tzinfo=UTC)


class View:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.lines: list[str] = []

    def waiting(self, text: str) -> None:
        self.said.append(text)

    def say(self, text: str) -> None:
        self.lines.append(text)


async def watched(cluster: Cluster, **more: Any) -> tuple[Watch, View]:
    view = View()
    watch = Watch(cluster, ["kasm"], view, clock=cluster, **more)  # type: ignore[arg-type]
    with pytest.raises(EnoughError):
        await watch.run()
    return watch, view


async def test_what_is_stuck_is_said_once_and_remembered() -> None:
    watch, view = await watched(Cluster(([STARTING], False), ([PULLING], False), ([PULLING], False), ([], False)))
    assert len(view.lines) == 1 and "pod/kasm/x: The image" in view.lines[0]
    assert view.said[0] == "0 of 1 pods ready; pod/kasm/x: Container c is running but does not respond yet."
    assert [reason.code for reason in watch.reasons] == ["ImageNotFound"], "the pod is gone, why it failed is not"


async def test_without_anything_stuck_the_reason_is_whatever_was_missing() -> None:
    watch, _ = await watched(Cluster(([STARTING], False), ([READY], False)))
    assert [reason.code for reason in watch.reasons] == ["Starting"]


async def test_what_helm_waits_for_while_it_takes_back_is_no_reason() -> None:
    moments = (([PULLING], False), ([STARTING], True), ([STARTING], True))
    watch, view = await watched(Cluster(*moments), release="vdi")
    assert [reason.code for reason in watch.reasons] == ["ImageNotFound"]
    assert view.lines[1:] == ["  It was not ready in time: helm is rolling it back."]
    assert view.said[-1] == "rolled back: 0 of 1 pods ready"


async def test_others_in_the_namespace_are_left_out() -> None:
    watch, view = await watched(Cluster(([PULLING], False)), names=("vdi-",))
    assert watch.reasons == () and view.said == ["0 of 0 pods ready"]


async def test_what_may_not_be_read_is_said_once() -> None:
    _, view = await watched(Cluster(([READY], False), ([READY], False), forbidden=(SERVICES,)))
    assert view.lines == ["  (your account may not list services in kasm: they are not shown)"]


def test_an_event_is_taken_for_what_it_is_about() -> None:
    from vdi.helm.watch import _name

    event = msgspec.convert({"metadata": {"name": "e"}, "regarding": {"name": "vdi-1"}}, Event)
    assert _name(event) == "vdi-1"


async def test_a_view_that_breaks_is_reported_of_and_stops_nothing() -> None:
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
