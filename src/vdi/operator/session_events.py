"""Tells people and Prometheus of what a status change means: at most three Events in a session that goes well."""

from datetime import datetime

from vdi.api.meta import API_VERSION, Condition
from vdi.api.session import Phase, SessionStatus, VDISession
from vdi.kube.events import EventRecorder
from vdi.kube.meta import ObjectReference
from vdi.operator.metrics import Metrics
from vdi.session.conditions import ADMITTED, ENDED_BY_ITSELF, POD_READY, READY, WARNING_TYPES, Reason
from vdi.session.times import parse_time


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
        elif pod and pod.reason in (Reason.RESTARTING, Reason.NODE_LOST) and _differs(_condition(old, POD_READY), pod):
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
