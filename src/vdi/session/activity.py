"""When does a running desktop count as idle (B3)? Pure: the caller says what the agent reported, and what time it is.

    last input or connect ──────────── warn_at ───────────── over_at
            since                  a notice is shown     suspended, or ended
                              <──── warning_time ────>

Real input, or a browser that connects, is activity; an open browser alone is not. A desktop that cannot be
asked is not idle. The end always follows a warning: an operator that was away when the warning was due gives it late,
and waits.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from vdi.api.session import GraphicsStatus, VDISession
from vdi.api.template import VDITemplate
from vdi.session.units import parse_duration

_LONGEST_POLL = timedelta(seconds=15)
_LONGEST_PAUSE = timedelta(minutes=10)
_PACE_WHILE_WARNED = timedelta(seconds=5)
_POLLS_UNTIL_UNKNOWN = 3
_LONGEST_WARNING = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Activity:
    """What the agent in the desktop said when it was last asked."""

    last_input: datetime
    """The last key, click or movement of a pointer that the desktop has seen."""
    viewers: int
    """Browsers that are connected now."""
    seen: datetime
    """When it said so."""
    last_connect: datetime | None = None
    """When a browser last connected; None: none has, since the desktop began."""
    graphics: GraphicsStatus | None = None
    """What draws and encodes; None: its image does not say, or has not decided yet."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Since when a desktop is idle, and what comes of it if nothing happens."""

    since: datetime
    warn_at: datetime
    over_at: datetime
    seen: datetime
    """When the desktop was asked last."""

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
    return min(_LONGEST_WARNING, timeout / 2)


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
