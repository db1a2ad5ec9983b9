"""Length of a run: its time limit, and the idle timeout of its desktop. Pure: the caller passes the
time.

A run goes from admission (its pod is created, or taken from a pool) to suspension or end, over all
pods that replace one another in it. Time in the queue, time spent waiting for a home or a host, and
suspension belong to no run.

    last input or connect ──────────── warn_at ───────────── over_at
            since                  a notice is shown     suspended, or ended
                              <──── warning_time ────>
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from vdi.api.session import GraphicsStatus, Phase, RecordingStatus, VDISession
from vdi.api.template import IdleAction, Lifecycle, TimeoutAction, VDITemplate
from vdi.cluster.objects import Pod
from vdi.cluster.units import format_time, parse_duration, parse_time
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.naming import LAST_FAILURE, RESTARTED_AT, RUN_STARTED

# The longest time between a warning and the end that it announces.
LONGEST_WARNING = timedelta(minutes=5)

_DEFAULT_LIFECYCLE = Lifecycle()
_LONGEST_POLL = timedelta(seconds=15)
_LONGEST_PAUSE = timedelta(minutes=10)
_PACE_WHILE_WARNED = timedelta(seconds=5)
_POLLS_UNTIL_UNKNOWN = 3
# A desktop is not idle for so long after an agent's last action. The longest command takes as long.
_WORK_COUNTS = timedelta(minutes=10)


# The time limit


def timeout_action(session: VDISession, template: VDITemplate | None) -> TimeoutAction:
    """The action at the end of the time limit. A deleted session would lose its schedule, so it is
    suspended.
    """
    if session.spec.schedule:
        return TimeoutAction.SUSPEND
    return _lifecycle_of(template).on_timeout


def idle_action(session: VDISession, template: VDITemplate | None) -> IdleAction:
    """The action on an idle desktop; with a schedule it is suspended, too."""
    if session.spec.schedule:
        return IdleAction.SUSPEND
    return _lifecycle_of(template).on_idle


def _lifecycle_of(template: VDITemplate | None) -> Lifecycle:
    if template:
        return template.spec.lifecycle
    return _DEFAULT_LIFECYCLE


def run_annotations(session: VDISession, started: datetime | None) -> dict[str, str]:
    """Annotations that tie a pod to its run. `started`: the start of a run that began before the
    pod was created.

    A run that continues with another pod started when the status says.
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
        if session.status.start_time:
            return parse_time(session.status.start_time)
        return None
    begun = as_time(pod.metadata.annotations.get(RUN_STARTED, ""))
    return begun or as_time(pod.metadata.creation_timestamp)


def max_timeout(template: VDITemplate | None, settings: ClusterSettings) -> str | None:
    """The maximum length of one run: the template's, else the cluster's; None: there is no limit.

    Without its template a session has no limit: a template that is replaced must not end desktops
    in the meantime.
    """
    if template:
        return template.spec.lifecycle.max_timeout or settings.max_timeout
    return None


def run_length(
    session: VDISession, template: VDITemplate | None, settings: ClusterSettings
) -> timedelta | None:
    """`spec.timeout`, at most `max_timeout`; None when it cannot be read, which blocks the
    session.
    """
    requested = _as_length(session.spec.timeout)
    most = _as_length(max_timeout(template, settings))
    if requested and most:
        return min(requested, most)
    return requested


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
    """The time of the warning: 5 minutes before the end, or half of a run that is shorter than
    twice that.
    """
    end = expires_at(session, template, pod, settings)
    length = run_length(session, template, settings)
    if end and length:
        return end - min(LONGEST_WARNING, length / 2)
    return None


def planned_at(session: VDISession) -> datetime | None:
    """The time of `spec.plannedEnd`; None: no end is announced."""
    if session.spec.planned_end:
        return as_time(session.spec.planned_end.time)
    return None


def as_time(text: str) -> datetime | None:
    """The instant; None for an empty text, or one that cannot be read."""
    try:
        return parse_time(text) if text else None
    except ValueError:
        return None


def _as_length(text: str | None) -> timedelta | None:
    """None for text that is no duration: `session.effective` blocks the start of such a session."""
    try:
        return parse_duration(text) if text else None
    except ValueError:
        return None


# Idleness. Real input, or a browser that connects, is activity; an open browser alone is not. A
# software agent's work does not count as a person's, but no desktop ends in the minutes after it. A
# desktop whose own agent does not respond is not idle.


