"""Hours by user and calendar month: exact at the turn of a month, and the same however it is
asked.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.gateway.gateway_stage import GatewayStage
from unit.gateway.history_stage import at
from vdi.gateway.history.export import ExportFormat, export_usage
from vdi.gateway.history.usage import By, Month, OwnedRun, UsageReport, seconds_within, sum_up
from vdi.gateway.limits import MonthUse
from vdi.gateway.store.history import RunRow

NOVEMBER, DECEMBER = Month(2026, 11), Month(2026, 12)
NOW = datetime(2026, 12, 15, tzinfo=UTC)
ALICE, BOB = "alice@example.com", "bob@example.com"


def run(
    start: datetime, hours: float | None, *, uid: str = "a", gpus: int | None = 1, **more: Any
) -> RunRow:
    ended = start + timedelta(hours=hours) if hours is not None else None
    return RunRow(uid=uid, start=start, ended=ended, gpus=gpus, **more)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026/11", "0000-01", "٢٠٢٦-١١"]
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: months such as 2026-11"):
        Month.parse(text)


@given(st.datetimes(timezones=st.just(UTC), max_value=datetime(9999, 11, 30)))
def test_every_moment_is_in_exactly_one_month(moment: datetime) -> None:
    month = Month.of(moment)
    assert month.begin <= moment < month.end
    assert Month.parse(str(month)) == month
    assert Month.of(month.end) > month


def test_a_month_is_utc() -> None:
    tokyo = datetime.fromisoformat("2026-12-01T08:00:00+09:00")
    assert Month.of(tokyo) == NOVEMBER
    assert Month(9999, 12).end > Month(9999, 12).begin


def test_over_the_turn_of_a_month_each_gets_its_part() -> None:
    late = run(datetime(2026, 11, 30, 22, tzinfo=UTC), 5)
    assert seconds_within(late, NOVEMBER, NOW) == 2 * 3600
    assert seconds_within(late, DECEMBER, NOW) == 3 * 3600
    assert seconds_within(late, Month(2027, 1), NOW) == 0


def test_what_still_runs_counts_until_now() -> None:
    on = run(NOW - timedelta(hours=1), None)
    assert seconds_within(on, DECEMBER, NOW) == 3600
    assert seconds_within(on, DECEMBER, NOW - timedelta(hours=2)) == 0  # a clock that went back


def test_the_report() -> None:
    eve = NOVEMBER.begin - timedelta(hours=1)
    rows = [
        (BOB, run(NOVEMBER.begin, 10, uid="b", gpus=None, startup_seconds=4.0)),
        (
            ALICE,
            run(eve, 2, uid="a1", gpus=2, agent_minutes=9, queue_seconds=30.0, startup_seconds=5.0),
        ),
        (
            ALICE,
            run(
                NOVEMBER.begin,
                3,
                uid="a1",
                gpus=2,
                agent_minutes=45,
                queue_seconds=10.0,
                startup_seconds=60.0,
            ),
        ),
        (ALICE, run(NOVEMBER.begin, 8, uid="a2", gpus=0, queue_seconds=20.0)),
    ]
    alice, bob = sum_up(
        [OwnedRun(user, "office", row) for user, row in rows], By.USER, NOVEMBER, NOW
    )
    assert (alice.name, alice.sessions, alice.runs, alice.hours, alice.gpu_hours) == (
        ALICE,
        2,
        2,
        12,
        8,
    )
    assert (alice.agent_hours, bob.agent_hours) == (0.75, 0), "of runs that started in this month"
    assert (alice.queued, alice.median_queue_seconds, alice.median_startup_seconds) == (
        2,
        15.0,
        60.0,
    )
    assert (bob.hours, bob.gpu_hours, bob.queued, bob.median_queue_seconds) == (10, 0, 0, None)
    figures = (
        "sessions,runs,hours,gpuHours,agentHours,queued,medianQueueSeconds,medianStartupSeconds"
    )
    text = (
        export_usage(UsageReport(month="2026-11", users=(alice, bob)), ExportFormat.CSV)
        .decode()
        .splitlines()
    )
    assert text[0] == f"user,month,{figures}"
    assert text[1:] == [
        "alice@example.com,2026-11,2,2,12.0,8.0,0.75,2,15.0,60.0",
        "bob@example.com,2026-11,1,1,10.0,0.0,0.0,0,,4.0",
    ]
    lines = export_usage(
        UsageReport(month="2026-11", users=(alice,)), ExportFormat.JSON_LINES
    ).decode()
    assert lines.startswith('{"user":"alice@example.com","month":"2026-11","sessions":2,')


async def test_hours_of_one_user_in_the_database() -> None:
    stage = GatewayStage()
    for user, hours, template in (
        ("alice", 1.5, "cad"),
        ("alice", 0.5, "office"),
        ("bob", 10, "office"),
    ):
        stage.use(f"{user}@example.com", hours, template, end=at(60 * hours), gpus=2)
    assert await stage.history.use_this_month("Alice@example.com", at(700)) == MonthUse(
        2, 4, DECEMBER.begin
    )
    assert await stage.history.use_this_month("alice@example.com", NOW) == MonthUse(
        0, 0, DECEMBER.end
    )
    report = await stage.history.usage(NOVEMBER, NOW)
    assert [(usage.name, usage.hours, usage.gpu_hours) for usage in report.users] == [
        (BOB, 10, 20),
        (ALICE, 2, 4),
    ]
    assert [(usage.name, usage.hours) for usage in report.templates] == [
        ("office", 10.5),
        ("cad", 1.5),
    ]
    mine = await stage.history.usage(NOVEMBER, NOW, "Alice@example.com")
    assert mine.users == report.users[1:]
    assert [(usage.name, usage.hours) for usage in mine.templates] == [
        ("cad", 1.5),
        ("office", 0.5),
    ]
