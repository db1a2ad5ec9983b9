"""Writes of a session's status, with the Events and metrics that a change of status means.

A status is written when it has changed: at once where people or programs wait for it, progress at
most every 3 s.
"""

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from vdi.api.meta import Condition, ObjectMeta, find_condition
from vdi.api.pool import VDIPool
from vdi.api.session import Phase, SessionStatus, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import parse_time
from vdi.kinds import SESSIONS, reference_to
from vdi.kube.clock import Clock
from vdi.kube.events import EventRecorder
from vdi.kube.resource import Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.operator.metrics import Metrics
from vdi.printable import escape
from vdi.session.conditions import (
    ADMITTED,
    ENDED_BY_ITSELF,
    OUT_OF_MEMORY,
    POD_READY,
    READY,
    RESIZE_PENDING,
    SIZE_WAITS,
    TEMPLATE_FOUND,
    WARNING_TYPES,
    Reason,
)

T = TypeVar("T")
Kind = TypeVar("Kind", VDIPool, VDITemplate)

# Seconds between two statuses that only report progress.
PROGRESS_PAUSE = 3.0

# The same for pools and templates, which change less often.
CLUSTER_PROGRESS_PAUSE = 1.0

# Seconds for which a start is not reported. A start that is quicker writes one status instead of
# two, and the budget of seven writes (docs/design/architecture.md) depends on it. In a burst it is
# 20 starts per second longer, up to 15 s: the statuses would delay the very starts that they
# report.
START_PAUSE, START_PAUSE_EACH, LONGEST_START_PAUSE = 1.5, 0.05, 15.0