@dataclass(frozen=True, slots=True)
class Activity:
    """Report of the agent in the desktop."""

    # The last key, click or pointer movement.
    last_input: datetime
    # The time of the report.
    seen: datetime
    # None: no browser has connected since the desktop started.
    last_connect: datetime | None = None
    # None: the image does not report its renderer, or has not chosen one yet.
    graphics: GraphicsStatus | None = None
    # None: the desktop is not recorded.
    recording: RecordingStatus | None = None
    # When the kernel last killed a program of the desktop for want of memory; None: it has not.
    memory_kill: datetime | None = None
    # The last action or command of a software agent; None: there has been none.
    last_work: datetime | None = None


@dataclass(frozen=True, slots=True)
class Idle:
    """An idle desktop: since when, and the times of its warning and its end if nothing happens."""

    # The last activity of a person.
    since: datetime
    # The same, or the last work of a software agent.
    last_use: datetime
    warn_at: datetime
    over_at: datetime
    # The time of the last report.
    seen: datetime

    def warned(self, now: datetime) -> bool:
        """Whether the warning is due, or was given."""
        return now >= self.warn_at

    def over(self, now: datetime) -> bool:
        """Whether the desktop has been idle for too long, by a report from the very end: input may
        have come since.
        """
        return now >= self.over_at <= self.seen


def idle_timeout(session: VDISession, template: VDITemplate | None) -> timedelta | None:
    """The idle timeout of the session, else of its template; None: there is none."""
    text = session.spec.idle_timeout
    if text is None and template is not None:
        text = template.spec.lifecycle.idle_timeout
    return _as_length(text)


def idle_since(session: VDISession, template: VDITemplate | None) -> datetime | None:
    """The last activity that a running desktop has reported; None: without an idle timeout it is
    not asked.
    """
    is_asked = session.status.phase == Phase.RUNNING and idle_timeout(session, template) is not None
    if is_asked:
        return as_time(session.status.last_activity_time)
    return None


def poll_interval(timeout: timedelta) -> timedelta:
    """The longest time between two polls of a desktop with this idle timeout; `next_poll` has the
    time of the next.
    """
    return min(_LONGEST_POLL, timeout / 4)


def warning_time(timeout: timedelta) -> timedelta:
    return min(LONGEST_WARNING, timeout / 2)


def is_known(activity: Activity | None, timeout: timedelta, now: datetime) -> bool:
    """Whether the report is recent enough to act on."""
    return activity is not None and now - activity.seen <= _POLLS_UNTIL_UNKNOWN * poll_interval(
        timeout
    )


def last_activity(started: datetime, activity: Activity | None) -> datetime:
    """The last sign of a person: the start of the run is one."""
    if activity is None:
        return started
    return max(started, activity.last_input, activity.last_connect or started)


def evaluate_idle(
    *,
    started: datetime,
    activity: Activity | None,
    timeout: timedelta,
    warned_at: datetime | None,
    now: datetime,
) -> Idle | None:
    """The idle state of a run that began at `started`; None: there is no recent report, so it is
    not idle.

    `warned_at`: since when the warning has been shown (the condition `Idle`), None while it is not.
    """
    if activity is None or not is_known(activity, timeout, now):
        return None
    since = last_activity(started, activity)
    lead = warning_time(timeout)
    over_at, last_use = since + timeout, since
    if activity.last_work:
        over_at = max(over_at, activity.last_work + min(_WORK_COUNTS, timeout))
        last_use = max(since, activity.last_work)
    warn_at = over_at - lead
    if now >= warn_at:
        # The end always follows a full warning. An operator that was away when the warning was due
        # gives it late, and then waits. A warning from before the last use announced another end,
        # and does not count.
        if warned_at is not None and warned_at >= last_use:
            shown_at = warned_at
        else:
            shown_at = now
        over_at = max(over_at, shown_at + lead)
    return Idle(since, last_use, warn_at=warn_at, over_at=over_at, seen=activity.seen)


def next_poll(idle: Idle, timeout: timedelta, now: datetime) -> timedelta:
    """The time until the next poll. A report from before the warning is due would change
    nothing.
    """
    if now < idle.warn_at:
        return min(_LONGEST_PAUSE, idle.warn_at - now)
    pace = min(_PACE_WHILE_WARNED, poll_interval(timeout))
    if now < idle.over_at:
        return min(pace, idle.over_at - now)
    return pace
