"""How much was used, per user and calendar month (UTC)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

from sqlalchemy import or_, select

from vdi.gateway.store.base import Database
from vdi.gateway.store.history import RunRow, run_of, runs, sessions
from vdi.gateway.users import normal_user

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
            raise ValueError(f"{text!r} is no month; allowed are months such as 2026-11")
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
    """What one user has used in one month. What runs over the turn of a month counts in both, each its part."""

    user: str
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


@dataclass(slots=True)
class _Sum:
    sessions: set[str] = field(default_factory=set)
    runs: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    queue: list[float] = field(default_factory=list)
    startup: list[float] = field(default_factory=list)


def sum_up(rows: Iterable[tuple[str, RunRow]], month: Month, now: datetime) -> list[Usage]:
    """The report of a month from (user, run); by hours, most first. Pure."""
    sums: dict[str, _Sum] = {}
    for user, run in rows:
        usage = sums.setdefault(user, _Sum())
        seconds = seconds_within(run, month, now)
        usage.sessions.add(run.uid)
        usage.seconds += seconds
        usage.gpu_seconds += seconds * (run.gpus or 0)
        if month.begin <= run.start < month.end:
            usage.runs += 1
            usage.queue += [run.queue_seconds] if run.queue_seconds is not None else []
            usage.startup += [run.startup_seconds] if run.startup_seconds is not None else []
    report = [_usage(user, month, usage) for user, usage in sums.items()]
    return sorted(report, key=lambda usage: (-usage.hours, usage.user))


def seconds_within(run: RunRow, month: Month, now: datetime) -> float:
    """How long a run lasted in that month, until now if it is still on."""
    end = min(run.ended or max(now, run.start), month.end)
    return max(0.0, (end - max(run.start, month.begin)).total_seconds())


async def month_usage(database: Database, month: Month, now: datetime, user: str | None = None) -> list[Usage]:
    """The report of a month, of all users or one. Raises DatabaseUnavailableError."""
    return sum_up(await _runs_in(database, month, user), month, now)


async def hours_used(database: Database, user: str, month: Month, now: datetime) -> float:
    """Hours that desktops of this user ran in that month. Raises DatabaseUnavailableError."""
    rows = await _runs_in(database, month, normal_user(user))
    return sum(seconds_within(run, month, now) for _, run in rows) / _HOUR


async def _runs_in(database: Database, month: Month, user: str | None) -> Sequence[tuple[str, RunRow]]:
    query = (
        select(runs, sessions.c.owner)
        .join(sessions, sessions.c.uid == runs.c.uid)
        .where(runs.c.start < month.end, or_(runs.c.ended.is_(None), runs.c.ended > month.begin))
    )
    if user is not None:
        query = query.where(sessions.c.owner == normal_user(user))
    async with database.connect() as connection:
        return [(row.owner, run_of(row)) for row in await connection.execute(query)]


def _usage(user: str, month: Month, usage: _Sum) -> Usage:
    return Usage(
        user=user,
        month=str(month),
        sessions=len(usage.sessions),
        runs=usage.runs,
        hours=round(usage.seconds / _HOUR, 3),
        gpu_hours=round(usage.gpu_seconds / _HOUR, 3),
        queued=len(usage.queue),
        median_queue_seconds=median(usage.queue) if usage.queue else None,
        median_startup_seconds=median(usage.startup) if usage.startup else None,
    )
