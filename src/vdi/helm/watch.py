"""Progress while helm waits: pods of the release that are not ready and why, in the sentences of status and doctor.

With --atomic the pods that failed are gone when helm ends: the reasons are those that were seen before.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from vdi.helm.binary import Helm
from vdi.helm.errors import HelmFailed
from vdi.helm.failures import Failure
from vdi.helm.run import Output, run_helm
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import Forbidden, KubeError
from vdi.kube.resource import EVENTS, PODS, Resource
from vdi.kube.transport import Client
from vdi.session.explain import StartState, explain
from vdi.session.observed import Event, Pod
from vdi.session.pulling import first_line
from vdi.session.subject import chart_subject
from vdi.session.times import format_time

T = TypeVar("T", Pod, Event)
SECONDS_BETWEEN = 1.5


class View(Protocol):
    """Where progress is shown."""

    def waiting(self, text: str) -> None:
        """What is waited for now."""

    def say(self, text: str) -> None:
        """One line that stays."""


class NotReady(NamedTuple):
    """An object that is not ready."""

    object: str
    """`pod/kasm/vdi-operator-...`."""
    sentence: str
    stuck: bool
    """False: an ordinary step of a start."""


@dataclass
class Watch:
    """Looks at namespaces again and again, and remembers why pods were not ready."""

    client: Client
    namespaces: Sequence[str]
    view: View
    names: tuple[str, ...] = ()
    """How the names of the release's objects begin; empty: everything in the namespaces is looked at."""
    clock: Clock = SYSTEM_CLOCK
    reasons: tuple[NotReady, ...] = ()
    """Why it was not ready when it was seen last: what is stuck, else whatever was missing."""
    _shown: set[tuple[str, str]] = field(default_factory=set)

    async def run(self) -> None:
        """Look until cancelled. An API server that does not answer for a while is waited for."""
        began = format_time(self.clock.now())
        while True:
            try:
                await self._look(began)
            except Forbidden as error:
                self.view.say(f"  (what is waited for is not shown: {error})")
                return
            except KubeError as error:
                self.view.waiting(f"the API server does not respond: {error}")
            await self.clock.sleep(SECONDS_BETWEEN)

    async def _look(self, began: str) -> None:
        pods, events = await asyncio.gather(self._list(PODS, Pod), self._list(EVENTS, Event))
        pods = [pod for pod in pods if not pod.terminating and pod.metadata.name.startswith(self.names or "")]
        waiting = [not_ready(pod, events) for pod in pods if not pod.ready and pod.status.phase != "Succeeded"]
        missing = [refused(event) for event in events if self._refuses_a_pod(event, began)]
        now = tuple(dict.fromkeys([*missing, *waiting]))
        stuck = tuple(reason for reason in now if reason.stuck)
        if stuck or (now and not any(reason.stuck for reason in self.reasons)):
            self.reasons = stuck or now
        for reason in stuck:
            if (reason.object, reason.sentence) not in self._shown:
                self._shown.add((reason.object, reason.sentence))
                self.view.say(f"  {reason.object}: {reason.sentence}")
        first = next(iter(stuck or now), None)
        why = f"; {first.object}: {first.sentence}" if first else ""
        self.view.waiting(f"{len(pods) - len(waiting)} of {len(pods)} pods ready{why}")

    def _refuses_a_pod(self, event: Event, began: str) -> bool:
        return (
            event.reason == "FailedCreate" and event.seen >= began and event.regarding.name.startswith(self.names or "")
        )

    async def _list(self, resource: Resource, into: type[T]) -> list[T]:
        found = await asyncio.gather(
            *(self.client.list(resource, namespace=namespace, into=into) for namespace in self.namespaces)
        )
        return [obj for objects in found for obj in objects]


def not_ready(pod: Pod, events: Sequence[Event]) -> NotReady:
    """Why a pod is not ready, as the doctor says it."""
    meta = pod.metadata
    about = tuple(
        event
        for event in events
        if (event.regarding.kind, event.regarding.name) == ("Pod", meta.name)
        and event.metadata.namespace == meta.namespace
    )
    explanation = explain(StartState(pod, events=about, subject=chart_subject("pod")))
    return NotReady(f"pod/{meta.namespace}/{meta.name}", explanation.sentence, explanation.stuck)


def refused(event: Event) -> NotReady:
    """Pods that admission or a quota refuses: only an Event of what makes them says so."""
    about = f"{event.regarding.kind.lower()}/{event.metadata.namespace}/{event.regarding.name}"
    return NotReady(about, f"Its pods are refused: {first_line(event.note)}", stuck=True)


async def run_watched(helm: Helm, arguments: Sequence[str], watch: Watch, *, stdin: bytes | None = None) -> Output:
    """Run helm while the view shows what it waits for. Raises HelmFailed, with the reasons, and HelmInterrupted."""
    watching = asyncio.create_task(watch.run())
    try:
        return await run_helm(helm, arguments, stdin=stdin, say=watch.view.say)
    except HelmFailed as error:
        raise HelmFailed(error.what, with_reasons(error.failure, watch.reasons)) from error
    finally:
        await stop_telling(watching, watch.view)


async def stop_telling(telling: "asyncio.Task[None]", view: View) -> None:
    """Stop watching. Print a fault of the watch: helm's own work goes on without it."""
    telling.cancel()
    (ended,) = await asyncio.gather(telling, return_exceptions=True)
    if isinstance(ended, Exception):
        view.say(f"  (some resources were not shown while waiting: {ended!r})")


def with_reasons(failure: Failure, reasons: Sequence[NotReady]) -> Failure:
    """A failure to become ready, with what was not ready and why; every other failure as it is."""
    if failure.code not in ("NotReadyInTime", "Unknown") or not reasons:
        return failure
    lines = "".join(f"\n  {reason.object}: {reason.sentence}" for reason in reasons)
    return failure._replace(sentence=f"{failure.sentence}{lines}\n")
