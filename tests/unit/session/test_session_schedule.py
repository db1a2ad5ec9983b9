"""Working hours: clock changes, an operator that was away, warnings, and input that cancels an
end.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_node, a_pod, a_route, a_service, a_session, a_template
from unit.session.resolving import refused
from vdi.api.schedule import Day, SessionSchedule, TemplateSchedule
from vdi.api.session import VDISession
from vdi.cluster.units import format_time, parse_time
from vdi.session.alerts import find_alerts, find_notices
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import CLOSING, Reason
from vdi.session.decide import Observed
from vdi.session.ending import find_ending, next_requeue
from vdi.session.lifetime import Activity
from vdi.session.naming import RUN_STARTED
from vdi.session.schedule import (
    find_closing,
    find_problems,
    is_open,
    next_change,
    next_start,
    next_time,
    previous_time,
    start_due_at,
    working_hours,
)
from vdi.session.status import derive, derive_suspended

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
ZONES = st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE])
# Days on which the clock goes forward and back.
CHANGES = {
    BERLIN: (date(2026, 3, 29), date(2026, 10, 25)),
    NEW_YORK: (date(2026, 3, 8), date(2026, 11, 1)),
    LORD_HOWE: (date(2026, 10, 4), date(2026, 4, 5)),
}
WEEKDAYS = [{"start": "0 9 * * MON-FRI", "end": "0 18 * * MON-FRI"}]
SETTINGS = ClusterSettings(max_timeout=None)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(BERLIN)).astimezone(UTC)


def office(*windows: dict[str, str], **fields: Any) -> TemplateSchedule:
    given = {"timeZone": BERLIN, "windows": windows or WEEKDAYS, **fields}
    return msgspec.convert(given, TemplateSchedule)


MOMENTS = st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 31)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
CRONS = st.builds(
    lambda minute, hour, days: f"{minute} {hour} * * {days}",
    st.integers(0, 59) | st.just("*/20"),
    st.integers(0, 23) | st.just("*"),
    st.sampled_from(["*", "MON-FRI", "SUN"]),
)


@given(CRONS, ZONES, MOMENTS)
def test_no_time_lies_between_a_moment_and_the_next_time(
    cron: str, zone: str, moment: datetime
) -> None:
    following = next_time(cron, zone, moment)
    assert following and following > moment
    assert previous_time(cron, zone, following) == following
    before = previous_time(cron, zone, following - timedelta(minutes=1))
    assert before and before <= moment


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize(
    "clock", ["30 1 * * *", "0 2 * * *", "15 2 * * *", "45 2 * * *", "0 9 * * *"]
)
def test_clock_change_leaves_one_time_for_each_day(zone: str, clock: str) -> None:
    for change in CHANGES[zone]:
        first = datetime.combine(change - timedelta(days=3), datetime.min.time(), ZoneInfo(zone))
        times = [next_time(clock, zone, first)]
        while times[-1] and times[-1].astimezone(ZoneInfo(zone)).date() < change + timedelta(
            days=3
        ):
            times.append(next_time(clock, zone, times[-1]))
        days = [moment.astimezone(ZoneInfo(zone)).date() for moment in times if moment]
        assert days == [change + timedelta(days=offset) for offset in range(-3, 4)]


def test_working_hours_are_local_times_over_a_clock_change() -> None:
    for day, summer in (("2026-10-23", True), ("2026-10-26", False)):
        assert not is_open(office(), at(f"{day} 08:59"))
        assert is_open(office(), at(f"{day} 09:00"))
        assert at(f"{day} 09:00").hour == (7 if summer else 8), "the clock has changed in between"
        assert is_open(office(), at(f"{day} 17:59"))
        assert not is_open(office(), at(f"{day} 18:00"))


def test_next_change_of_overlapping_windows() -> None:
    hours = (("0 9", "0 13"), ("0 12", "0 17"), ("0 17", "0 18"))
    schedule = office(*({"start": f"{start} * * *", "end": f"{end} * * *"} for start, end in hours))
    assert next_change(schedule, at("2026-06-01 08:00")) == at("2026-06-01 09:00")
    assert next_change(schedule, at("2026-06-01 09:00")) == at("2026-06-01 18:00")
    assert (
        next_change(office({"start": "0 * * * *", "end": "0 * * * *"}), at("2026-06-01 08:00"))
        is None
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"timeZone": "Europe/Atlantis"},
            "spec.schedule.timeZone: 'Europe/Atlantis' is not a known time zone",
        ),
        ({"timeZone": "../etc/passwd"}, "is not a known time zone"),
        (
            {"windows": [{"start": "0 9 * * 5-1", "end": "0 18 * * 5-1"}]},
            "spec.schedule.windows[0].start: '0 9 * * 5-1'",
        ),
        (
            {"windows": [{"start": "0 9 * * *", "end": "0 0 31 2 *"}]},
            "spec.schedule.windows[0].end: '0 0 31 2 *'",
        ),
    ],
)
def test_unreadable_schedule_is_named_and_ends_no_desktop(
    fields: dict[str, Any], words: str
) -> None:
    schedule = office(**fields)
    assert words in " ".join(find_problems(schedule))
    blocked = refused(schedule=msgspec.to_builtins(schedule))
    assert words in blocked.message
    assert blocked.needs_change
    observed = running(START, schedule)
    assert find_ending(observed, SETTINGS, END) is None
    assert find_alerts(observed, SETTINGS, END) == ()
    assert not is_open(schedule, END)


# --- the desktop at the end of a window


def running(started: datetime, schedule: TemplateSchedule, **status: Any) -> Observed:
    session = a_session(timeout="9999h", status={"startTime": format_time(started), **status})
    template = a_template(schedule=msgspec.to_builtins(schedule), lifecycle={})
    pod = a_pod(ready=True)
    pod.metadata.annotations[RUN_STARTED] = format_time(started)
    return Observed(
        session, template, pod, service=a_service(), route=a_route(), node=a_node(), host="alice"
    )


def warned(since: datetime, **status: Any) -> dict[str, Any]:
    shown = {
        "type": CLOSING,
        "status": "True",
        "reason": "ClosingSoon",
        "lastTransitionTime": format_time(since),
    }
    return {"conditions": [shown], **status}


START, WARNING, END = at("2026-06-01 10:00"), at("2026-06-01 17:55"), at("2026-06-01 18:00")


def test_end_of_working_hours_warns_and_suspends() -> None:
    observed = running(START, office())
    assert find_alerts(observed, SETTINGS, WARNING - timedelta(seconds=1)) == ()
    (alert,) = find_alerts(observed, SETTINGS, WARNING)
    assert (alert.type, alert.reason, alert.until) == (
        CLOSING,
        Reason.CLOSING_SOON,
        format_time(END),
    )
    assert "is suspended at 16:00 UTC unless someone uses mouse or keyboard" in alert.message
    (notice,) = find_notices(observed.session, [alert], WARNING)
    assert notice.until_input
    shown = running(START, office(), **warned(WARNING))
    assert find_ending(shown, SETTINGS, END - timedelta(seconds=1)) is None
    ending = find_ending(shown, SETTINGS, END)
    assert ending and (ending.reason, ending.suspends) == (Reason.WORKING_HOURS_OVER, True)
    assert "The working hours of this desktop ended at 16:00 UTC; it is suspended" in ending.message


def test_an_operator_that_was_away_warns_late_and_then_waits() -> None:
    back = END + timedelta(hours=2)
    assert find_ending(running(START, office()), SETTINGS, back) is None, "no one was warned"
    (alert,) = find_alerts(running(START, office()), SETTINGS, back)
    assert alert.until == format_time(back + timedelta(minutes=5))
    shown = running(START, office(), **warned(back))
    assert find_ending(shown, SETTINGS, back + timedelta(minutes=4, seconds=59)) is None
    assert find_ending(shown, SETTINGS, back + timedelta(minutes=5)) is not None


def test_warning_of_a_missed_end_begins_again() -> None:
    missed, back = running(START, office(), **warned(WARNING)), at("2026-06-02 17:56")
    alerts = find_alerts(missed, SETTINGS, back)
    assert [alert.until for alert in alerts] == [format_time(at("2026-06-02 18:01"))]
    status = derive(missed, None, SETTINGS, back, alerts)
    (since,) = [
        condition.last_transition_time
        for condition in status.conditions
        if condition.type == CLOSING
    ]
    assert since == format_time(back)
    assert (
        find_ending(running(START, office(), **warned(back)), SETTINGS, at("2026-06-02 18:01"))
        is not None
    )


def test_warning_of_a_short_run_is_in_whole_seconds() -> None:
    started = END - timedelta(seconds=89)
    now = END - timedelta(seconds=44) + timedelta(milliseconds=700)
    (alert,) = find_alerts(running(started, office()), SETTINGS, now)
    shown = running(started, office(), **warned(now))
    assert find_ending(shown, SETTINGS, parse_time(alert.until) + timedelta(seconds=1)) is not None


def test_desktop_started_after_hours_runs_to_the_next_end() -> None:
    evening, friday = at("2026-06-01 20:00"), at("2026-06-05 20:00")
    assert find_alerts(running(evening, office()), SETTINGS, at("2026-06-02 08:00")) == ()
    (alert,) = find_alerts(running(evening, office()), SETTINGS, at("2026-06-02 17:55"))
    assert alert.until == format_time(at("2026-06-02 18:00"))
    assert next_requeue(running(friday, office()), SETTINGS, friday) == at("2026-06-08 17:55"), (
        "over the weekend"
    )


def test_end_without_an_open_window_ends_nothing() -> None:
    schedule = office({"start": "0 9 * * MON-FRI", "end": "0 18 * * *"})
    saturday, evening = at("2026-06-06 11:00"), at("2026-06-06 19:00")
    assert find_alerts(running(saturday, schedule), SETTINGS, evening) == ()
    assert next_requeue(running(saturday, schedule), SETTINGS, evening) == at("2026-06-08 17:55")
    (alert,) = find_alerts(running(at("2026-06-05 11:00"), schedule), SETTINGS, evening)
    assert alert.until == format_time(evening + timedelta(minutes=5)), (
        "the operator missed the end on Friday"
    )


def test_input_during_the_warning_cancels_the_end() -> None:
    shown = running(START, office(), **warned(WARNING))
    typed = Activity(
        last_input=WARNING + timedelta(seconds=30), seen=WARNING + timedelta(seconds=31)
    )
    active = replace(shown, activity=typed)
    assert find_alerts(active, SETTINGS, WARNING + timedelta(minutes=1)) == ()
    assert find_ending(active, SETTINGS, END + timedelta(hours=3)) is None
    (alert,) = find_alerts(active, SETTINGS, at("2026-06-02 17:55"))
    assert alert.until == format_time(at("2026-06-02 18:00")), "only this end"
    restarted = running(START, office(), lastActivityTime=format_time(typed.last_input))
    assert find_ending(restarted, SETTINGS, END + timedelta(hours=3)) is None, (
        "a restarted operator knows it"
    )
    strict = running(START, office(cancelOnActivity=False), **warned(WARNING))
    assert find_ending(replace(strict, activity=typed), SETTINGS, END) is not None
    (alert,) = find_alerts(strict, SETTINGS, WARNING)
    assert "unless" not in alert.message


def test_desktop_is_polled_once_more_at_the_end() -> None:
    shown = running(START, office(), **warned(WARNING))
    quiet = Activity(last_input=START, seen=END - timedelta(seconds=4))
    assert find_ending(replace(shown, activity=quiet), SETTINGS, END) is None
    asked = replace(quiet, seen=END)
    assert find_ending(replace(shown, activity=asked), SETTINGS, END) is not None
    assert next_requeue(replace(shown, activity=quiet), SETTINGS, END) == END + timedelta(
        seconds=15
    )
    assert (
        find_ending(replace(shown, activity=quiet), SETTINGS, END + timedelta(seconds=15))
        is not None
    )


@given(
    start=st.integers(0, 7 * 24 * 60),
    away=st.lists(st.tuples(st.integers(0, 9 * 24 * 60), st.integers(1, 20 * 60)), max_size=4),
    zone=ZONES,
)
def test_desktop_ends_once_and_only_after_its_warning(
    start: int, away: list[tuple[int, int]], zone: str
) -> None:
    """Simulated over a week with a clock change: by the minute near the end, by the hour far from
    it.
    """
    schedule = office(timeZone=zone)
    monday = datetime.combine(
        CHANGES[zone][0] - timedelta(days=6), datetime.min.time(), ZoneInfo(zone)
    )
    started = monday.astimezone(UTC) + timedelta(minutes=start)
    down = [(monday.astimezone(UTC) + timedelta(minutes=begin), length) for begin, length in away]
    warned_at, ended = None, None
    now, step = started, timedelta(minutes=1)
    while ended is None and now < started + timedelta(days=10):
        now += step
        if any(begin <= now < begin + timedelta(minutes=length) for begin, length in down):
            step = timedelta(minutes=1)
            continue
        closing = find_closing(
            schedule,
            started=started,
            activity=None,
            last_known_activity=None,
            warned_at=warned_at,
            now=now,
        )
        assert closing is not None
        step = (
            timedelta(minutes=1)
            if now > closing.warn_at - timedelta(hours=2)
            else timedelta(hours=1)
        )
        if closing.is_over(now):
            assert warned_at is not None
            assert now - warned_at >= min(timedelta(minutes=5), (closing.at - started) / 2)
            ended = now
        elif closing.is_warned(now):
            warned_at = now if warned_at is None or warned_at < closing.warn_at else warned_at
        else:
            warned_at = None
    assert ended is not None
    expected = next_change_after(schedule, started)
    missed = any(
        begin <= expected + timedelta(minutes=6)
        and begin + timedelta(minutes=length) > expected - timedelta(minutes=6)
        for begin, length in down
    )
    assert ended >= expected
    assert missed or ended - expected <= timedelta(minutes=1), "one step of this simulation"


def next_change_after(schedule: TemplateSchedule, started: datetime) -> datetime:
    opens = started if is_open(schedule, started) else next_change(schedule, started)
    assert opens is not None
    closes = next_change(schedule, opens)
    assert closes is not None
    return closes


# The schedule of a session

LEAD = timedelta(minutes=5)


def weekdays(**fields: Any) -> dict[str, Any]:
    return {"start": "08:30", "timeZone": BERLIN, **fields}


def a_scheduled(
    *, suspended: bool = True, known: datetime | None = None, **fields: Any
) -> VDISession:
    session = a_session(schedule=weekdays(**fields), suspended=suspended)
    if known:
        session.status.next_start = format_time(known)
    return session


@st.composite
def schedules(draw: st.DrawFn) -> tuple[SessionSchedule, str, date]:
    """A schedule in one of three zones, and a day near a change of its clock."""
    zone = draw(st.sampled_from(list(CHANGES)))
    change = draw(st.sampled_from(CHANGES[zone]))
    days = draw(
        st.lists(st.sampled_from([day.value for day in Day]), min_size=1, max_size=7, unique=True)
    )
    hour = draw(st.integers(0, 23) | st.sampled_from([1, 2, 3]))
    start = f"{hour:02}:{draw(st.sampled_from([0, 15, 30, 59])):02}"
    return SessionSchedule(start=start, days=tuple(days), time_zone=zone), zone, change


def resumptions(
    schedule: SessionSchedule, first: datetime, last: datetime, step: timedelta
) -> Iterator[datetime]:
    """When the desktop is resumed, looked at in steps; its user suspends it again at once."""
    session = a_session(suspended=True)
    session.spec.schedule = schedule
    now = first
    while now <= last:
        due = start_due_at(session, now)
        session.spec.suspended = due is None or now < due
        if not session.spec.suspended:
            yield now
        start = next_start(session, now)
        session.status.next_start = format_time(start) if start else ""
        session.spec.suspended = True
        now += step


@given(schedules())
def test_each_chosen_day_has_one_resumption(drawn: tuple[SessionSchedule, str, date]) -> None:
    schedule, zone, change = drawn
    local = ZoneInfo(zone)
    begin = datetime.combine(change - timedelta(days=4), time(12), local).astimezone(UTC)
    end = datetime.combine(change + timedelta(days=4), time(12), local).astimezone(UTC)
    ready = [
        (resumed + LEAD).astimezone(local)
        for resumed in resumptions(schedule, begin, end, timedelta(minutes=1))
    ]
    names = [day.value for day in Day]
    inside = [change + timedelta(days=number) for number in range(-3, 4)]
    chosen = [day for day in inside if names[day.weekday()] in schedule.days]
    assert [moment.date() for moment in ready if moment.date() in inside] == chosen


@given(schedules(), st.integers(0, 48 * 60), st.integers(1, 36 * 60))
def test_operator_that_was_away_resumes_at_most_once(
    drawn: tuple[SessionSchedule, str, date], away_after: int, away_for: int
) -> None:
    schedule, zone, change = drawn
    session = a_session(suspended=True)
    session.spec.schedule = schedule
    now = datetime.combine(change - timedelta(days=1), time(), ZoneInfo(zone)).astimezone(UTC)
    now += timedelta(minutes=away_after)
    known = next_start(session, now)
    assert known is not None
    session.status.next_start = format_time(known)
    back = now + timedelta(minutes=away_for)
    due = start_due_at(session, back)
    assert due is not None
    late = back - known
    if late > timedelta(minutes=30):
        assert due + LEAD > back, "the next time, and not the one that was missed"
        return
    assert due == known - LEAD
    if late >= -LEAD:
        session.spec.suspended = False
        following = next_start(session, back)
        assert following and following > known


def test_suspended_desktop_is_not_resumed_for_the_same_time() -> None:
    running = a_scheduled(suspended=False, known=at("2026-06-01 08:30"))
    assert next_start(running, at("2026-06-01 08:24")) == at("2026-06-01 08:30")
    assert next_start(running, at("2026-06-01 08:25")) == at("2026-06-02 08:30")
    suspended = a_scheduled(known=at("2026-06-02 08:30"))
    assert start_due_at(suspended, at("2026-06-01 08:27")) == at("2026-06-02 08:25")


def test_a_schedule_set_after_its_time_starts_on_the_next_day() -> None:
    assert next_start(a_scheduled(), at("2026-06-01 08:45")) == at("2026-06-02 08:30")
    assert start_due_at(a_scheduled(), at("2026-06-01 08:28")) == at("2026-06-01 08:25"), (
        "due already"
    )


def test_a_changed_schedule_forgets_the_time_in_the_status() -> None:
    session = a_scheduled(known=at("2026-06-01 08:30"), start="10:00")
    assert next_start(session, at("2026-06-01 08:00")) == at("2026-06-01 10:00")


def test_the_status_says_when_the_desktop_is_ready_next() -> None:
    suspended = Observed(a_scheduled(), a_template())
    now = at("2026-06-05 19:00")  # a Friday
    assert derive_suspended(suspended, SETTINGS, now).next_start == format_time(
        at("2026-06-08 08:30")
    )
    assert next_requeue(suspended, SETTINGS, now) == at("2026-06-08 08:25")
    running = Observed(
        a_scheduled(suspended=False), a_template(), pod=a_pod(started="2026-06-05T08:00:00Z")
    )
    assert derive(running, None, SETTINGS, now).next_start == format_time(at("2026-06-08 08:30"))


def _running(started: str, now: str, **fields: Any) -> tuple[Observed, datetime]:
    session = a_scheduled(suspended=False, **{"end": "18:00", **fields})
    session.spec.timeout = "24h"
    pod = a_pod()
    pod.metadata.annotations[RUN_STARTED] = format_time(at(started))
    return Observed(session, a_template(), pod=pod), at(now)


def test_the_end_of_the_day_warns_and_suspends() -> None:
    observed, now = _running("2026-06-01 08:25", "2026-06-01 17:55")
    alert = next(alert for alert in find_alerts(observed, SETTINGS, now) if alert.type == CLOSING)
    assert alert.until == format_time(at("2026-06-01 18:00"))
    assert alert.until_input
    shown = msgspec.structs.replace(
        observed.session, status=derive(observed, None, SETTINGS, now, [alert])
    )
    ending = find_ending(replace(observed, session=shown), SETTINGS, at("2026-06-01 18:00"))
    assert ending and ending.reason == Reason.WORKING_HOURS_OVER
    assert ending.suspends


def test_an_end_before_the_start_is_on_the_next_day() -> None:
    hours = working_hours(SessionSchedule(start="22:00", end="06:00", time_zone=BERLIN))
    assert hours is not None
    observed, now = _running("2026-06-01 21:55", "2026-06-02 05:00", start="22:00", end="06:00")
    assert next_requeue(observed, SETTINGS, now) == at("2026-06-02 05:55")


def test_the_earlier_of_two_ends_counts() -> None:
    observed, now = _running("2026-06-01 08:25", "2026-06-01 16:55")
    template = a_template(
        schedule={"windows": [{"start": "0 7 * * *", "end": "0 17 * * *"}], "timeZone": BERLIN}
    )
    both = replace(observed, template=template)
    alert = next(alert for alert in find_alerts(both, SETTINGS, now) if alert.type == CLOSING)
    assert alert.until == format_time(at("2026-06-01 17:00"))


def test_run_with_a_schedule_is_suspended_not_deleted() -> None:
    observed, now = _running("2026-06-01 10:00", "2026-06-01 11:00")
    observed.session.spec.timeout = "1h"
    ending = find_ending(observed, SETTINGS, now)
    assert ending and ending.suspends
    observed.session.spec.schedule = None
    ending = find_ending(observed, SETTINGS, now)
    assert ending and not ending.suspends


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd"])
def test_an_unknown_time_zone_is_refused_by_its_field(zone: str) -> None:
    session = a_scheduled(timeZone=zone)
    words = f"spec.schedule.timeZone: {zone!r} is not allowed; allowed: a known time zone"
    assert words in refused(session).message
    assert next_start(session, at("2026-06-01 08:00")) is None
