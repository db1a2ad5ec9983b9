"""Usage by user and template in a calendar month (UTC), and trends of the last day or week.

Read by the portal, the REST API and the limits on hours. The sums are pure functions over runs; only `read_*` and
`month_use` query the database.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import median
from typing import Annotated

import msgspec
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.api.constraints import doc
from vdi.gateway.limits import MonthUse
from vdi.gateway.store.database import Database
from vdi.gateway.store.history import RunRow, run_of, runs, sessions
from vdi.session.users import normal_user

_HOUR = 3600.0


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


class Usage(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Usage of one user or template in one month. A run that spans two months counts in both, each with its part."""

    name: Annotated[str, doc("E-mail address of the user, or name of the template.")]
    month: Annotated[str, doc("The month.")]
    sessions: Annotated[int, doc("Sessions that ran in this month.")]
    runs: Annotated[int, doc("Runs that started in this month.")]
    hours: Annotated[float, doc("Total running time in hours.")]
    gpu_hours: Annotated[float, doc("Running time in hours times GPUs (or shares of one), where the number is known.")]
    queued: Annotated[int, doc("Runs that had to wait for capacity.")]
    median_queue_seconds: Annotated[float | None, doc("Median wait of those, in seconds; null if no run waited.")]
    median_startup_seconds: Annotated[float | None, doc("Of the runs that started in this month and became ready.")]


class By(StrEnum):
    """Rows of a report."""

    USER = "user"
    TEMPLATE = "template"