class ClusterStatusWriter(Generic[Kind]):
    """The only writer of the status of one cluster-scoped kind, pools or templates; used by its
    controller.
    """

    def __init__(
        self, client: Client, resource: Resource, into: type[Kind], store: Store[Kind], clock: Clock
    ) -> None:
        self._client = client
        self._resource = resource
        self._into: type[Kind] = into
        self._store: Store[Kind] = store
        self._clock = clock
        # By uid: when it was last written. Lost at a restart: the next progress is then written at
        # once.
        self._written: dict[str, float] = {}

    def seconds_left(self, uid: str) -> float:
        """The seconds for which a status of this object has to wait that only reports progress."""
        return (
            self._written.get(uid, float("-inf")) + CLUSTER_PROGRESS_PAUSE - self._clock.monotonic()
        )

    async def write(self, meta: ObjectMeta, status: dict[str, Any]) -> Kind:
        """Patch the status; returns the object as it is now. Raises KubeError."""
        patch = {"metadata": {"uid": meta.uid}, "status": status}
        patched: Kind = await self._client.patch(
            self._resource, meta.name, patch, subresource="status", into=self._into
        )
        self._written[meta.uid] = self._clock.monotonic()
        self._store.remember(patched)
        return patched

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an object that is gone."""
        self._written.pop(uid, None)

    def exists(self, meta: ObjectMeta) -> bool:
        """Whether the cache still has this very object. Where it does not, its event enqueues what
        has to be done.
        """
        present = self._store.get("", meta.name)
        return present is not None and present.metadata.uid == meta.uid


class StatusWriter:
    """The only writer of a session's `status`; used by its controller."""

    def __init__(self, client: Client, sessions: Store[VDISession], clock: Clock) -> None:
        self._client = client
        self._sessions = sessions
        self._clock = clock
        # By uid: when the status was last written, and until when a start is not reported. Lost at
        # a restart: then the next progress is written at once, and a start is reported a little
        # later.
        self._written: dict[str, float] = {}
        self._unpublished: dict[str, float] = {}

    async def write(
        self,
        session: VDISession,
        desired: SessionStatus,
        *,
        at_once: bool = False,
        if_unchanged: bool = False,
    ) -> tuple[VDISession, float | None]:
        """Patch what has changed; returns the session as it is now, and the seconds until a
        withheld status is due.

        `at_once`: the next step needs the status to be written. `if_unchanged`: only if the session
        is still as it is known here; raises Conflict.
        """
        desired = printable(desired)
        wait = 0.0 if at_once else self._wait(session, desired)
        if wait is None or wait > 0:
            return session, wait
        meta = session.metadata
        if not (changes := difference(session.status, desired)):
            return session, None
        if if_unchanged:
            version = {"resourceVersion": meta.resource_version}
        else:
            version = {}
        patch = {"metadata": {"uid": meta.uid, **version}, "status": changes}
        patched = await self._client.patch(
            SESSIONS,
            meta.name,
            patch,
            namespace=meta.namespace,
            subresource="status",
            into=VDISession,
        )
        self._written[meta.uid] = self._clock.monotonic()
        self._unpublished.pop(meta.uid, None)
        self._sessions.remember(patched)
        return patched, None

    def hold(self, session: VDISession) -> float | None:
        """Seconds until a start that has just begun is to be reported; None where it is to be
        reported now.
        """
        if session.status.phase not in ("", Phase.PENDING):
            return None
        uid, now = session.metadata.uid, self._clock.monotonic()
        crowd = min(LONGEST_START_PAUSE, START_PAUSE_EACH * len(self._unpublished))
        # Fixed when the start begins. The starts before it are done by then, but this one has
        # waited for them.
        return self._unpublished.setdefault(uid, now + max(START_PAUSE, crowd)) - now

    def is_unpublished(self, uid: str) -> bool:
        """Whether a pod was created that no status has reported yet."""
        return uid in self._unpublished

    def forget(self, uid: str) -> None:
        self._written.pop(uid, None)
        self._unpublished.pop(uid, None)

    def _wait(self, session: VDISession, desired: SessionStatus) -> float | None:
        """Seconds until the status may be written, at most 0 where it may be now; None where it
        says nothing new.
        """
        before, uid, now = session.status, session.metadata.uid, self._clock.monotonic()
        # Alone not worth a write, but the first one says that there is an agent.
        if before.last_activity_time and desired.last_activity_time:
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
    """The same status, or part of one, with its texts escaped: kubelet, scheduler and desktops
    contribute to them.
    """
    # Most are ASCII only, and to encode a status is 20 times as fast as a walk through its structs.
    try:
        text = msgspec.json.encode(status).decode()
    except UnicodeEncodeError:  # a lone surrogate
        return _escaped(status)
    if text.isascii() and text.isprintable() and "\\" not in text:
        return status
    return _escaped(status)


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
    """Whether people or programs wait for this change; anything else is progress."""
    # The gateway finds by `status.url` whose rights count at a host, so the address must not lag
    # behind the route.
    told = before.phase, before.url, before.recording
    return told != (now.phase, now.url, now.recording) or any(
        _state(before, kind) != _state(now, kind)
        for kind in (READY, ADMITTED, TEMPLATE_FOUND, *WARNING_TYPES)
    )


def difference(before: SessionStatus, now: SessionStatus) -> dict[str, Any]:
    """A merge patch from one status to another, which removes fields that have become empty."""
    return _merge(msgspec.to_builtins(before), msgspec.to_builtins(now))


