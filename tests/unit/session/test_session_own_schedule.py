"""A session's own schedule: one resumption for each of its days, whatever the clock, the operator and its user do."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_pod, a_session, a_template
from vdi.api.schedule import Day, SessionSchedule
from vdi.api.session import VDISession
from vdi.cluster.units import format_time
from vdi.session.alerts import find_alerts
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import CLOSING, Reason
from vdi.session.decide import Observed
from vdi.session.effective import Blocked, resolve
from vdi.session.ending import find_ending, next_requeue
from vdi.session.naming import RUN_STARTED
from vdi.session.schedule import next_start, start_due_at, working_hours
from vdi.session.status import derive, derive_suspended

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
CLOCK_CHANGES = {
    BERLIN: (date(2026, 3, 29), date(2026, 10, 25)),
    NEW_YORK: (date(2026, 3, 8), date(2026, 11, 1)),
    LORD_HOWE: (date(2026, 4, 5), date(2026, 10, 4)),
}
SETTINGS = ClusterSettings(max_timeout=None)
LEAD = timedelta(minutes=5)


def at(text: str, zone: str = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)


def weekdays(**fields: Any) -> dict[str, Any]:
    return {"start": "08:30", "timeZone": BERLIN, **fields}


def a_scheduled(*, suspended: bool = True, known: datetime | None = None, **fields: Any) -> VDISession:
    session = a_session(schedule=weekdays(**fields), suspended=suspended)
    if known:
        session.status.next_start = format_time(known)
    return session


@st.composite
def schedules(draw: st.DrawFn) -> tuple[SessionSchedule, str, date]:
    """A schedule in one of three zones, and a day near a change of its clock."""
    zone = draw(st.sampled_from(list(CLOCK_CHANGES)))
    change = draw(st.sampled_from(CLOCK_CHANGES[zone]))
    days = draw(st.lists(st.sampled_from([day.value for day in Day]), min_size=1, max_size=7, unique=True))
    hour = draw(st.integers(0, 23) | st.sampled_from([1, 2, 3]))
    start = f"{hour:02}:{draw(st.sampled_from([0, 15, 30, 59])):02}"
    return SessionSchedule(start=start, days=tuple(days), time_zone=zone), zone, change


def resumptions(schedule: SessionSchedule, first: datetime, last: datetime, step: timedelta) -> Iterator[datetime]:
    """When the desktop is resumed, looked at in steps; its user suspends it again at once."""
    session = msgspec.structs.replace(a_session(suspended=True))
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
    ready = [(resumed + LEAD).astimezone(local) for resumed in resumptions(schedule, begin, end, timedelta(minutes=1))]
    names = [day.value for day in Day]
    inside = [change + timedelta(days=number) for number in range(-3, 4)]
    chosen = [day for day in inside if names[day.weekday()] in schedule.days]
    assert [moment.date() for moment in ready if moment.date() in inside] == chosen


@given(schedules(), st.integers(0, 48 * 60), st.integers(1, 36 * 60))
def test_operator_that_was_away_resumes_once_or_counts_the_time_as_missed(
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
    if -LEAD <= late <= timedelta(minutes=30):
        assert due == known - LEAD
        session.spec.suspended = False
        following = next_start(session, back)
        assert following is not None
        assert following > known
    elif late > timedelta(minutes=30):
        assert due + LEAD > back, "the next time, and not the one that was missed"
    else:
        assert due == known - LEAD


def test_a_desktop_suspended_by_its_user_is_not_resumed_for_the_same_time() -> None:
    running = a_scheduled(suspended=False, known=at("2026-06-01 08:30"))
    assert next_start(running, at("2026-06-01 08:24")) == at("2026-06-01 08:30")
    assert next_start(running, at("2026-06-01 08:25")) == at("2026-06-02 08:30")
    suspended = a_scheduled(known=at("2026-06-02 08:30"))
    assert start_due_at(suspended, at("2026-06-01 08:27")) == at("2026-06-02 08:25")


def test_a_schedule_set_after_its_time_starts_on_the_next_day() -> None:
    assert next_start(a_scheduled(), at("2026-06-01 08:45")) == at("2026-06-02 08:30")
    assert start_due_at(a_scheduled(), at("2026-06-01 08:28")) == at("2026-06-01 08:25"), "due already"


def test_a_changed_schedule_forgets_the_time_in_the_status() -> None:
    session = a_scheduled(known=at("2026-06-01 08:30"), start="10:00")
    assert next_start(session, at("2026-06-01 08:00")) == at("2026-06-01 10:00")


def test_no_schedule_has_no_next_start() -> None:
    assert next_start(a_session(suspended=True), at("2026-06-01 08:00")) is None
    assert start_due_at(a_session(suspended=True), at("2026-06-01 08:00")) is None


def test_the_status_says_when_the_desktop_is_ready_next() -> None:
    suspended = Observed(a_scheduled(), a_template())
    now = at("2026-06-05 19:00")  # a Friday
    assert derive_suspended(suspended, SETTINGS, now).next_start == format_time(at("2026-06-08 08:30"))
    assert next_requeue(suspended, SETTINGS, now) == at("2026-06-08 08:25")
    running = Observed(a_scheduled(suspended=False), a_template(), pod=a_pod(started="2026-06-05T08:00:00Z"))
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
    shown = msgspec.structs.replace(observed.session, status=derive(observed, None, SETTINGS, now, [alert]))
    ending = find_ending(replace(observed, session=shown), SETTINGS, at("2026-06-01 18:00"))
    assert ending is not None
    assert ending.reason == Reason.WORKING_HOURS_OVER
    assert ending.suspends


def test_an_end_before_the_start_is_on_the_next_day() -> None:
    hours = working_hours(SessionSchedule(start="22:00", end="06:00", time_zone=BERLIN))
    assert hours is not None
    observed, now = _running("2026-06-01 21:55", "2026-06-02 05:00", start="22:00", end="06:00")
    assert next_requeue(observed, SETTINGS, now) == at("2026-06-02 05:55")


def test_the_earlier_of_two_ends_counts() -> None:
    observed, now = _running("2026-06-01 08:25", "2026-06-01 16:55")
    template = a_template(schedule={"windows": [{"start": "0 7 * * *", "end": "0 17 * * *"}], "timeZone": BERLIN})
    both = replace(observed, template=template)
    alert = next(alert for alert in find_alerts(both, SETTINGS, now) if alert.type == CLOSING)
    assert alert.until == format_time(at("2026-06-01 17:00"))


def test_a_run_with_a_schedule_is_suspended_where_others_are_deleted() -> None:
    session = a_scheduled(suspended=False)
    session.spec.timeout = "1h"
    pod = a_pod()
    pod.metadata.annotations[RUN_STARTED] = format_time(at("2026-06-01 10:00"))
    ending = find_ending(Observed(session, a_template(), pod=pod), SETTINGS, at("2026-06-01 11:00"))
    assert ending is not None
    assert ending.suspends
    session.spec.schedule = None
    ending = find_ending(Observed(session, a_template(), pod=pod), SETTINGS, at("2026-06-01 11:00"))
    assert ending is not None
    assert not ending.suspends


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "../etc/passwd"])
def test_an_unknown_time_zone_is_refused_by_its_field(zone: str) -> None:
    session = a_scheduled(timeZone=zone)
    blocked = resolve(session, a_template(), SETTINGS)
    assert isinstance(blocked, Blocked)
    assert f"spec.schedule.timeZone: {zone!r} is not allowed; allowed: a known time zone" in blocked.message
    assert next_start(session, at("2026-06-01 08:00")) is None
