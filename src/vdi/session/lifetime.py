"""How long a run lasts (B4). Pure: the caller says what time it is."""

from datetime import datetime, timedelta

from vdi.api.session import VDISession
from vdi.session.observed import Pod
from vdi.session.times import parse_time
from vdi.session.units import parse_duration


def started_at(pod: Pod | None) -> datetime | None:
    """Beginning of the run: its pod was made. Waiting for a home, a host or a template does not count."""
    return parse_time(pod.metadata.creation_timestamp) if pod and pod.metadata.creation_timestamp else None


def expires_at(session: VDISession, pod: Pod | None) -> datetime | None:
    """End of the run; None while there is none, or when `spec.timeout` cannot be read (a Problem of its own)."""
    start = started_at(pod)
    if start is None:
        return None
    try:
        return start + parse_duration(session.spec.timeout)
    except ValueError:
        return None


def remaining(session: VDISession, pod: Pod | None, now: datetime) -> timedelta | None:
    """Time until the run is over, at least zero; None when nothing runs."""
    end = expires_at(session, pod)
    return max(timedelta(), end - now) if end else None


def is_over(session: VDISession, pod: Pod | None, now: datetime) -> bool:
    """Whether the run has used up its time."""
    return remaining(session, pod, now) == timedelta()
