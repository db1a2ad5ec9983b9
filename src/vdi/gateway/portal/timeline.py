"""What has happened to one desktop, as a person reads it; from the history's rows."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from vdi.api.session import VDISession
from vdi.gateway.history.component import Past
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.store.history import EndReason, RunRow

_SHOWN = 30
_ENDED = {
    EndReason.USER: "Ended by its owner",
    EndReason.ADMIN: "Ended by an administrator",
    EndReason.TIMEOUT: "Time limit reached",
    EndReason.IDLE: "Idle timeout",
    EndReason.SUSPENDED: "Suspended",
    EndReason.FAILED: "Failed",
    EndReason.DELETED: "Deleted in the cluster",
    EndReason.UNKNOWN: "Ended for an unknown reason",
}


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One thing that happened."""

    at: datetime
    what: str
    more: str = ""


async def read_timeline(portal: PortalServices, session: VDISession) -> list[TimelineEntry] | None:
    """The newest first; None: the database does not answer."""
    try:
        past = await portal.history.session(session.metadata.uid)
    except DatabaseUnavailableError:
        return None
    return timeline_of(past)[:_SHOWN] if past else []


def timeline_of(past: Past) -> list[TimelineEntry]:
    """All that is written down of a session, the newest first."""
    found = [TimelineEntry(past.session.created, "Requested")]
    for run in past.runs:
        found += _of_run(run)
    if past.session.ended and past.session.end_reason:
        found.append(TimelineEntry(past.session.ended, end_words(past.session.end_reason), _by(past.session.ended_by)))
    return sorted(found, key=lambda entry: entry.at, reverse=True)


def end_words(reason: EndReason | None) -> str:
    """Why something ended, in words; empty while it has not."""
    return _ENDED[reason] if reason else ""


def seconds(length: float | None) -> str:
    """`2.3 s`, `5 min`; empty where it is not known."""
    if length is None:
        return ""
    if length < 60:
        return f"{length:.1f} s" if length < 10 else f"{length:.0f} s"
    return hours(timedelta(seconds=length))


def hours(span: timedelta) -> str:
    """`5 min`, `3 h 12 min`."""
    minutes = int(span.total_seconds()) // 60
    parts = ((minutes // 60, "h"), (minutes % 60, "min"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "less than a minute"


def _of_run(run: RunRow) -> list[TimelineEntry]:
    waited = f"after {seconds(run.queue_seconds)} in line" if run.queue_seconds else ""
    found = [TimelineEntry(run.start, "Started", waited)]
    if run.ready:
        found.append(TimelineEntry(run.ready, "Ready", f"after {seconds(run.startup_seconds)}"))
    if run.ended and run.end_reason and run.end_reason not in (EndReason.USER, EndReason.ADMIN, EndReason.DELETED):
        found.append(TimelineEntry(run.ended, end_words(run.end_reason), run.end_detail))
    return found


def _by(user: str) -> str:
    return f"by {user}" if user else ""
