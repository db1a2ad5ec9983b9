"""Usage by user and template in a calendar month (UTC): pure functions over runs.

`History` reads the runs. The portal, the REST API and the limits on hours show or compare what is
computed here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from statistics import median
from typing import Annotated, NamedTuple

import msgspec

from vdi.api.constraints import doc
from vdi.gateway.store.history import RunRow

HOUR_SECONDS = 3600.0


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
        plain = (
            dash
            and len(year) == 4
            and len(number) == 2
            and (year + number).isdecimal()
            and text.isascii()
        )
        if not plain or not 1 <= int(number) <= 12 or int(year) == 0:
            raise ValueError(f"{text!r} is not a month; allowed: months such as 2026-11")
        return cls(int(year), int(number))

    @property
    def begin(self) -> datetime:
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
    """Usage of one user or template in one month. A run that spans two months counts in both, each
    with its part.
    """

    name: Annotated[str, doc("E-mail address of the user, or name of the template.")]
    month: Annotated[str, doc("The month.")]
    sessions: Annotated[int, doc("Sessions that ran in this month.")]
    runs: Annotated[int, doc("Runs that started in this month.")]
    hours: Annotated[float, doc("Total running time in hours.")]
    gpu_hours: Annotated[
        float,
        doc("Running time in hours times GPUs (or shares of one), where the number is known."),
    ]
    agent_hours: Annotated[
        float, doc("Hours in which software agents drove, of the runs that started in this month.")
    ]
    queued: Annotated[int, doc("Runs that had to wait for capacity.")]
    median_queue_seconds: Annotated[
        float | None, doc("Median wait of those, in seconds; null if no run waited.")
    ]
    median_startup_seconds: Annotated[
        float | None, doc("Of the runs that started in this month and became ready.")
    ]


class By(StrEnum):
    """Kinds of rows in a report."""

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


class OwnedRun(NamedTuple):
    """A run with the user and template of its session."""

    user: str
    template: str
    run: RunRow


@dataclass(slots=True)
class _Sum:
    sessions: set[str] = field(default_factory=set)
    runs: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    agent_minutes: int = 0
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
            total.agent_minutes += run.agent_minutes
            total.queue += [run.queue_seconds] if run.queue_seconds is not None else []
            total.startup += [run.startup_seconds] if run.startup_seconds is not None else []
    report = (
        Usage(
            name=name,
            month=str(month),
            sessions=len(total.sessions),
            runs=total.runs,
            hours=round(total.seconds / HOUR_SECONDS, 3),
            gpu_hours=round(total.gpu_seconds / HOUR_SECONDS, 3),
            agent_hours=round(total.agent_minutes / 60, 3),
            queued=len(total.queue),
            median_queue_seconds=median(total.queue) if total.queue else None,
            median_startup_seconds=median(total.startup) if total.startup else None,
        )
        for name, total in sums.items()
    )
    return tuple(sorted(report, key=lambda usage: (-usage.hours, usage.name)))


def seconds_within(run: RunRow, month: Month, now: datetime) -> float:
    """Seconds of a run within that month, until now if it goes on."""
    end = run.ended or max(now, run.start)  # another replica's clock may be ahead of ours
    return max(0.0, (min(end, month.end) - max(run.start, month.begin)).total_seconds())
