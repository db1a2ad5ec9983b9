"""Recordings of desktops: one row each, and every statement about them. The recordings themselves
are files (`recordings`).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Index,
    String,
    and_,
    delete,
    func,
    select,
    tuple_,
    update,
)

from vdi.api.constraints import doc
from vdi.gateway.store.database import Database, read_row, table_of
from vdi.gateway.store.logins import oidc_subjects


class Recording(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One recording."""

    id: Annotated[str, doc("Identifies the recording."), String(96)]
    uid: Annotated[str, doc("The session's uid."), String(64)]
    name: Annotated[str, doc("The session's name."), String(253)]
    owner: Annotated[str, doc("Owner of the desktop."), String(254)] = msgspec.field(name="user")
    template: Annotated[str, doc("The session's template."), String(253)]
    # Recordings of one run have the same.
    run: Annotated[datetime, doc("When the desktop of this run first responded.")]
    run_seen: Annotated[
        datetime, doc("When this run was last seen to go on; of its newest recording.")
    ]
    started: Annotated[datetime, doc("When the first part was stored.")]
    ended: Annotated[datetime, doc("When the last part was stored.")]
    seconds: Annotated[float, doc("Length of the recording, as the desktop reports it.")]
    size_bytes: Annotated[int, doc("Size of the recording."), BigInteger()]
    keep_until: Annotated[datetime, doc("When it is deleted.")]
    owner_may_watch: Annotated[bool, doc("Whether the owner of the desktop may watch it.")]


class WatchedRecording(Recording, frozen=True, kw_only=True, rename="camel"):
    """A recording, with how much of the desktop's run was recorded."""

    run_recorded_seconds: Annotated[float, doc("Length of all recordings of the run together.")]


recordings = table_of(
    "recordings",
    Recording,
    *(Index(None, column) for column in ("started", "uid", "owner", "keep_until")),
    key=("id",),
)


def _may_watch(owner: str) -> ColumnElement[bool]:
    """Whether a recording is for this owner: not one of an earlier account with the same address."""
    of_owner = oidc_subjects.c.user == owner
    bound = select(func.max(oidc_subjects.c.bound)).where(of_owner).scalar_subquery()
    is_later = bound.is_(None) | (recordings.c.started >= bound)
    return and_(recordings.c.owner == owner, recordings.c.owner_may_watch, is_later)


class RecordingStore:
    """The rows in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def save(self, recording: Recording) -> None:
        """Add a row, or update it to how far the recording is now."""
        row = msgspec.structs.asdict(recording)
        new = {
            name: row[name] for name in ("ended", "seconds", "size_bytes", "run_seen", "keep_until")
        }
        insert = self._database.insert(recordings).values(row)
        async with self._database.begin() as connection:
            await connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=new))

    async def see_run(self, uid: str, run: datetime, now: datetime) -> None:
        """Note that a run goes on, whether it is recorded or not."""
        of_run = (recordings.c.uid == uid) & (recordings.c.run == run)
        async with self._database.begin() as connection:
            await connection.execute(update(recordings).where(of_run).values(run_seen=now))

    async def run(self, uid: str, run: datetime) -> tuple[float, datetime | None]:
        """Seconds of all recordings of a run, and when the last part of them was stored; None: none
        was.
        """
        totals = select(func.sum(recordings.c.seconds), func.max(recordings.c.ended))
        of_run = (recordings.c.uid == uid) & (recordings.c.run == run)
        async with self._database.connect() as connection:
            seconds, ended = (await connection.execute(totals.where(of_run))).one()
            return seconds or 0.0, ended

    async def use_since(self, owner: str, since: datetime) -> tuple[int, int]:
        """Bytes and number of a person's recordings that have grown since then."""
        totals = select(func.sum(recordings.c.size_bytes), func.count())
        grown = (recordings.c.owner == owner) & (recordings.c.ended > since)
        async with self._database.connect() as connection:
            size, number = (await connection.execute(totals.where(grown))).one()
            return int(size or 0), number

    async def total(self) -> int:
        """Bytes of all recordings."""
        async with self._database.connect() as connection:
            return int(
                (await connection.execute(select(func.sum(recordings.c.size_bytes)))).scalar() or 0
            )

    async def get(self, name: str) -> Recording | None:
        async with self._database.connect() as connection:
            row = (
                await connection.execute(select(recordings).where(recordings.c.id == name))
            ).first()
            return read_row(row, Recording) if row else None

    async def get_own(self, name: str, owner: str) -> Recording | None:
        """A recording that this user may watch as the owner of its desktop."""
        query = select(recordings).where(recordings.c.id == name, _may_watch(owner))
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).first()
            return read_row(row, Recording) if row else None

    async def newest(
        self, limit: int, owner: str | None, before: tuple[datetime, str] | None
    ) -> list[WatchedRecording]:
        """Recordings, newest first. `owner`: those that this user may see."""
        same = recordings.alias()
        of_run = select(func.sum(same.c.seconds)).where(
            same.c.uid == recordings.c.uid, same.c.run == recordings.c.run
        )
        query = select(recordings, of_run.scalar_subquery().label("run_recorded_seconds")).limit(
            limit
        )
        if owner is not None:
            query = query.where(_may_watch(owner))
        if before is not None:
            query = query.where(tuple_(recordings.c.started, recordings.c.id) < before)
        async with self._database.connect() as connection:
            rows = await connection.execute(
                query.order_by(recordings.c.started.desc(), recordings.c.id.desc())
            )
            return [read_row(row, WatchedRecording) for row in rows]

    async def expired(self, now: datetime, limit: int) -> Sequence[Recording]:
        query = (
            select(recordings)
            .where(recordings.c.keep_until < now)
            .order_by(recordings.c.keep_until)
            .limit(limit)
        )
        async with self._database.connect() as connection:
            return [read_row(row, Recording) for row in await connection.execute(query)]

    async def drop(self, name: str) -> None:
        async with self._database.begin() as connection:
            await connection.execute(delete(recordings).where(recordings.c.id == name))
