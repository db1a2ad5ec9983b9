"""Writes a session's status when it says something new, and emits the Events and metrics that the change means.

The beginning of a start is held back for 1.5 s: a start that is quicker writes one status instead of two, and the
budget of seven writes (docs/design/architecture.md) depends on it.
"""

from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec

from vdi.api.meta import API_VERSION, Condition
from vdi.api.session import Phase, SessionStatus, VDISession
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import parse_time
from vdi.kinds import SESSIONS
from vdi.kube.clock import Clock
from vdi.kube.events import EventRecorder
from vdi.kube.meta import ObjectReference
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.operator.metrics import Metrics
from vdi.printable import escape
from vdi.session.conditions import ADMITTED, ENDED_BY_ITSELF, POD_READY, READY, TEMPLATE_FOUND, WARNING_TYPES, Reason

T = TypeVar("T")

# Seconds between two notes on progress.
PROGRESS_PAUSE = 3.0

# Seconds for which the beginning of a start may go unsaid.
START_PAUSE, START_PAUSE_EACH, LONGEST_START_PAUSE = 1.5, 0.05, 15.0


class StatusWriter:
    """The only writer of `status`."""

    def __init__(self, client: Client, sessions: Store[VDISession], clock: Clock) -> None:
        self._client = client
        self._sessions = sessions
        self._clock = clock
        # By uid: when we last wrote, and until when a start may go unsaid. They live as long as the session; after a
        # restart the next note comes at once, and a start goes unsaid for a little longer.
        self._written: dict[str, float] = {}
        self._unpublished: dict[str, float] = {}

    async def write(
        self, session: VDISession, desired: SessionStatus, *, at_once: bool = False, if_unchanged: bool = False
    ) -> tuple[VDISession, float | None]:
        """Patch what has changed, if anything; gives the session as it is now, and the seconds until a note is due.

        `at_once`: what is done next needs the status to be written. `if_unchanged`: only where the session is as it is
        known here; raises Conflict.
        """
        desired = printable(desired)
        wait = 0.0 if at_once else self._wait(session, desired)
        if wait is None:
            return session, None
        if wait > 0:
            return session, wait
        meta = session.metadata
        changes = difference(session.status, desired)
        if not changes:
            return session, None
        version = {"resourceVersion": meta.resource_version} if if_unchanged else {}
        patch = {"metadata": {"uid": meta.uid, **version}, "status": changes}
        patched = await self._client.patch(
            SESSIONS, meta.name, patch, namespace=meta.namespace, subresource="status", into=VDISession
        )
        self._written[meta.uid] = self._clock.monotonic()
        self._unpublished.pop(meta.uid, None)
        self._sessions.remember(patched)
        return patched, None

    def hold(self, session: VDISession) -> float | None:
        """A desktop is on its way: seconds until that is said, if it may go unsaid for a while."""
        if session.status.phase not in ("", Phase.PENDING):
            return None
        uid, now = session.metadata.uid, self._clock.monotonic()
        crowd = min(LONGEST_START_PAUSE, START_PAUSE_EACH * len(self._unpublished))
        # Fixed when it begins: those before it are done by then, but it has waited for them.
        return self._unpublished.setdefault(uid, now + max(START_PAUSE, crowd)) - now

    def is_unpublished(self, uid: str) -> bool:
        """Whether a pod was made of which the status does not know yet."""
        return uid in self._unpublished

    def forget(self, uid: str) -> None:
        """The session is gone."""
        self._written.pop(uid, None)
        self._unpublished.pop(uid, None)

    def _wait(self, session: VDISession, desired: SessionStatus) -> float | None:
        """Seconds until this may be written; None: it says nothing new."""
        before, uid, now = session.status, session.metadata.uid, self._clock.monotonic()
        if before.last_activity_time != desired.last_activity_time:  # changes all the time: goes with the next one
            before = msgspec.structs.replace(before, last_activity_time=desired.last_activity_time)
        if before == desired:
            self._unpublished.pop(uid, None)
            return None
        if desired.phase == Phase.CREATING and (wait := self.hold(session)) is not None:
            return wait
        if _is_significant(before, desired):
            return 0.0
        return self._written.get(uid, float("-inf")) + PROGRESS_PAUSE - now


def printable(status: T) -> T:
    """A status, or a part of one, with all texts escaped: kubelet, scheduler and desktops have a part in them."""
    # Most have only ASCII, and encoding all of it is 20 times as fast as a walk through the structs.
    try:
        text = msgspec.json.encode(status).decode()
    except UnicodeEncodeError:  # a lone surrogate
        return _escaped(status)
    return status if text.isascii() and text.isprintable() and "\\" not in text else _escaped(status)


