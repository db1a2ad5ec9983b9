"""Starts that people schedule: one table. What is done when one is due is in `scheduled_starts` of the gateway.

A replica claims a start before it does it, for a while, and moves `next_time` on afterwards. So no two replicas do one
at a time, and one that is killed in between leaves it to another.
"""

from datetime import datetime

import msgspec
from sqlalchemy import Column, ColumnElement, RowMapping, String, Table, Text, and_, delete, func, or_, select, update

from vdi.gateway.store.base import Database, Instant, metadata

scheduled_starts = Table(
    "scheduled_starts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(254), nullable=False, index=True),
    Column("template", String(253), nullable=False),
    Column("session", String(63), nullable=False),
    Column("time", String(5), nullable=False),
    Column("days", String(32), nullable=False),
    Column("time_zone", String(64), nullable=False),
    Column("created", Instant, nullable=False),
    Column("next_time", Instant, nullable=False, index=True),
    Column("claimed_until", Instant),
    Column("last_time", Instant),
    Column("last_result", String(32), nullable=False),
    Column("last_message", Text, nullable=False),
)


class ScheduledStart(msgspec.Struct, frozen=True, kw_only=True):
    """A desktop that is to be ready at a time of some days of the week."""

    id: str
    owner: str
    template: str
    session: str
    """Name of the session that is started or resumed."""
    time: str
    """HH:MM on the clock of `time_zone`."""
    days: tuple[str, ...]
    """Days of the week, such as MON."""
    time_zone: str
    created: datetime
    next_time: datetime
    """When the desktop is to be ready next."""
    claimed_until: datetime | None = None
    """Until when no other replica starts it."""
    last_time: datetime | None = None
    """The last time that was dealt with."""
    last_result: str = ""
    """The result, in one word for programs."""
    last_message: str = ""
    """The same in a sentence for people."""


class ScheduledStartStore:
    """Scheduled starts in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, start: ScheduledStart, most: int) -> bool:
        """A new one; False when its owner has `most` already."""
        values = msgspec.structs.asdict(start) | {"days": ",".join(start.days)}
        async with self._database.begin() as connection:
            mine = select(func.count()).where(scheduled_starts.c.owner == start.owner)
            if (await connection.execute(mine)).scalar_one() >= most:
                return False
            await connection.execute(scheduled_starts.insert().values(values))
            return True

    async def of(self, owner: str) -> list[ScheduledStart]:
        """All of this user, the oldest first."""
        return await self._find(scheduled_starts.c.owner == owner)

    async def delete(self, start_id: str, owner: str) -> bool:
        """Remove one of this user; False: this user has no start with this id."""
        mine = and_(scheduled_starts.c.id == start_id, scheduled_starts.c.owner == owner)
        async with self._database.begin() as connection:
            return (await connection.execute(delete(scheduled_starts).where(mine))).rowcount == 1

    async def due(self, until: datetime, now: datetime) -> list[ScheduledStart]:
        """Those that are to be ready by then and that no replica deals with at present."""
        return await self._find(scheduled_starts.c.next_time <= until, _unclaimed(now))

    async def claim(self, start: ScheduledStart, now: datetime, until: datetime) -> bool:
        """Keep other replicas from it for a while; False when another one was first, or it is gone."""
        same = and_(scheduled_starts.c.id == start.id, scheduled_starts.c.next_time == start.next_time)
        claimed = update(scheduled_starts).where(same, _unclaimed(now)).values(claimed_until=until)
        async with self._database.begin() as connection:
            return (await connection.execute(claimed)).rowcount == 1

    async def finish(
        self, start: ScheduledStart, *, time: datetime, next_time: datetime, result: str, message: str
    ) -> None:
        """It was dealt with for `time`, under the name that `start` has; nothing where another replica has said so."""
        same = and_(scheduled_starts.c.id == start.id, scheduled_starts.c.next_time == start.next_time)
        done = {
            "session": start.session,
            "last_time": time,
            "last_result": result,
            "last_message": message,
            "next_time": next_time,
            "claimed_until": None,
        }
        async with self._database.begin() as connection:
            await connection.execute(update(scheduled_starts).where(same).values(done))

    async def _find(self, *conditions: ColumnElement[bool]) -> list[ScheduledStart]:
        order = scheduled_starts.c.created, scheduled_starts.c.id
        async with self._database.connect() as connection:
            rows = await connection.execute(select(scheduled_starts).where(*conditions).order_by(*order))
            return [_read(row) for row in rows.mappings()]


def _unclaimed(now: datetime) -> ColumnElement[bool]:
    return or_(scheduled_starts.c.claimed_until.is_(None), scheduled_starts.c.claimed_until <= now)


def _read(row: RowMapping) -> ScheduledStart:
    return ScheduledStart(**dict(row) | {"days": tuple(row["days"].split(","))})