def _merge(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        was = old.get(name)
        if was != value:
            if isinstance(was, dict) and isinstance(value, dict):
                changed[name] = _merge(was, value)
            else:
                changed[name] = value
    return changed


class SessionEvents:
    """Events and the startup metric of a status that was written: at most three Events in a session
    that goes well.
    """

    def __init__(self, recorder: EventRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics

    def announce(self, before: VDISession, after: VDISession, now: datetime) -> None:
        """Emit the Events for the difference of two statuses."""
        old, new = before.status, after.status
        self._announce_start(old, after, now)
        self._announce_trouble(old, after)
        self._announce_end(old, after)
        self._announce_warnings(old, after)
        waited = find_condition(old.conditions, RESIZE_PENDING)
        is_same = new.phase == Phase.RUNNING and new.observed_generation == old.observed_generation
        is_over = find_condition(new.conditions, RESIZE_PENDING) is None
        if waited and waited.reason in SIZE_WAITS and is_same and is_over:
            self._emit(
                after, "Normal", "Resized", "The desktop has the size of its spec now.", "Resize"
            )

    def _announce_start(self, old: SessionStatus, after: VDISession, now: datetime) -> None:
        new = after.status
        has_begun = (old.ready_time, old.start_time) != (new.ready_time, new.start_time)
        if new.ready_time and new.phase == Phase.RUNNING and has_begun:
            # A session whose spec was edited may have been suspended for days: its run is measured
            # from its own begin.
            since = new.start_time
            if after.metadata.generation == 1:
                since = after.metadata.creation_timestamp
            seconds = (now - parse_time(since)).total_seconds()
            self._metrics.startup.observe(seconds)
            note = f"The desktop is ready after {seconds:.0f} s: {new.url}"
            self._emit(after, "Normal", "Ready", note, "Start")
        if after.spec.suspended and old.next_start and parse_time(old.next_start) < now:
            note = (
                f"The desktop was not resumed for {old.next_start}, because the operator was not"
                " running then."
            )
            self._emit(after, "Warning", "ScheduledStartMissed", note, "Start")

    def _announce_warnings(self, old: SessionStatus, after: VDISession) -> None:
        for kind in WARNING_TYPES:
            warned = find_condition(after.status.conditions, kind)
            if warned is None:
                continue
            earlier = find_condition(old.conditions, kind)
            # Each kill for want of memory has an Event, also when an earlier one is still shown.
            is_again = kind == OUT_OF_MEMORY and earlier and warned.message != earlier.message
            if earlier is None or is_again:
                self._emit(after, "Warning", warned.reason, warned.message, "Warn")

    def _announce_trouble(self, old: SessionStatus, after: VDISession) -> None:
        new = after.status
        refused = find_condition(new.conditions, ADMITTED)
        pod = find_condition(new.conditions, POD_READY)
        lost = new.failures is not None and (
            old.failures is None or old.failures.time != new.failures.time
        )
        if lost and new.failures:
            self._emit(after, "Warning", new.failures.reason, new.message, "Restart")
        elif new.phase == Phase.SUSPENDED:
            return
        elif (
            refused
            and refused.status == "False"
            and _differs(find_condition(old.conditions, ADMITTED), refused)
        ):
            self._emit(after, "Warning", refused.reason, refused.message, "Admit")
        elif new.phase == Phase.FAILED and old.phase != Phase.FAILED and pod:
            self._emit(after, "Warning", pod.reason, new.message, "Start")
        elif pod and _differs(find_condition(old.conditions, POD_READY), pod):
            if pod.reason == Reason.RESTARTING:
                self._emit(after, "Normal", pod.reason, pod.message, "Restart")
            elif pod.reason == PodReason.NODE_LOST:
                self._emit(after, "Warning", pod.reason, pod.message, "Restart")

    def _announce_end(self, old: SessionStatus, after: VDISession) -> None:
        ready = find_condition(after.status.conditions, READY)
        if (
            ready
            and _differs(find_condition(old.conditions, READY), ready)
            and ready.reason in ENDED_BY_ITSELF | {Reason.SUSPENDED}
        ):
            self._emit(after, "Normal", ready.reason, after.status.message, "Stop")

    def _emit(
        self,
        session: VDISession,
        kind: Literal["Normal", "Warning"],
        reason: str,
        note: str,
        action: str,
    ) -> None:
        self._recorder.emit(reference_to(session), kind, reason, note, action)


def _state(status: SessionStatus, kind: str) -> str | None:
    condition = find_condition(status.conditions, kind)
    return condition.status if condition else None


def _differs(old: Condition | None, new: Condition) -> bool:
    return old is None or (old.status, old.reason) != (new.status, new.reason)
