"""Tells people and Prometheus of what a status change means: at most three Events in a session that goes well."""

from datetime import datetime

from vdi.api.meta import API_VERSION, Condition
from vdi.api.session import SessionStatus, VDISession
from vdi.kube.events import EventRecorder
from vdi.kube.meta import ObjectReference
from vdi.operator.metrics import Metrics
from vdi.session.conditions import ADMITTED, POD_READY, READY, Phase, Reason
from vdi.session.times import parse_time


class Announcer:
    """Called once for each status that was written."""

    def __init__(self, recorder: EventRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics

    def announce(self, before: VDISession, after: VDISession, now: datetime) -> None:
        """Compare the two statuses and say what is worth an Event."""
        old, new = before.status, after.status
        if new.ready_time and new.phase == Phase.RUNNING and (old.ready_time, old.start_time) != _run(new):
            began = old.start_time != new.start_time and old.start_time and new.start_time
            seconds = (now - parse_time(began or after.metadata.creation_timestamp)).total_seconds()
            self._metrics.startup.observe(seconds)
            self._emit(after, "Normal", "Ready", f"The desktop is ready after {seconds:.0f} s: {new.url}", "Start")
        refused = _condition(new, ADMITTED)
        if refused and refused.status == "False" and _differs(_condition(old, ADMITTED), refused):
            self._emit(after, "Warning", refused.reason, refused.message, "Admit")
        elif new.phase == Phase.FAILED and old.phase != Phase.FAILED and (pod := _condition(new, POD_READY)):
            self._emit(after, "Warning", pod.reason, new.message, "Start")
        ready = _condition(new, READY)
        if ready and ready.reason == Reason.TIMED_OUT and old.phase != Phase.TERMINATING:
            self._emit(after, "Normal", Reason.TIMED_OUT, new.message, "Stop")

    def _emit(self, session: VDISession, kind: str, reason: str, note: str, action: str) -> None:
        meta = session.metadata
        subject = ObjectReference(API_VERSION, "VDISession", meta.name, meta.uid, meta.namespace)
        self._recorder.emit(subject, "Warning" if kind == "Warning" else "Normal", reason, note, action)


def _run(status: SessionStatus) -> tuple[str, str]:
    return status.ready_time, status.start_time


def _condition(status: SessionStatus, kind: str) -> Condition | None:
    return next((one for one in status.conditions if one.type == kind), None)


def _differs(old: Condition | None, new: Condition) -> bool:
    return old is None or (old.status, old.reason) != (new.status, new.reason)
