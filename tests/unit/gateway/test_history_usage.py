"""Hours by user and calendar month: exact at the turn of a month, and the same however it is asked."""

import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.gateway.history_stage import Life, Replica, at, open_database, sqlite_url
from vdi.api.pool import VDIPool
from vdi.api.resources import TemplateResources
from vdi.gateway.history.export import Form, export_usage
from vdi.gateway.history.sampler import UsageSampler
from vdi.gateway.history.usage import (
    By,
    HomesOf,
    Month,
    RunOf,
    Usage,
    UsageReport,
    idle_within,
    month_use,
    read_report,
    seconds_within,
    sum_up,
)
from vdi.gateway.limits import MonthUse
from vdi.gateway.prices import Prices
from vdi.gateway.store.base import Database
from vdi.gateway.store.history import RunRow
from vdi.gateway.store.usage import drop_samples, keep_groups
from vdi.session.home_list import HomeClaim
from vdi.session.units import parse_quantity

VERSIONS = itertools.count(1)
NOVEMBER, DECEMBER = Month(2026, 11), Month(2026, 12)
NOW = datetime(2026, 12, 15, tzinfo=UTC)


def run(start: datetime, hours: float | None, *, uid: str = "a", gpus: int | None = 1) -> RunRow:
    return RunRow(uid=uid, start=start, ended=start + timedelta(hours=hours) if hours is not None else None, gpus=gpus)


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026/11", "0000-01", "٢٠٢٦-١١"])
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


def by_user(rows: list[tuple[str, RunRow]], prices: Prices | None = None) -> list[Usage]:
    found = [RunOf(user, "office", row) for user, row in rows]
    return sum_up(found, [], lambda user, _: (user,), NOVEMBER, NOW, prices or Prices())


def test_the_report() -> None:
    rows = [
        ("bob@example.com", run(datetime(2026, 11, 3, tzinfo=UTC), 10, uid="b", gpus=None)),
        ("alice@example.com", run(datetime(2026, 10, 31, 23, tzinfo=UTC), 2, uid="a1", gpus=2)),
        ("alice@example.com", run(datetime(2026, 11, 4, tzinfo=UTC), 3, uid="a1", gpus=2)),
        ("alice@example.com", run(datetime(2026, 11, 5, tzinfo=UTC), 8, uid="a2", gpus=0)),
    ]
    waits = [(None, 4.0), (30.0, 5.0), (10.0, 60.0), (20.0, None)]
    timed = [
        (user, replace(one, queue_seconds=queue, startup_seconds=startup))
        for (user, one), (queue, startup) in zip(rows, waits, strict=True)
    ]
    alice, bob = by_user(timed)
    assert (alice.name, alice.sessions, alice.runs, alice.hours, alice.gpu_hours) == ("alice@example.com", 2, 2, 12, 8)
    assert (alice.queued, alice.median_queue_seconds, alice.median_startup_seconds) == (2, 15.0, 60.0)
    assert (bob.hours, bob.gpu_hours, bob.queued, bob.median_queue_seconds) == (10, 0, 0, None)
    figures = "sessions,runs,hours,gpuHours,queued,medianQueueSeconds,medianStartupSeconds,idleGpuHours,homeGibMonths"
    text = export_usage(UsageReport(month="2026-11", users=[alice, bob]), Form.CSV).decode().splitlines()
    assert text[0] == f"user,month,{figures}"
    assert text[1:] == [
        "alice@example.com,2026-11,2,2,12.0,8.0,2,15.0,60.0,0.0,0.0",
        "bob@example.com,2026-11,1,1,10.0,0.0,0,,4.0,0.0,0.0",
    ]
    (first, *_) = export_usage(UsageReport(month="2026-11", users=[alice]), Form.JSON_LINES).decode().splitlines()
    assert first.startswith('{"user":"alice@example.com","month":"2026-11","sessions":2,')


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(sqlite_url(tmp_path)) as database:
        yield database


