"""How long a run lasts (B4). Pure: the caller says what time it is.

A run goes from admission (its pod is made, or taken from a pool) to suspension or end, over all pods that replace one
another in it. Waiting in the queue, for a home or a host, and suspension belong to no run.
"""

from datetime import datetime, timedelta

from vdi.api.session import VDISession
from vdi.api.template import IdleAction, Lifecycle, TimeoutAction, VDITemplate
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.observed import LAST_FAILURE, RESTARTED_AT, RUN_STARTED, Pod
from vdi.session.times import format_time, parse_time
from vdi.session.units import parse_duration

_LONGEST_WARNING = timedelta(minutes=5)


_DEFAULT_LIFECYCLE = Lifecycle()


def lifecycle_of(template: VDITemplate | None) -> Lifecycle:
    """What happens at the end of a run; without its template, what a template says by default."""
    return template.spec.lifecycle if template else _DEFAULT_LIFECYCLE


def timeout_action(session: VDISession, template: VDITemplate | None) -> TimeoutAction:
    """What happens when the run has used up its time. A deleted session would lose its schedule, so it is suspended."""
    return TimeoutAction.SUSPEND if session.spec.schedule else lifecycle_of(template).on_timeout


def idle_action(session: VDISession, template: VDITemplate | None) -> IdleAction:
    """What happens to an idle desktop; with a schedule it is suspended, likewise."""
    return IdleAction.SUSPEND if session.spec.schedule else lifecycle_of(template).on_idle


def run_annotations(session: VDISession, started: datetime | None) -> dict[str, str]:
    """What the pod of a run has to carry: `started` is given where that is not the moment when the pod was made.

    A run that goes on with another pod has begun when the status says.
    """
    failures = session.status.failures
    given = {
        RUN_STARTED: session.status.start_time or (format_time(started) if started else ""),
        RESTARTED_AT: session.metadata.annotations.get(RESTARTED_AT, ""),
        LAST_FAILURE: failures.time if failures else "",
    }
    return {name: value for name, value in given.items() if value}


def started_at(session: VDISession, pod: Pod | None) -> datetime | None:
    """Beginning of the run; None outside a run. Between two pods of one run, the status knows."""
    if pod is None:
        return parse_time(session.status.start_time) if session.status.start_time else None
    begun = _as_time(pod.metadata.annotations.get(RUN_STARTED, ""))
    return begun or _as_time(pod.metadata.creation_timestamp)


def max_timeout(template: VDITemplate | None, settings: ClusterSettings) -> str | None:
    """The longest that one run may be: the template's maximum, else the cluster's; None: there is no limit.

    Without its template a session has no limit: a template that is replaced must not end desktops in the meantime.
    """
    return (template.spec.lifecycle.max_timeout or settings.max_timeout) if template else None


def run_length(session: VDISession, template: VDITemplate | None, settings: ClusterSettings) -> timedelta | None:
    """How long a run may be: `spec.timeout` up to `max_timeout`; None when it cannot be read (Blocked)."""
    requested = _as_length(session.spec.timeout)
    most = _as_length(max_timeout(template, settings))
    return min(requested, most) if requested and most else requested


def is_capped(session: VDISession, template: VDITemplate | None, settings: ClusterSettings) -> bool:
    """Whether `max_timeout` ends the run: a longer `spec.timeout` would not help."""
    requested = _as_length(session.spec.timeout)
    most = _as_length(max_timeout(template, settings))
    return requested is not None and most is not None and most <= requested


def expires_at(
    session: VDISession, template: VDITemplate | None, pod: Pod | None, settings: ClusterSettings
) -> datetime | None:
    """End of the run; None outside a run."""
    start, length = started_at(session, pod), run_length(session, template, settings)
    return start + length if start and length else None


def warned_at(
    session: VDISession, template: VDITemplate | None, pod: Pod | None, settings: ClusterSettings
) -> datetime | None:
    """From when on the end is announced: 5 minutes before, or half of a run that is shorter than twice that."""
    end, length = expires_at(session, template, pod, settings), run_length(session, template, settings)
    return end - min(_LONGEST_WARNING, length / 2) if end and length else None


def is_over(
    session: VDISession, template: VDITemplate | None, pod: Pod | None, settings: ClusterSettings, now: datetime
) -> bool:
    """Whether the run has used up its time."""
    end = expires_at(session, template, pod, settings)
    return end is not None and now >= end


def _as_time(text: str) -> datetime | None:
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def _as_length(text: str | None) -> timedelta | None:
    try:
        return parse_duration(text) if text else None
    except ValueError:
        return None
