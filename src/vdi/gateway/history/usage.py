"""How much was used in a calendar month (UTC), and what it cost: by user, template and group."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from statistics import median

import msgspec
from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.history.sampler import STEP
from vdi.gateway.limits import MonthUse
from vdi.gateway.prices import Prices
from vdi.gateway.store.base import Database
from vdi.gateway.store.history import RunRow, run_of, runs, sessions
from vdi.gateway.store.usage import home_days, pool_places, user_groups
from vdi.gateway.users import normal_user

_HOUR = 3600.0
_PLACE_HOURS = STEP.total_seconds() / _HOUR


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A calendar month."""

    year: int
    number: int

    @classmethod
    def of(cls, moment: datetime) -> "Month":
        """The month of that moment."""
        utc = moment.astimezone(UTC)
        return cls(utc.year, utc.month)

    @classmethod
    def parse(cls, text: str) -> "Month":
        """`2026-11`. Raises ValueError with what is allowed."""
        year, dash, number = text.partition("-")
        plain = dash and len(year) == 4 and len(number) == 2 and (year + number).isdecimal() and text.isascii()
        if not plain or not 1 <= int(number) <= 12 or int(year) == 0:
            raise ValueError(f"{text!r} is not a month; allowed: months such as 2026-11")
        return cls(int(year), int(number))

    @property
    def begin(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.number, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        if self == Month(9999, 12):
            return datetime.max.replace(tzinfo=UTC)
        return Month(self.year + self.number // 12, self.number % 12 + 1).begin

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one user, template or group has used in one month. Over the turn of a month each gets its part."""

    name: str
    """Of the user, template or group; empty: homes of all templates, or users of whom no group is known."""
    month: str
    sessions: int
    """That ran in this month."""
    runs: int
    """That began in this month."""
    hours: float
    gpu_hours: float
    """Hours times GPUs (or shares of one), of the runs of which the number is known."""
    queued: int
    """Runs that had to wait for capacity."""
    median_queue_seconds: float | None
    """Of those."""
    median_startup_seconds: float | None
    """Of the runs that began in this month and got ready."""
    idle_gpu_hours: float = 0.0
    """Of these GPU hours those without a user at the desktop."""
    home_gib_months: float = 0.0
    """GiB of homes, times the part of the month's days on which they were there."""
    cost: float | None = None
    """Of desktops and homes; None: there are no prices."""
    idle_cost: float | None = None
    """Of the idle GPU hours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUsage:
    """The free places of a pool in one month: started desktops that no session had."""

    name: str
    template: str
    month: str
    place_hours: float
    gpu_hours: float
    cost: float | None = None
    idle_cost: float | None = None
    """What of it is for the GPUs."""


class By(StrEnum):
    """What a report is ordered by."""

    USER = "user"
    TEMPLATE = "template"
    GROUP = "group"
    POOL = "pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """A month. Of one user, without groups and pools."""

    month: str
    users: Sequence[Usage] = ()
    templates: Sequence[Usage] = ()
    groups: Sequence[Usage] = ()
    """A user of two groups counts in both, so their sum may be more than that of the users."""
    pools: Sequence[PoolUsage] = ()
    currency: str = ""
    """Empty: there are no prices."""

    @property
    def idle_gpu_hours(self) -> float:
        """Of desktops without a user at them."""
        return round(sum(usage.idle_gpu_hours for usage in self.users), 3)

    @property
    def free_gpu_hours(self) -> float:
        """Of free places of pools."""
        return round(sum(pool.gpu_hours for pool in self.pools), 3)

    @property
    def idle_cost(self) -> float | None:
        """What both cost; None: there are no prices."""
        costs = [usage.idle_cost for usage in self.users] + [pool.idle_cost for pool in self.pools]
        return round(sum(cost or 0.0 for cost in costs), 2) if self.currency else None


@dataclass(frozen=True, slots=True)
class RunOf:
    """A run, and whose."""

    user: str
    template: str
    run: RunRow


@dataclass(frozen=True, slots=True)
class HomesOf:
    """The homes of one user and template in a month."""

    user: str
    template: str
    gib_months: float


@dataclass(slots=True)
class _Sum:
    sessions: set[str] = field(default_factory=set)
    runs: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    idle_gpu_seconds: float = 0.0
    gib_months: float = 0.0
    cost: float = 0.0
    idle_cost: float = 0.0
    queue: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)


Keys = Callable[[str, str], Iterable[str]]
"""Of user and template: the rows that their usage is in."""


def sum_up(
    rows: Iterable[RunOf], homes: Iterable[HomesOf], keys: Keys, month: Month, now: datetime, prices: Prices
) -> list[Usage]:
    """The report of a month; by hours, most first. Pure."""
    sums: dict[str, _Sum] = {}
    for row in rows:
        run, seconds, idle = row.run, seconds_within(row.run, month, now), idle_within(row.run, month, now)
        gpus = run.gpus or 0
        hour = prices.desktop_hour(row.template, gpus=gpus, cpu=run.cpu or 0.0, memory_gib=run.memory_gib or 0.0)
        for key in keys(row.user, row.template):
            total = sums.setdefault(key, _Sum())
            total.sessions.add(run.uid)
            total.seconds += seconds
            total.gpu_seconds += seconds * gpus
            total.idle_gpu_seconds += idle * gpus
            total.cost += seconds / _HOUR * hour
            total.idle_cost += idle / _HOUR * prices.gpu_part(row.template, gpus)
            if month.begin <= run.start < month.end:
                total.runs += 1
                total.queue += [run.queue_seconds] if run.queue_seconds is not None else []
                total.startup += [run.startup_seconds] if run.startup_seconds is not None else []
    for home in homes:
        for key in keys(home.user, home.template):
            total = sums.setdefault(key, _Sum())
            total.gib_months += home.gib_months
            total.cost += home.gib_months * prices.home_gib_month
    report = [_usage(name, month, total, prices) for name, total in sums.items()]
    return sorted(report, key=lambda usage: (-usage.hours, usage.name))


def seconds_within(run: RunRow, month: Month, now: datetime) -> float:
    """How long a run lasted in that month, until now if it is still on."""
    return _overlap(run.start, _end(run, now), month)


def idle_within(run: RunRow, month: Month, now: datetime) -> float:
    """How long its desktop was idle in that month.

    Periods that are over are known by their sum: of a run over the turn of a month each month gets its part of it.
    """
    whole = (_end(run, now) - run.start).total_seconds()
    share = seconds_within(run, month, now) / whole if whole > 0 else 0.0
    open_seconds = _overlap(run.idle_since, _end(run, now), month) if run.idle_since else 0.0
    return (run.idle_seconds or 0.0) * share + open_seconds


def _end(run: RunRow, now: datetime) -> datetime:
    return run.ended or max(now, run.start)


def _overlap(begin: datetime, end: datetime, month: Month) -> float:
    return max(0.0, (min(end, month.end) - max(begin, month.begin)).total_seconds())


async def read_report(
    database: Database, month: Month, now: datetime, prices: Prices, user: str | None = None
) -> UsageReport:
    """The report of a month, of all users or one. Raises DatabaseUnavailableError."""
    async with database.connect() as connection:
        rows = await _read_runs(connection, month, user)
        homes = await _read_homes(connection, month, user)
        groups = await _read_groups(connection, month) if user is None else {}
        pools = await _read_pools(connection, month, prices) if user is None else []

    def report(keys: Keys) -> list[Usage]:
        return sum_up(rows, homes, keys, month, now, prices)

    return UsageReport(
        month=str(month),
        users=report(lambda owner, _: (owner,)),
        templates=report(lambda _, template: (template,)),
        groups=report(lambda owner, _: groups.get(owner) or ("",)) if user is None else (),
        pools=pools,
        currency=prices.currency if prices.is_set else "",
    )


async def month_use(database: Database, user: str, month: Month, now: datetime) -> MonthUse:
    """What desktops of this user used in that month. Raises DatabaseUnavailableError."""
    async with database.connect() as connection:
        found = [row.run for row in await _read_runs(connection, month, user)]
    hours = sum(seconds_within(run, month, now) for run in found) / _HOUR
    gpu_hours = sum(seconds_within(run, month, now) * (run.gpus or 0) for run in found) / _HOUR
    return MonthUse(hours, gpu_hours, month.end)


async def _read_runs(connection: AsyncConnection, month: Month, user: str | None) -> list[RunOf]:
    query = (
        select(runs, sessions.c.owner, sessions.c.template)
        .join(sessions, sessions.c.uid == runs.c.uid)
        .where(runs.c.start < month.end, or_(runs.c.ended.is_(None), runs.c.ended > month.begin))
    )
    if user is not None:
        query = query.where(sessions.c.owner == normal_user(user))
    return [RunOf(row.owner, row.template, run_of(row)) for row in await connection.execute(query)]


async def _read_homes(connection: AsyncConnection, month: Month, user: str | None) -> list[HomesOf]:
    table, days = home_days.c, (month.end - month.begin).days
    query = (
        select(table.owner, table.template, func.sum(table.gib).label("gib_days"))
        .where(table.day >= month.begin, table.day < month.end)
        .group_by(table.owner, table.template)
    )
    if user is not None:
        query = query.where(table.owner == normal_user(user))
    return [HomesOf(row.owner, row.template, row.gib_days / days) for row in await connection.execute(query)]


async def _read_groups(connection: AsyncConnection, month: Month) -> Mapping[str, tuple[str, ...]]:
    """Of each user the groups of the last login in that month, or before it."""
    table = user_groups.c
    query = select(table.owner, table.groups).where(table.month <= month.begin).order_by(table.month)
    return {
        row.owner: tuple(msgspec.json.decode(row.groups, type=list[str])) for row in await connection.execute(query)
    }


async def _read_pools(connection: AsyncConnection, month: Month, prices: Prices) -> list[PoolUsage]:
    table = pool_places.c
    sums = [func.sum(column).label(column.name) for column in (table.places, table.gpus, table.cpu, table.memory_gib)]
    query = (
        select(table.pool, table.template, *sums)
        .where(table.at >= month.begin, table.at < month.end)
        .group_by(table.pool, table.template)
        .order_by(table.pool, table.template)
    )
    return [
        _pool_usage(row.pool, row.template, month, prices, (row.places, row.gpus, row.cpu, row.memory_gib))
        for row in await connection.execute(query)
    ]


def _pool_usage(
    name: str, template: str, month: Month, prices: Prices, sums: tuple[int, int, float, float]
) -> PoolUsage:
    places, gpus, cpu, memory = (number * _PLACE_HOURS for number in sums)
    is_priced = template in prices.templates
    whole = places * prices.templates[template] if is_priced else 0.0
    cost = whole if is_priced else prices.desktop_hour(template, gpus=gpus, cpu=cpu, memory_gib=memory)
    for_gpus = (whole if gpus else 0.0) if is_priced else gpus * prices.gpu_hour
    return PoolUsage(
        name=name,
        template=template,
        month=str(month),
        place_hours=round(places, 3),
        gpu_hours=round(gpus, 3),
        cost=round(cost, 2) if prices.is_set else None,
        idle_cost=round(for_gpus, 2) if prices.is_set else None,
    )


def _usage(name: str, month: Month, total: _Sum, prices: Prices) -> Usage:
    return Usage(
        name=name,
        month=str(month),
        sessions=len(total.sessions),
        runs=total.runs,
        hours=round(total.seconds / _HOUR, 3),
        gpu_hours=round(total.gpu_seconds / _HOUR, 3),
        queued=len(total.queue),
        median_queue_seconds=median(total.queue) if total.queue else None,
        median_startup_seconds=median(total.startup) if total.startup else None,
        idle_gpu_hours=round(total.idle_gpu_seconds / _HOUR, 3),
        home_gib_months=round(total.gib_months, 3),
        cost=round(total.cost, 2) if prices.is_set else None,
        idle_cost=round(total.idle_cost, 2) if prices.is_set else None,
    )
