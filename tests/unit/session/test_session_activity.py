"""Who is idle, who is warned, and who never is."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_session, a_template
from vdi.session.lifetime import (
    Activity,
    Idle,
    evaluate_idle,
    idle_timeout,
    is_known,
    last_activity,
    next_poll,
    poll_interval,
    warning_time,
)

START = datetime(2026, 11, 20, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)

timeouts = st.integers(4, 7 * 24 * 3600).map(lambda seconds: timedelta(seconds=seconds))
offsets = st.integers(-3600, 7 * 24 * 3600).map(lambda seconds: timedelta(seconds=seconds))


def minutes(number: float) -> datetime:
    return START + timedelta(minutes=number)


def reported(
    last_input: datetime, seen: datetime, last_connect: datetime | None = None
) -> Activity:
    return Activity(last_input=last_input, seen=seen, last_connect=last_connect)


def judge(
    activity: Activity, now: datetime, timeout: timedelta = HOUR, warned_at: datetime | None = None
) -> Idle:
    idle = evaluate_idle(
        started=START, activity=activity, timeout=timeout, warned_at=warned_at, now=now
    )
    assert idle is not None
    return idle


def test_an_hour_without_input_is_warned_of_five_minutes_before() -> None:
    verdict = judge(reported(minutes(0), seen=minutes(30)), now=minutes(30))
    assert verdict == Idle(START, START, minutes(55), minutes(60), seen=minutes(30))
    assert not verdict.warned(minutes(54.9))
    assert verdict.warned(minutes(55))


def test_it_is_over_when_it_was_asked_once_more_at_the_end() -> None:
    asked_before = judge(
        reported(minutes(0), seen=minutes(59.9)), now=minutes(60), warned_at=minutes(55)
    )
    asked_then = judge(
        reported(minutes(0), seen=minutes(60)), now=minutes(60), warned_at=minutes(55)
    )
    assert not asked_before.over(minutes(60))
    assert not asked_then.over(minutes(59.9))
    assert asked_then.over(minutes(60))


def test_it_is_asked_when_the_answer_matters() -> None:
    verdict = judge(reported(minutes(50), seen=minutes(51)), now=minutes(51))
    assert next_poll(verdict, HOUR, minutes(51)) == timedelta(minutes=10)
    assert next_poll(verdict, HOUR, minutes(104)) == timedelta(minutes=1)
    assert next_poll(verdict, HOUR, minutes(105)) == timedelta(seconds=5)
    assert next_poll(verdict, HOUR, minutes(110) - timedelta(seconds=2)) == timedelta(seconds=2)
    assert next_poll(verdict, HOUR, minutes(111)) == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("last_input", "last_connect", "since"),
    [(-10, None, 0), (20, None, 20), (20, 25, 25), (-10, -5, 0)],
    ids=[
        "start counts",
        "input counts",
        "a browser that connects counts",
        "an earlier run does not",
    ],
)
def test_since(last_input: float, last_connect: float | None, since: float) -> None:
    connect = minutes(last_connect) if last_connect is not None else None
    activity = reported(minutes(last_input), minutes(30), connect)
    assert last_activity(START, activity) == minutes(since)
    verdict = judge(activity, now=minutes(30))
    assert verdict.since == minutes(since)


def test_desktop_without_a_recent_report_is_not_idle() -> None:
    def idle(activity: Activity | None, now: datetime) -> Idle | None:
        return evaluate_idle(
            started=START, activity=activity, timeout=HOUR, warned_at=None, now=now
        )

    asked, limit = reported(START, seen=minutes(60)), minutes(60) + 3 * poll_interval(HOUR)
    assert idle(None, minutes(600)) is None
    assert idle(asked, limit) is not None
    assert idle(asked, limit + timedelta(seconds=1)) is None
    assert last_activity(START, None) == START


def test_no_one_is_idle_for_good_who_was_not_warned() -> None:
    asked = reported(START, seen=minutes(90))
    late = judge(asked, now=minutes(90))
    assert late.warned(minutes(90))
    assert not late.over(minutes(90))
    assert late.over_at == minutes(95)
    warned = judge(asked, now=minutes(90), warned_at=minutes(85))
    assert warned.over(minutes(90))


def test_a_warning_from_before_the_last_input_is_none() -> None:
    verdict = judge(reported(minutes(57), seen=minutes(58)), now=minutes(58), warned_at=minutes(55))
    assert not verdict.warned(minutes(58))
    again = judge(reported(minutes(57), seen=minutes(117)), now=minutes(117), warned_at=minutes(55))
    assert again.over_at == minutes(122)


@pytest.mark.parametrize(
    ("timeout", "work", "now", "over"),
    [(60, 20, 54, 60), (60, 53, 54, 63), (4, 3, 3, 7), (60, -30, 54, 60)],
    ids=["work long ago", "ten minutes", "no longer than the timeout", "of an earlier run"],
)
def test_work_of_an_agent_delays_the_end_only(
    timeout: float, work: float, now: float, over: float
) -> None:
    activity = replace(reported(START, seen=minutes(now)), last_work=minutes(work))
    verdict = judge(activity, minutes(now), timedelta(minutes=timeout))
    assert verdict.over_at == minutes(over)
    assert verdict.since == START, "it is no activity of a person"


def test_work_after_a_warning_calls_for_another() -> None:
    working = replace(reported(START, seen=minutes(57)), last_work=minutes(56))
    assert not judge(working, minutes(57), warned_at=minutes(55)).warned(minutes(57))
    late = replace(working, seen=minutes(70))
    assert judge(late, minutes(70), warned_at=minutes(55)).over_at == minutes(75)
    assert judge(late, minutes(70), warned_at=minutes(61)).over(minutes(70))


def test_whose_timeout_holds() -> None:
    template = a_template(lifecycle={"idleTimeout": "30m"})
    assert idle_timeout(a_session(), template) == timedelta(minutes=30)
    assert idle_timeout(a_session(idleTimeout="2h"), template) == timedelta(hours=2)
    assert idle_timeout(a_session(idleTimeout="2h"), None) == timedelta(hours=2)
    assert idle_timeout(a_session(), a_template()) is None
    assert idle_timeout(a_session(), None) is None
    assert idle_timeout(a_session(idleTimeout="soon"), template) is None


@given(timeouts)
def test_a_poll_comes_often_enough_to_warn_in_time(timeout: timedelta) -> None:
    assert timedelta() < 2 * poll_interval(timeout) <= warning_time(timeout) < timeout


@given(timeouts, offsets, offsets, offsets, st.none() | offsets)
def test_the_order_of_things(
    timeout: timedelta,
    last_input: timedelta,
    seen: timedelta,
    age: timedelta,
    warned: timedelta | None,
) -> None:
    activity = reported(START + last_input, START + seen)
    now = activity.seen + abs(age)
    warned_at = START + warned if warned is not None else None
    if not is_known(activity, timeout, now):
        return
    verdict = judge(activity, now, timeout, warned_at)
    assert verdict.since >= START
    assert verdict.since < verdict.warn_at < verdict.over_at
    assert verdict.over_at >= verdict.since + timeout
    if verdict.over(now):
        assert verdict.warned(now)
        assert warned_at is not None
        assert now - warned_at >= warning_time(timeout)


@given(timeouts, offsets, offsets)
def test_input_never_shortens(timeout: timedelta, one: timedelta, more: timedelta) -> None:
    now = START + 2 * timedelta(days=7)
    early = judge(reported(START + one, seen=now), now, timeout)
    late = judge(reported(START + one + abs(more), seen=now), now, timeout)
    assert early.since <= late.since
    assert early.over_at <= late.over_at
