"""The live view while helm waits: what is not ready in the release's namespaces and why, printed as it changes.

With --atomic the pods that failed are gone when helm ends: the reasons are those that were seen before.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec

from vdi.helm.binary import Helm
from vdi.helm.errors import HelmFailed
from vdi.helm.failures import Failure
from vdi.helm.run import Output, run_helm
from vdi.helm.snapshot import Job, NamespaceSnapshot, Pod, Service
from vdi.helm.waiting import Pending, Situation, assess
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import Forbidden, KubeError
from vdi.kube.resource import CLAIMS, EVENTS, JOBS, PODS, SECRETS, SERVICES, Resource
from vdi.kube.transport import Client
from vdi.session.observed import Event, PersistentVolumeClaim
from vdi.session.times import format_time

T = TypeVar("T")
SECONDS_BETWEEN = 1.5


class View(Protocol):
    """Where progress is shown."""

    def waiting(self, text: str) -> None:
        """What is waited for now."""

    def say(self, text: str) -> None:
        """One line that stays."""


@dataclass
class Watch:
    """Looks at namespaces again and again, and remembers why things were not ready."""

    client: Client
    namespaces: Sequence[str]
    view: View
    names: tuple[str, ...] = ()
    """How the names of the release's objects begin; empty: everything in the namespaces is looked at."""
    clock: Clock = SYSTEM_CLOCK
    release: str = ""
    """The release of the first namespace that helm takes back when it fails: what it waits for then is no reason."""
    reasons: tuple[Pending, ...] = ()
    """Why it was not ready when it was seen last: what is stuck, else whatever was missing."""
    _said: dict[str, str] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)
    _began: str = ""
    _undoing: bool = False

    async def run(self) -> None:
        """Look until cancelled. An API server that does not answer for a while is waited for."""
        self._began = format_time(self.clock.now())
        while True:
            try:
                situations = [assess(await self._read(namespace), self._began) for namespace in self.namespaces]
                self._show(situations, undoing=await self._is_undoing())
            except KubeError as error:
                self.view.waiting(f"the API server does not respond: {error}")
            await self.clock.sleep(SECONDS_BETWEEN)

    async def _is_undoing(self) -> bool:
        if not self.release:
            return False
        selector = f"owner=helm,name={self.release},status in (pending-rollback,uninstalling)"
        found = await self.client.list(SECRETS, namespace=self.namespaces[0], label_selector=selector, into=msgspec.Raw)
        if found and not self._undoing:
            self.view.say("  It was not ready in time: helm is rolling it back.")
        self._undoing = bool(found)
        return self._undoing

    def _show(self, situations: list[Situation], *, undoing: bool) -> None:
        pending = tuple(waiting for situation in situations for waiting in situation.pending)
        now = Situation(
            sum(situation.ready for situation in situations), sum(situation.pods for situation in situations), pending
        )
        if undoing:
            self.view.waiting(f"rolled back: {now.ready} of {now.pods} pods ready")
            return
        if now.stuck or (pending and not any(reason.stuck for reason in self.reasons)):
            self.reasons = now.stuck or pending
        for waiting in now.stuck:
            if self._said.get(waiting.object) != waiting.code:
                self.view.say(f"  {waiting.object}: {waiting.sentence}")
        self._said = {pending.object: pending.code for pending in now.stuck}
        self.view.waiting(now.words)

    async def _read(self, namespace: str) -> NamespaceSnapshot:
        return NamespaceSnapshot(
            *await asyncio.gather(
                self._list(PODS, namespace, Pod),
                self._list(CLAIMS, namespace, PersistentVolumeClaim),
                self._list(JOBS, namespace, Job),
                self._list(SERVICES, namespace, Service),
                self._list(EVENTS, namespace, Event),
            )
        )

    async def _list(self, resource: Resource, namespace: str, into: type[T]) -> list[T]:
        try:
            found = await self.client.list(resource, namespace=namespace, into=into)
            return [obj for obj in found if not self.names or _name(obj).startswith(self.names)]
        except Forbidden:
            if resource.plural not in self._refused:
                self._refused.add(resource.plural)
                self.view.say(f"  (your account may not list {resource.plural} in {namespace}: they are not shown)")
            return []


def _name(obj: Any) -> str:
    """Its own name; of an Event that of what it is about."""
    return str(obj.regarding.name if isinstance(obj, Event) else obj.metadata.name)


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


def with_reasons(failure: Failure, reasons: Sequence[Pending]) -> Failure:
    """A failure to become ready, with what was not ready and why; every other failure as it is."""
    if failure.code not in ("NotReadyInTime", "Unknown") or not reasons:
        return failure
    lines = "".join(f"\n  {reason.object}: {reason.sentence}" for reason in reasons)
    return failure._replace(sentence=f"{failure.sentence}{lines}\n")
