"""Length of a run: its time limit, and the idle timeout of its desktop. Pure: the caller passes the time.

A run goes from admission (its pod is created, or taken from a pool) to suspension or end, over all pods that replace
one another in it. Time in the queue, time spent waiting for a home or a host, and suspension belong to no run.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from vdi.api.session import GraphicsStatus, VDISession
from vdi.api.template import IdleAction, Lifecycle, TimeoutAction, VDITemplate
from vdi.cluster.objects import Pod
from vdi.cluster.units import format_time, parse_duration, parse_time
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import LAST_FAILURE, RESTARTED_AT, RUN_STARTED

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


_LONGEST_POLL = timedelta(seconds=15)
_LONGEST_PAUSE = timedelta(minutes=10)
_PACE_WHILE_WARNED = timedelta(seconds=5)
_POLLS_UNTIL_UNKNOWN = 3
_LONGEST_IDLE_WARNING = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Activity:
    """What the agent in the desktop said when it was last asked."""

    # The last key, click or movement of a pointer that the desktop has seen.
    last_input: datetime
    # Browsers that are connected now.
    viewers: int
    # When it said so.
    seen: datetime
    # When a browser last connected; None: none has, since the desktop began.
    last_connect: datetime | None = None
    # What draws and encodes; None: its image does not say, or has not decided yet.
    graphics: GraphicsStatus | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """Since when a desktop is idle, and what comes of it if nothing happens."""

    since: datetime
    warn_at: datetime
    over_at: datetime
    # When the desktop was asked last.
    seen: datetime

    def warned(self, now: datetime) -> bool:
        """Whether whoever sits there is to be warned, or was."""
        return now >= self.warn_at

    def over(self, now: datetime) -> bool:
        """Whether it has been idle for too long. It was asked once more at the very end: input may have come then."""
        return now >= self.over_at <= self.seen


def idle_timeout(session: VDISession, template: VDITemplate | None) -> timedelta | None:
    """How long it may be idle: as the session says, else its template; None: for ever.

    A length that cannot be read blocks the session's start (`session.effective`) and ends no session: None.
    """
    text = session.spec.idle_timeout
    if text is None and template is not None:
        text = template.spec.lifecycle.idle_timeout
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        return None


def poll_interval(timeout: timedelta) -> timedelta:
    """How often a desktop with this idle timeout is asked, at most; `next_poll` says when it needs to be."""
    return min(_LONGEST_POLL, timeout / 4)


def warning_time(timeout: timedelta) -> timedelta:
    """How long before the end the warning comes."""
    return min(_LONGEST_IDLE_WARNING, timeout / 2)


def is_known(activity: Activity | None, timeout: timedelta, now: datetime) -> bool:
    """Whether the report is recent enough to act on."""
    return activity is not None and now - activity.seen <= _POLLS_UNTIL_UNKNOWN * poll_interval(timeout)


def last_activity(started: datetime, activity: Activity | None) -> datetime:
    """The last sign of a person: the start of the run is one."""
    if activity is None:
        return started
    return max(started, activity.last_input, activity.last_connect or started)


def evaluate_idle(
    *, started: datetime, activity: Activity | None, timeout: timedelta, warned_at: datetime | None, now: datetime
) -> Idle | None:
    """The verdict on a run that began at `started`; None: it cannot be asked, so it is not idle.

    `warned_at`: since when the warning has been up (the condition `Idle`), None while it is not.
    """
    if activity is None or not is_known(activity, timeout, now):
        return None
    since = last_activity(started, activity)
    lead = warning_time(timeout)
    over_at = since + timeout
    warn_at = over_at - lead
    if now >= warn_at:
        shown_at = warned_at if warned_at is not None and warned_at >= since else now
        over_at = max(over_at, shown_at + lead)
    return Idle(since=since, warn_at=warn_at, over_at=over_at, seen=activity.seen)


def next_poll(idle: Idle, timeout: timedelta, now: datetime) -> timedelta:
    """When to ask again. Before the warning is due, nothing that it could say would change anything."""
    if now < idle.warn_at:
        return min(_LONGEST_PAUSE, idle.warn_at - now)
    pace = min(_PACE_WHILE_WARNED, poll_interval(timeout))
    return min(pace, idle.over_at - now) if now < idle.over_at else pace
