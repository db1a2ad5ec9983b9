"""What the usage report counts besides runs: free places of pools, homes, and the groups of users.

Each row says what was there at one moment, under a key that all replicas make alike: whoever comes second writes
nothing. What no gateway has seen is not there.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

import msgspec
from sqlalchemy import Column, Float, Integer, String, Table, Text, delete
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.store.base import Database, Instant, metadata

pool_places = Table(
    "history_pool_places",
    metadata,
    Column("at", Instant, primary_key=True),
    Column("pool", String(253), primary_key=True),
    Column("template", String(253), nullable=False),
    Column("places", Integer, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("cpu", Float, nullable=False),
    Column("memory_gib", Float, nullable=False),
)

home_days = Table(
    "history_home_days",
    metadata,
    Column("day", Instant, primary_key=True),
    Column("uid", String(64), primary_key=True),
    Column("owner", String(254), nullable=False),
    Column("template", String(253), nullable=False),
    Column("gib", Float, nullable=False),
)

user_groups = Table(
    "history_user_groups",
    metadata,
    Column("month", Instant, primary_key=True),
    Column("owner", String(254), primary_key=True),
    Column("groups", Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlaces:
    """The started desktops of a pool that no session had, at one moment."""

    at: datetime
    pool: str
    template: str
    places: int
    gpus: int
    """Of all of them, as `cpu` and `memory_gib`."""
    cpu: float
    memory_gib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeDay:
    """A home on a day on which it was there."""

    day: datetime
    """Its begin, in UTC."""
    uid: str
    owner: str
    template: str
    """Empty for a home of all templates."""
    gib: float


async def add_samples(
    database: Database, connection: AsyncConnection, places: Collection[PoolPlaces], homes: Collection[HomeDay]
) -> None:
    """Write them, but for those that are there already."""
    if places:
        insert = database.insert(pool_places).on_conflict_do_nothing()
        await connection.execute(insert, [asdict(row) for row in places])
    if homes:
        insert = database.insert(home_days).on_conflict_do_nothing()
        await connection.execute(insert, [asdict(row) for row in homes])


async def keep_groups(
    database: Database, connection: AsyncConnection, month: datetime, owner: str, groups: Iterable[str]
) -> None:
    """The groups of a user's last login in a month; `month` is its begin."""
    text = msgspec.json.encode(sorted(groups)).decode()
    insert = database.insert(user_groups).values(month=month, owner=owner, groups=text)
    key = [user_groups.c.month, user_groups.c.owner]
    await connection.execute(insert.on_conflict_do_update(index_elements=key, set_={"groups": text}))


async def drop_samples(connection: AsyncConnection, before: datetime) -> None:
    """Delete what is older. Little becomes too old from one hour to the next."""
    for table, at in (
        (pool_places, pool_places.c.at),
        (home_days, home_days.c.day),
        (user_groups, user_groups.c.month),
    ):
        await connection.execute(delete(table).where(at < before))