async def test_hours_of_one_user_in_the_database(database: Database) -> None:
    replica = Replica(database, lambda: at(10_000))
    for name, minutes in (("alice", 90), ("alice2", 30), ("bob", 600)):
        life = Life(name, user=f"{name.rstrip('2')}@example.com")
        replica.tell(life.starting(0))
        replica.tell(life.ending(minutes))
    await replica.write()
    assert await month_use(database, "Alice@example.com", NOVEMBER, NOW) == MonthUse(2, 4, DECEMBER.begin)
    assert await month_use(database, "alice@example.com", DECEMBER, NOW) == MonthUse(0, 0, DECEMBER.end)
    report = await read_report(database, NOVEMBER, NOW, Prices())
    assert [(usage.name, usage.hours, usage.gpu_hours) for usage in report.users] == [
        ("bob@example.com", 10, 20),
        ("alice@example.com", 2, 4),
    ]
    assert [(usage.name, usage.hours) for usage in report.templates] == [("office", 12)]
    mine = await read_report(database, NOVEMBER, NOW, Prices(), "Alice@example.com")
    assert mine.users == report.users[1:] and mine.groups == ()
    assert [(usage.name, usage.hours) for usage in mine.templates] == [("office", 2)]


PRICES = Prices(
    currency="EUR", gpu_hour=1.0, cpu_hour=0.1, memory_gib_hour=0.01, home_gib_month=0.5, templates={"cad": 3.0}
)


def test_a_desktop_costs_what_its_size_costs_or_what_its_template_does() -> None:
    sized = replace(run(datetime(2026, 11, 3, tzinfo=UTC), 10, gpus=2), cpu=4.0, memory_gib=16.0)
    (usage,) = by_user([("a", sized)], PRICES)
    assert usage.cost == 10 * (2 * 1.0 + 4 * 0.1 + 16 * 0.01)
    (usage,) = sum_up([RunOf("a", "cad", sized)], [], lambda _, template: (template,), NOVEMBER, NOW, PRICES)
    assert (usage.name, usage.cost) == ("cad", 30.0)
    (usage,) = by_user([("a", sized)])
    assert (usage.cost, usage.idle_cost) == (None, None)


def test_what_is_not_known_of_a_run_costs_nothing() -> None:
    (usage,) = by_user([("a", run(datetime(2026, 11, 3, tzinfo=UTC), 10, gpus=None))], PRICES)
    assert usage.cost == 0


def test_homes_cost_by_the_month_also_of_who_had_no_desktop() -> None:
    homes = [HomesOf("a", "office", 10.0), HomesOf("a", "", 4.0)]
    (usage,) = sum_up([], homes, lambda user, _: (user,), NOVEMBER, NOW, PRICES)
    assert (usage.hours, usage.home_gib_months, usage.cost) == (0, 14.0, 7.0)


def test_idle_hours_are_part_of_each_month_and_cost_their_gpus() -> None:
    over = replace(run(datetime(2026, 11, 30, 20, tzinfo=UTC), 8, gpus=2), idle_seconds=4 * 3600.0)
    assert idle_within(over, NOVEMBER, NOW) == idle_within(over, DECEMBER, NOW) == 2 * 3600
    still = replace(run(NOW - timedelta(hours=5), None, gpus=2), idle_since=NOW - timedelta(hours=1))
    assert idle_within(still, DECEMBER, NOW) == 3600
    (usage,) = by_user([("a", over)], PRICES)
    assert (usage.gpu_hours, usage.idle_gpu_hours, usage.idle_cost) == (8, 4, 4.0)
    (usage,) = by_user([("a", replace(over, gpus=0))], PRICES)
    assert (usage.idle_gpu_hours, usage.idle_cost) == (0, 0)


