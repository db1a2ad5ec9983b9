"""Trends of the last day and week: the most at once in each interval, and medians of what began in it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.gateway.gateway_stage import GatewayStage
from unit.gateway.history_stage import at
from vdi.gateway.history.usage import Period, trend
from vdi.gateway.store.history import RunRow

NOW = datetime(2026, 11, 20, 12, 2, tzinfo=UTC)
MINUTES = st.integers(-8 * 24 * 60, 0)


def before(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


@pytest.mark.parametrize(
    ("period", "begin", "last"),
    [
        (Period.DAY, datetime(2026, 11, 19, 13, tzinfo=UTC), datetime(2026, 11, 20, 12, tzinfo=UTC)),
        (Period.WEEK, datetime(2026, 11, 13, 18, tzinfo=UTC), datetime(2026, 11, 20, 12, tzinfo=UTC)),
    ],
)
def test_intervals_begin_at_full_hours_and_end_with_now(period: Period, begin: datetime, last: datetime) -> None:
    found = trend([], period, NOW)
    assert (found[0].begin, found[-1].begin, len(found)) == (begin, last, period.intervals)
    assert found[-1].begin <= NOW < found[-1].begin + period.step
    assert {(each.desktops, each.gpus, each.queue_seconds, each.startup_seconds) for each in found} == {
        (0, 0, None, None)
    }


def test_the_most_at_once_and_the_medians() -> None:
    runs = [
        RunRow(uid="u", start=before(30), ended=before(22.5), gpus=2, queue_seconds=900.0, startup_seconds=9.0),
        RunRow(uid="u", start=before(2.0), ended=before(1.9), gpus=1, queue_seconds=10.0, startup_seconds=2.0),
        RunRow(uid="u", start=before(1.9), ended=before(1.8), gpus=1, queue_seconds=None, startup_seconds=4.0),
        RunRow(uid="u", start=before(1.85), gpus=None, queue_seconds=30.0, startup_seconds=None),
    ]
    found = trend(runs, Period.DAY, NOW)
    assert (found[0].desktops, found[0].gpus, found[0].queue_seconds) == (1, 2, None)
    assert [each.desktops for each in found[1:-3]] == [0] * 20
    assert (found[-3].desktops, found[-3].gpus, found[-3].queue_seconds, found[-3].startup_seconds) == (2, 1, 20.0, 3.0)
    assert [each.desktops for each in found[-2:]] == [1, 1]


@given(st.lists(st.tuples(MINUTES, MINUTES, st.integers(0, 3)), max_size=30), st.sampled_from([*Period]))
def test_a_trend_is_what_each_minute_has(made: list[tuple[int, int, int]], period: Period) -> None:
    moment = NOW.replace(minute=0)
    runs = [
        RunRow(
            uid="u", start=moment + timedelta(minutes=min(a, b)), ended=moment + timedelta(minutes=max(a, b)), gpus=gpus
        )
        for a, b, gpus in made
        if a != b
    ]
    for interval in trend(runs, period, NOW):
        moments = {interval.begin} | {run.start for run in runs}
        within = [at for at in moments if interval.begin <= at < interval.begin + period.step]
        live = [[run for run in runs if run.start <= at and run.ended and at < run.ended] for at in within]
        assert interval.desktops == max(len(each) for each in live)
        assert interval.gpus == max(sum(run.gpus or 0 for run in each) for each in live)


async def test_a_trend_of_the_database() -> None:
    stage = GatewayStage()
    for user, hours in (("alice", 1.5), ("bob", 10)):
        stage.use(f"{user}@example.com", hours, end=at(60 * hours), gpus=2)
    found = await stage.history.trend(Period.DAY, at(700))
    assert max(interval.desktops for interval in found) == 2
    assert max(interval.gpus for interval in found) == 4
    assert [interval.desktops for interval in await stage.history.trend(Period.DAY, at(10_000))] == [0] * 24
