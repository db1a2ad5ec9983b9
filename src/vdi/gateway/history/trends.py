"""How much ran, how long starts waited and took, over the last day and the last week. Pure, but for one query."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from statistics import median

from sqlalchemy import or_, select

from vdi.gateway.store.base import Database
from vdi.gateway.store.history import runs


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
    desktops: int
    """The most that ran at once."""
    gpus: int
    """The most GPU slots that were in use at once, of the runs of which the number is known."""
    queue_seconds: float | None
    """Median wait of the runs that began in it and had waited; None: no run had."""
    startup_seconds: float | None
    """Median time to ready of the runs that began in it; None: no run began, or got ready."""


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