async def test_groups_are_those_of_the_last_login_until_that_month(database: Database) -> None:
    replica = Replica(database, lambda: at(10_000))
    for name in ("alice", "bob", "carol"):
        life = Life(name, user=f"{name}@example.com")
        replica.tell(life.starting(0))
        replica.tell(life.ending(60))
    await replica.write()
    async with database.begin() as connection:
        for month, who, groups in (
            (Month(2026, 10), "alice", {"students"}),
            (Month(2026, 10), "bob", {"old"}),
            (NOVEMBER, "bob", {"staff"}),
            (NOVEMBER, "bob", {"staff", "artists"}),
            (DECEMBER, "alice", {"staff"}),
        ):
            await keep_groups(database, connection, month.begin, f"{who}@example.com", groups)
    report = await read_report(database, NOVEMBER, NOW, Prices())
    assert sorted((usage.name, usage.hours) for usage in report.groups) == [
        ("", 1.0),
        ("artists", 1.0),
        ("staff", 1.0),
        ("students", 1.0),
    ]


def a_pool(ready: int, starting: int) -> VDIPool:
    metadata = {"name": "ready-desktops", "resourceVersion": str(next(VERSIONS))}
    status = {"ready": ready, "starting": starting}
    return msgspec.convert({"metadata": metadata, "spec": {"template": "office"}, "status": status}, VDIPool)


def a_home(name: str, size: str, template: str = "office") -> HomeClaim:
    notes = {"vdi.kasm.io/user": "alice@example.com"} | ({"vdi.kasm.io/template": template} if template else {})
    metadata = {"name": name, "namespace": "vdi-sessions", "uid": f"uid-{name}", "annotations": notes}
    spec = {"resources": {"requests": {"storage": size}}}
    return msgspec.convert({"metadata": metadata | {"resourceVersion": "1"}, "spec": spec}, HomeClaim)


async def test_free_places_and_homes_are_counted_once_by_two_replicas(database: Database) -> None:
    """Each place counts for the five minutes in which it was seen, each home for the day."""
    moment = datetime(2026, 11, 20, 23, 51, tzinfo=UTC)
    replicas = [Replica(database, lambda: moment) for _ in range(2)]
    samplers = [UsageSampler(database=database, cluster=one.world, clock=lambda: moment) for one in replicas]

    async def sample(pool: VDIPool, *homes: HomeClaim) -> None:
        for replica, sampler in zip(replicas, samplers, strict=True):
            replica.world.pools.observe(pool)
            for home in homes:
                replica.world.homes.observe(home)
            await sampler.sample()

    await sample(a_pool(2, 1), a_home("one", "30Gi"))
    moment += timedelta(minutes=3)
    await sample(a_pool(9, 0))
    moment += timedelta(minutes=2)
    await sample(a_pool(0, 0))
    moment += timedelta(minutes=5)
    await sample(a_pool(3, 0), a_home("two", "15Gi", template=""))
    report = await read_report(database, NOVEMBER, NOW, PRICES)
    (pool,) = report.pools
    assert (pool.name, pool.template, pool.place_hours, pool.gpu_hours) == ("ready-desktops", "office", 0.5, 1.0)
    size = TemplateResources()
    hour = 2 * 1.0 + float(size.default_cpu) * 0.1 + float(parse_quantity(size.default_memory)) / 2**30 * 0.01
    assert (pool.cost, pool.idle_cost) == (round(0.5 * hour, 2), 1.0)
    assert [(usage.name, usage.home_gib_months, usage.cost) for usage in report.templates] == [
        ("", 0.5, 0.25),
        ("office", 2.0, 1.0),
    ]
    assert (report.free_gpu_hours, report.idle_gpu_hours, report.idle_cost, report.currency) == (1.0, 0, 1.0, "EUR")
    text = export_usage(report, Form.CSV, By.POOL).decode().splitlines()
    assert text[0] == "pool,template,month,placeHours,gpuHours,cost,idleCost,currency"
    assert text[1].startswith("ready-desktops,office,2026-11,0.5,1.0,") and text[1].endswith(",EUR")
    async with database.begin() as connection:
        await drop_samples(connection, DECEMBER.begin)
    assert (await read_report(database, NOVEMBER, NOW, PRICES)).pools == []
