"""Schedules: whether working hours are open, when a desktop is suspended at their end, when one is
resumed. Pure.

         start                    end
    ───────┬───────────────────────┬──────────── a desktop that was started later runs until the end of the next window
           │         open          │   closed
                       warn_at ────┘
                       a notice is shown; input cancels this end where the template allows it

What holds is derived from the time alone: an operator that was away at the end of a window acts
when it is back. Times of a schedule are local times. As in Debian's cron, a time that a clock
change skips counts when the clock has changed, and one that comes twice counts once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from vdi.api.schedule import WEEKDAYS, Day, PoolSchedule, SessionSchedule, TemplateSchedule, Window
from vdi.api.session import VDISession
from vdi.cluster.units import parse_time
from vdi.session.lifetime import LONGEST_WARNING, Activity

_LAST_ANSWER = timedelta(seconds=15)
# A scheduled desktop is resumed this long before its time: the image is pulled, and users come
# early.
_START_LEAD = timedelta(minutes=5)
# An operator that was away still resumes a scheduled desktop this long after its time; later the
# time was missed.
_START_LATE = timedelta(minutes=30)
_CACHED_TIMES = 4096
# Characters of a time zone's name. Longer text is untrusted input that is neither looked up nor
# cached.
_LONGEST_ZONE = 64
_TIME_OF_DAY = re.compile("([01][0-9]|2[0-3]):[0-5][0-9]")
# After so many windows without a gap between them, working hours count as endless.
_OVERLAPS = 64
_DAY_NAMES = dict(
    zip(
        Day,
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        strict=True,
    )
)
_SETS_OF_DAYS = {
    tuple(Day): "every day",
    WEEKDAYS: "Monday to Friday",
    (Day.SAT, Day.SUN): "weekends",
}


@dataclass(frozen=True, slots=True)
class Closing:
    """The end of working hours that a desktop reaches next."""

    # End of the window.
    at: datetime
    warn_at: datetime
    # The time of the suspension: later than `at` if the warning came late.
    over_at: datetime
    # The time of the last report that could show input; None: input does not cancel this end, or
    # there is no report.
    asked_at: datetime | None = None
    # Whether input while the warning is shown cancels this end.
    can_cancel: bool = False

    def is_warned(self, now: datetime) -> bool:
        """Whether the person at the desktop is to be warned."""
        return now >= self.warn_at

    def is_over(self, now: datetime) -> bool:
        """Whether the desktop is to be suspended. One that answers is asked once more at the very
        end.
        """
        return now >= self.over_at and (
            self.asked_at is None or self.asked_at >= self.over_at or now >= self.given_up_at
        )

    @property
    def given_up_at(self) -> datetime:
        """The time until which the last report of the desktop is waited for."""
        return self.over_at + _LAST_ANSWER


def find_problems(schedule: PoolSchedule | TemplateSchedule) -> Iterator[str]:
    """Problems of a schedule, one sentence for each field."""
    if not is_time_zone(schedule.time_zone):
        yield (
            f"spec.schedule.timeZone: {schedule.time_zone!r} is not a known time zone, such as"
            " Europe/Berlin"
        )
        return
    for number, window in enumerate(schedule.windows):
        for name, cron in (("start", window.start), ("end", window.end)):
            if not _is_cron(cron):
                yield (
                    f"spec.schedule.windows[{number}].{name}: {cron!r} is not a cron time such as 0"
                    " 18 * * MON-FRI"
                )


def is_open(schedule: PoolSchedule | TemplateSchedule, now: datetime) -> bool:
    return any(
        _end_of_open(window, schedule.time_zone, now) is not None for window in schedule.windows
    )


def next_change(schedule: PoolSchedule | TemplateSchedule, now: datetime) -> datetime | None:
    """The next time at which it opens or closes; None: never."""
    if is_open(schedule, now):
        return _next_close(schedule, now)
    return _next_open(schedule, now)


def find_closing(
    schedule: TemplateSchedule,
    *,
    started: datetime,
    activity: Activity | None,
    last_known_activity: datetime | None,
    warned_at: datetime | None,
    now: datetime,
) -> Closing | None:
    """The end of working hours that a run which began at `started` reaches; None: none, or it was
    cancelled.

    `last_known_activity`: what the status says, for an operator that has not asked the desktop yet.
    `warned_at`: since when a warning has been shown. One from before `warn_at` was of an end that
    the operator missed: it begins again.
    """
    at = _missed_close(schedule, started, now) or next_close(schedule, now)
    if at is None:
        return None
    # In whole seconds, as the times of conditions are. Otherwise a warning that was just published
    # would seem to be older than `warn_at`, would count as one of a missed end, and would begin
    # again and again.
    lead = min(LONGEST_WARNING, timedelta(seconds=(at - started) // timedelta(seconds=2)))
    if schedule.cancel_on_activity and _was_active(activity, last_known_activity, at - lead):
        at = next_close(schedule, max(now, at))
        if at is None:
            return None
        lead = LONGEST_WARNING
    over_at = at
    if now >= at - lead:
        if warned_at is not None and warned_at >= at - lead:
            shown_at = warned_at
        else:
            shown_at = now
        over_at = max(at, shown_at + lead)
    asked_at = None
    if activity and schedule.cancel_on_activity:
        asked_at = activity.seen
    return Closing(at, at - lead, over_at, asked_at, schedule.cancel_on_activity)


def working_hours(schedule: SessionSchedule) -> TemplateSchedule | None:
    """The schedule of a session as working hours; None: it has no end.

    A window ends at the first end after its start, so the end of a night is on the next day.
    """
    if schedule.end is None:
        return None
    window = Window(start=_start_cron(schedule), end=f"{_cron_time(schedule.end)} * * *")
    return TemplateSchedule(windows=(window,), time_zone=schedule.time_zone)


def next_start(session: VDISession, now: datetime) -> datetime | None:
    """The next time at which its schedule has the desktop ready; None: there is no schedule, or it
    cannot be read.

    The time in the status stays until it is dealt with: the desktop runs shortly before it, or the
    operator was away until it is too late. So a desktop that its user suspends after that is not
    resumed again for the same time, and one that gets a schedule after today's time is first
    resumed on the next day.
    """
    schedule, suspended = session.spec.schedule, session.spec.suspended
    if schedule is None:
        return None
    cron, zone = _start_cron(schedule), schedule.time_zone
    known = None
    if session.status.next_start:
        known = parse_time(session.status.next_start)
    if known is None or previous_time(cron, zone, known) != known:  # or the schedule was changed
        known = next_time(cron, zone, now)
    is_dealt_with = known is not None and (
        now > known + _START_LATE or (not suspended and now >= known - _START_LEAD)
    )
    if known and is_dealt_with:
        return next_time(cron, zone, max(known, now))
    return known


def start_due_at(session: VDISession, now: datetime) -> datetime | None:
    """The time at which its schedule resumes the desktop next: shortly before its start; None:
    never.
    """
    start = next_start(session, now)
    return start - _START_LEAD if start else None


def find_session_problem(schedule: SessionSchedule) -> tuple[str, str, str] | None:
    """The first field that is not allowed, its value and what is allowed; None: the schedule can be
    used.

    The CRD says the same, but for time zones that no one knows. Asked before untrusted text is kept
    anywhere.
    """
    for field, time in (("start", schedule.start), ("end", schedule.end)):
        if time is not None and not _TIME_OF_DAY.fullmatch(time):
            return field, time, "a time of day from 00:00 to 23:59, such as 08:30"
    if (
        schedule.end is not None
        and (_minutes(schedule.start) - _minutes(schedule.end)) % (24 * 60) <= 5
    ):
        return (
            "end",
            schedule.end,
            "not start, nor the 5 minutes before it, in which the desktop is resumed",
        )
    if not schedule.days or set(schedule.days) - set(Day):
        return "days", ", ".join(schedule.days), f"one or more of {', '.join(Day)}"
    if not is_time_zone(schedule.time_zone):
        return "timeZone", schedule.time_zone, "a known time zone, such as Europe/Berlin"
    return None


def _minutes(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:])


def describe_schedule(schedule: SessionSchedule) -> str:
    """A schedule for people: `08:30 to 18:00, Monday to Friday, Europe/Berlin`."""
    chosen = tuple(day for day in Day if day in schedule.days)
    days = _SETS_OF_DAYS.get(chosen) or ", ".join(_DAY_NAMES[day] for day in chosen)
    until = f" to {schedule.end}" if schedule.end else ""
    return f"{schedule.start}{until}, {days}, {schedule.time_zone}"


def day_names() -> dict[str, str]:
    """The days of the week by their values in a schedule."""
    return {day.value: name for day, name in _DAY_NAMES.items()}


def _start_cron(schedule: SessionSchedule) -> str:
    return f"{_cron_time(schedule.start)} * * {','.join(schedule.days)}"


def _cron_time(time: str) -> str:
    hour, _, minute = time.partition(":")
    return f"{minute} {hour}"


def next_close(schedule: PoolSchedule | TemplateSchedule, now: datetime) -> datetime | None:
    """The next end of working hours: of those that are open, or of the next that open."""
    if is_open(schedule, now):
        return _next_close(schedule, now)
    opens = _next_open(schedule, now)
    return _next_close(schedule, opens) if opens else None


def _was_active(activity: Activity | None, last_known: datetime | None, since: datetime) -> bool:
    if activity:
        moments = [activity.last_input, activity.last_connect]
    else:
        moments = [last_known]
    return any(moment is not None and moment >= since for moment in moments)


def _missed_close(schedule: TemplateSchedule, started: datetime, now: datetime) -> datetime | None:
    """The end of working hours that has passed since `started`; None while they are open, or where
    none has.
    """
    if is_open(schedule, now):
        return None
    ends = [_end_of_last(window, schedule.time_zone, now) for window in schedule.windows]
    last = max((end for end in ends if end is not None), default=None)
    if last is not None and last > started:
        return last
    return None


def _next_open(schedule: PoolSchedule | TemplateSchedule, now: datetime) -> datetime | None:
    starts = [next_time(window.start, schedule.time_zone, now) for window in schedule.windows]
    return min((start for start in starts if start is not None), default=None)


def _next_close(schedule: PoolSchedule | TemplateSchedule, now: datetime) -> datetime | None:
    """The end of all windows that are open now, and of those that open before these end; None: they
    never end.
    """
    moment = now
    for _ in range(_OVERLAPS):
        ends = [_end_of_open(window, schedule.time_zone, moment) for window in schedule.windows]
        last = max((end for end in ends if end is not None), default=None)
        if last is None:
            return moment
        moment = last
    return None


def _end_of_open(window: Window, zone: str, now: datetime) -> datetime | None:
    """The end of the window that is open now; None: it is closed."""
    end = _end_of_last(window, zone, now)
    return end if end is not None and end > now else None


def _end_of_last(window: Window, zone: str, now: datetime) -> datetime | None:
    """The end, past or future, of the window that opened last. A time of `end` while it is closed
    ends nothing.
    """
    begun = previous_time(window.start, zone, now)
    if begun:
        return next_time(window.end, zone, begun)
    return None


def next_time(cron: str, zone: str, after: datetime) -> datetime | None:
    """The first time of a cron expression that is later than `after`, in UTC; None: never, or it
    cannot be read.
    """
    return _next_time(cron, zone, after.astimezone(UTC).replace(second=0, microsecond=0))


def previous_time(cron: str, zone: str, until: datetime) -> datetime | None:
    """The last time of a cron expression that is not later than `until`, in UTC; None: never, or it
    cannot be read.
    """
    return _previous_time(cron, zone, until.astimezone(UTC).replace(second=0, microsecond=0))


@lru_cache(_CACHED_TIMES)
def _next_time(cron: str, zone: str, minute: datetime) -> datetime | None:
    if not (_is_cron(cron) and is_time_zone(zone)):
        return None
    # Start two hours early: within the hour that a clock change repeats, the library counts from
    # its first pass.
    for local in CronSim(cron, (minute - timedelta(hours=2)).astimezone(ZoneInfo(zone))):
        moment = local.astimezone(UTC)
        if moment > minute:
            return _first_after(cron, zone, minute, moment)
    return None


def _first_after(cron: str, zone: str, minute: datetime, time: datetime) -> datetime:
    """The first time after `minute`, given a later one.

    Where a clock change is of half an hour (Australia/Lord_Howe), the library passes over times on
    its way forward, and not on its way back.
    """
    while (
        earlier := _previous_time(cron, zone, time - timedelta(minutes=1))
    ) is not None and earlier > minute:
        time = earlier
    return time


@lru_cache(_CACHED_TIMES)
def _previous_time(cron: str, zone: str, minute: datetime) -> datetime | None:
    if not (_is_cron(cron) and is_time_zone(zone)):
        return None
    for local in CronSim(
        cron, (minute + timedelta(hours=2)).astimezone(ZoneInfo(zone)), reverse=True
    ):
        moment = local.astimezone(UTC)
        if moment <= minute:
            return moment
    return None


@lru_cache(_CACHED_TIMES)
def _is_cron(text: str) -> bool:
    try:
        CronSim(text, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return len(text.split()) == 5


@lru_cache(_CACHED_TIMES)
def is_time_zone(name: str) -> bool:
    """Whether this is the name of a time zone, by the database of zones here."""
    if len(name) > _LONGEST_ZONE:
        return False
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown; leaves the folder; is a folder
        return False
    return True