class UsageReport(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Usage in one month."""

    month: Annotated[str, doc("The month.")]
    users: Annotated[tuple[Usage, ...], doc("Users, sorted by hours, highest first.")] = ()
    templates: Annotated[tuple[Usage, ...], doc("The same by template.")] = ()

    def rows(self, by: By) -> Sequence[Usage]:
        """The rows of this kind."""
        match by:
            case By.USER:
                return self.users
            case By.TEMPLATE:
                return self.templates


@dataclass(frozen=True, slots=True)
class OwnedRun:
    """A run, and whose."""

    user: str
    template: str
    run: RunRow


@dataclass(slots=True)
class _Sum:
    sessions: set[str] = field(default_factory=set)
    runs: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    queue: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)


def sum_up(rows: Iterable[OwnedRun], by: By, month: Month, now: datetime) -> tuple[Usage, ...]:
    """The report of a month; by hours, most first. Pure."""
    sums: dict[str, _Sum] = {}
    for row in rows:
        run, seconds = row.run, seconds_within(row.run, month, now)
        total = sums.setdefault(row.user if by is By.USER else row.template, _Sum())
        total.sessions.add(run.uid)
        total.seconds += seconds
        total.gpu_seconds += seconds * (run.gpus or 0)
        if month.begin <= run.start < month.end:
            total.runs += 1
            total.queue += [run.queue_seconds] if run.queue_seconds is not None else []
            total.startup += [run.startup_seconds] if run.startup_seconds is not None else []
    report = (
        Usage(
            name=name,
            month=str(month),
            sessions=len(total.sessions),
            runs=total.runs,
            hours=round(total.seconds / _HOUR, 3),
            gpu_hours=round(total.gpu_seconds / _HOUR, 3),
            queued=len(total.queue),
            median_queue_seconds=median(total.queue) if total.queue else None,
            median_startup_seconds=median(total.startup) if total.startup else None,
        )
        for name, total in sums.items()
    )
    return tuple(sorted(report, key=lambda usage: (-usage.hours, usage.name)))


def seconds_within(run: RunRow, month: Month, now: datetime) -> float:
    """How long a run lasted in that month, until now if it is still on."""
    end = run.ended or max(now, run.start)
    return max(0.0, (min(end, month.end) - max(run.start, month.begin)).total_seconds())


async def read_report(database: Database, month: Month, now: datetime, user: str | None = None) -> UsageReport:
    """The report of a month, of all users or one. Raises DatabaseUnavailableError."""
    async with database.connect() as connection:
        rows = await _read_runs(connection, month, user)
    return UsageReport(
        month=str(month),
        users=sum_up(rows, By.USER, month, now),
        templates=sum_up(rows, By.TEMPLATE, month, now),
    )


async def month_use(database: Database, user: str, month: Month, now: datetime) -> MonthUse:
    """What desktops of this user used in that month. Raises DatabaseUnavailableError."""
    async with database.connect() as connection:
        found = [row.run for row in await _read_runs(connection, month, user)]
    hours = sum(seconds_within(run, month, now) for run in found) / _HOUR
    gpu_hours = sum(seconds_within(run, month, now) * (run.gpus or 0) for run in found) / _HOUR
    return MonthUse(hours, gpu_hours, month.end)


async def _read_runs(connection: AsyncConnection, month: Month, user: str | None) -> list[OwnedRun]:
    query = (
        select(runs, sessions.c.owner, sessions.c.template)
        .join(sessions, sessions.c.uid == runs.c.uid)
        .where(runs.c.start < month.end, or_(runs.c.ended.is_(None), runs.c.ended > month.begin))
    )
    if user is not None:
        query = query.where(sessions.c.owner == normal_user(user))
    return [OwnedRun(row.owner, row.template, run_of(row)) for row in await connection.execute(query)]


class Period(StrEnum):
    """What a trend is about; it ends now."""

    DAY = "day"
    WEEK = "week"

    @property
    def step(self) -> timedelta:
        """The length of one interval."""
        return timedelta(hours=1 if self is Period.DAY else 6)

    @property
    def intervals(self) -> int:
        """How many intervals there are."""
        return 24 if self is Period.DAY else 28

    def begin(self, now: datetime) -> datetime:
        """The begin of the first interval: intervals begin at full hours of UTC, and the last one has `now` in it."""
        day = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return day + (now - day) // self.step * self.step - (self.intervals - 1) * self.step


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTimes:
    """What a trend reads of a run."""

    start: datetime
    ended: datetime | None = None
    gpus: int | None = None
    queue_seconds: float | None = None
    startup_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One interval of a trend."""

    begin: datetime
    # The most that ran at once.
    desktops: int
    # The most GPU slots that were in use at once, of the runs of which the number is known.
    gpus: int
    # Median wait of the runs that began in it and had waited; None: no run had.
    queue_seconds: float | None
    # Median time to ready of the runs that began in it; None: no run began, or got ready.
    startup_seconds: float | None


def trend(found: Iterable[RunTimes], period: Period, now: datetime) -> list[Interval]:
    """The intervals of a period, the oldest first."""
    listed = sorted(found, key=lambda run: run.start)
    changes = [(run.start, 1, run.gpus or 0) for run in listed]
    # What ends in the same moment goes first: a desktop that replaces another does not run beside it.
    changes += [(run.ended, -1, -(run.gpus or 0)) for run in listed if run.ended is not None]
    changes.sort(key=lambda change: change[:2])
    intervals, place, desktops, gpus = [], 0, 0, 0
    for number in range(period.intervals):
        begin = period.begin(now) + number * period.step
        end = begin + period.step
        while place < len(changes) and changes[place][0] <= begin:
            desktops, gpus, place = desktops + changes[place][1], gpus + changes[place][2], place + 1
        most_desktops, most_gpus = desktops, gpus
        while place < len(changes) and changes[place][0] < end:
            desktops, gpus, place = desktops + changes[place][1], gpus + changes[place][2], place + 1
            most_desktops, most_gpus = max(most_desktops, desktops), max(most_gpus, gpus)
        begun = [run for run in listed if begin <= run.start < end]
        intervals.append(
            Interval(
                begin=begin,
                desktops=most_desktops,
                gpus=most_gpus,
                queue_seconds=_median(run.queue_seconds for run in begun),
                startup_seconds=_median(run.startup_seconds for run in begun),
            )
        )
    return intervals


async def read_trend(database: Database, period: Period, now: datetime) -> list[Interval]:
    """The trend of everyone's desktops. Raises DatabaseUnavailableError."""
    columns = (runs.c.start, runs.c.ended, runs.c.gpus, runs.c.queue_seconds, runs.c.startup_seconds)
    within = (runs.c.start <= now, or_(runs.c.ended.is_(None), runs.c.ended > period.begin(now)))
    async with database.connect() as connection:
        rows: Sequence[RunTimes] = [
            RunTimes(
                start=row.start,
                ended=row.ended,
                gpus=row.gpus,
                queue_seconds=row.queue_seconds,
                startup_seconds=row.startup_seconds,
            )
            for row in await connection.execute(select(*columns).where(*within))
        ]
    return trend(rows, period, now)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