def _escaped(part: T) -> T:
    escaped: Any = part
    if isinstance(part, str):
        escaped = escape(part, "\n")
    elif isinstance(part, tuple):
        escaped = tuple(map(_escaped, part))
    elif isinstance(part, msgspec.Struct):
        fields = {name: _escaped(getattr(part, name)) for name in part.__struct_fields__}
        escaped = msgspec.structs.replace(part, **fields)
    return cast(T, escaped)


def _is_significant(before: SessionStatus, now: SessionStatus) -> bool:
    """What people and programs wait for is written at once; the rest is a note on progress.

    The gateway knows by the address whose rights count at a host, so it must not lag behind the route.
    """
    return (before.phase, before.url) != (now.phase, now.url) or any(
        _holds(before, kind) != _holds(now, kind) for kind in (READY, ADMITTED, TEMPLATE_FOUND, *WARNING_TYPES)
    )


def _holds(status: SessionStatus, kind: str) -> str | None:
    return next((condition.status for condition in status.conditions if condition.type == kind), None)


def difference(before: SessionStatus, now: SessionStatus) -> dict[str, Any]:
    """A merge patch from one status to another: fields that have become empty are removed."""
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(now)
    return _merge(old, new)


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        was = old.get(name)
        if was != value:
            changed[name] = _merge(was, value) if isinstance(was, dict) and isinstance(value, dict) else value
    return changed


class SessionEvents:
    """Called once for each status that was written."""

    def __init__(self, recorder: EventRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics

    def announce(self, before: VDISession, after: VDISession, now: datetime) -> None:
        """Compare the two statuses and say what is worth an Event."""
        old, new = before.status, after.status
        if new.ready_time and new.phase == Phase.RUNNING and (old.ready_time, old.start_time) != _run(new):
            # A spec that has been edited may have been suspended for days: such a run is measured from its own begin.
            asked = after.metadata.creation_timestamp if after.metadata.generation == 1 else new.start_time
            seconds = (now - parse_time(asked)).total_seconds()
            self._metrics.startup.observe(seconds)
            self._emit(after, "Normal", "Ready", f"The desktop is ready after {seconds:.0f} s: {new.url}", "Start")
        if after.spec.suspended and old.next_start and parse_time(old.next_start) < now:
            note = f"The desktop was not resumed for {old.next_start}, because the operator was not running then."
            self._emit(after, "Warning", "ScheduledStartMissed", note, "Start")
        self._announce_trouble(old, after)
        self._announce_end(old, after)
        for kind in WARNING_TYPES:
            if (warned := _condition(new, kind)) and _condition(old, kind) is None:
                self._emit(after, "Warning", warned.reason, warned.message, "Warn")

    def _announce_trouble(self, old: SessionStatus, after: VDISession) -> None:
        new = after.status
        refused = _condition(new, ADMITTED)
        pod = _condition(new, POD_READY)
        lost = new.failures is not None and (old.failures is None or old.failures.time != new.failures.time)
        if lost and new.failures:
            self._emit(after, "Warning", new.failures.reason, new.message, "Restart")
        elif new.phase == Phase.SUSPENDED:
            return
        elif refused and refused.status == "False" and _differs(_condition(old, ADMITTED), refused):
            self._emit(after, "Warning", refused.reason, refused.message, "Admit")
        elif new.phase == Phase.FAILED and old.phase != Phase.FAILED and pod:
            self._emit(after, "Warning", pod.reason, new.message, "Start")
        elif (
            pod and pod.reason in (Reason.RESTARTING, PodReason.NODE_LOST) and _differs(_condition(old, POD_READY), pod)
        ):
            kind = "Normal" if pod.reason == Reason.RESTARTING else "Warning"
            self._emit(after, kind, pod.reason, pod.message, "Restart")

    def _announce_end(self, old: SessionStatus, after: VDISession) -> None:
        new = after.status
        ready = _condition(new, READY)
        if ready is None or not _differs(_condition(old, READY), ready):
            return
        if ready.reason in ENDED_BY_ITSELF | {Reason.SUSPENDED}:
            self._emit(after, "Normal", ready.reason, new.message, "Stop")

    def _emit(self, session: VDISession, kind: str, reason: str, note: str, action: str) -> None:
        meta = session.metadata
        subject = ObjectReference(API_VERSION, "VDISession", meta.name, meta.uid, meta.namespace)
        self._recorder.emit(subject, "Warning" if kind == "Warning" else "Normal", reason, note, action)


def _run(status: SessionStatus) -> tuple[str, str]:
    return status.ready_time, status.start_time


def _condition(status: SessionStatus, kind: str) -> Condition | None:
    return next((condition for condition in status.conditions if condition.type == kind), None)


def _differs(old: Condition | None, new: Condition) -> bool:
    return old is None or (old.status, old.reason) != (new.status, new.reason)
