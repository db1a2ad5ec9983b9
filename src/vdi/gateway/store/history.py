"""Sessions and their runs: the rows as plain values, tables, and how the recorder reads and writes them.

Exactly once, without locks: a session's row has a revision, and is written only by who has read the one before; runs
are written in the same transaction, by their key (session, start). Who comes second reads again, and finds it done.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, Row, String, Table, Text, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.store.database import Database, Instant, batches, metadata


class EndReason(StrEnum):
    """Why a run, or a session, has ended."""

    # The session's owner ended it.
    USER = "user"

    # Somebody else ended it, by way of the gateway.
    ADMIN = "admin"
    TIMEOUT = "timeout"
    IDLE = "idle"
    # Of a run only: the session goes on.
    SUSPENDED = "suspended"
    # Of a run only: its desktop was lost and given up; the detail says why.
    FAILED = "failed"
    # The session was deleted past the gateway (kubectl, the garbage collector): by whom is unknown.
    DELETED = "deleted"
    # It was over when the gateway looked again. The time is the latest that it can have ended.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One session."""

    uid: str
    name: str
    namespace: str
    owner: str
    template: str
    created: datetime
    # Since when it stands in the queue, or stood before its last run.
    waiting_since: datetime | None = None
    ended: datetime | None = None
    end_reason: EndReason | None = None
    # Who ended it, where that is known.
    ended_by: str = ""
    # resourceVersion of the state that these rows tell of.
    seen: int = 0
    # How often the row was written: who writes it has read the one before.
    revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of a session: from admission to suspension or end, over all pods that replace one another in it."""

    # Of the session.
    uid: str
    start: datetime
    ready: datetime | None = None
    # The last one, as `pod`.
    node: str = ""
    pod: str = ""
    # None: not known, since its template had changed before the gateway saw it.
    gpus: int | None = None
    # What drew OpenGL, as `status.graphics` names it; None: the desktop did not say.
    renderer: str | None = None
    # What encoded its stream.
    encoder: str | None = None
    # CPUs of its desktop; None: not known, as with `gpus`.
    cpu: float | None = None
    memory_gib: float | None = None
    # When it ends at the latest.
    expires: datetime | None = None
    # How long it stood in the queue before; None: it did not, or it was not seen.
    queue_seconds: float | None = None
    # From start to ready.
    startup_seconds: float | None = None
    ended: datetime | None = None
    end_reason: EndReason | None = None
    end_detail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """All that matters to what comes next."""

    session: SessionRow
    # The last one.
    run: RunRow | None = None


sessions = Table(
    "history_sessions",
    metadata,
    Column("uid", String(64), primary_key=True),
    Column("name", String(253), nullable=False),
    Column("namespace", String(63), nullable=False),
    Column("owner", String(254), nullable=False),  # not `user`, which is a word of SQL's own
    Column("template", String(253), nullable=False),
    Column("created", Instant, nullable=False),
    Column("waiting_since", Instant),
    Column("ended", Instant),
    Column("end_reason", String(16)),
    Column("ended_by", String(254), nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Index(None, "owner", "created"),
    Index(None, "created"),
    Index(None, "ended"),
)

runs = Table(
    "history_runs",
    metadata,
    Column("uid", ForeignKey("history_sessions.uid", ondelete="CASCADE"), primary_key=True),
    Column("start", Instant, primary_key=True),
    Column("ready", Instant),
    Column("node", String(253), nullable=False),
    Column("pod", String(253), nullable=False),
    Column("gpus", Integer),
    Column("renderer", String(32)),
    Column("encoder", String(32)),
    Column("cpu", Float),
    Column("memory_gib", Float),
    Column("expires", Instant),
    Column("queue_seconds", Float),
    Column("startup_seconds", Float),
    Column("ended", Instant),
    Column("end_reason", String(16)),
    Column("end_detail", Text, nullable=False),
    Index(None, "start"),
    Index(None, "ended"),
)

_OF_SESSION = [field.name for field in fields(SessionRow)]
_OF_RUN = [field.name for field in fields(RunRow)]


async def load(connection: AsyncConnection, uids: Sequence[str]) -> dict[str, Record]:
    """What is known of these sessions."""
    found = await connection.execute(select(sessions).where(sessions.c.uid.in_(uids)))
    known = [session_of(row) for row in found]
    last: dict[str, RunRow] = {}
    for row in await connection.execute(select(runs).where(runs.c.uid.in_(uids)).order_by(runs.c.start)):
        last[row.uid] = run_of(row)
    return {row.uid: Record(row, last.get(row.uid)) for row in known}


async def find_names(connection: AsyncConnection, uids: Collection[str]) -> dict[str, tuple[str, str]]:
    """Namespace and name of these sessions, by uid; of those that the history has."""
    found: dict[str, tuple[str, str]] = {}
    for batch in batches(uids):
        query = select(sessions.c.uid, sessions.c.namespace, sessions.c.name).where(sessions.c.uid.in_(batch))
        found.update({row.uid: (row.namespace, row.name) for row in await connection.execute(query)})
    return found


async def load_open(connection: AsyncConnection, after: str, limit: int) -> list[SessionRow]:
    """Sessions that have not ended, in the order of their uids, from the one after `after` on."""
    is_open = sessions.c.ended.is_(None) & (sessions.c.uid > after)
    query = select(sessions).where(is_open).order_by(sessions.c.uid).limit(limit)
    return [session_of(row) for row in await connection.execute(query)]


async def save(
    database: Database, connection: AsyncConnection, changed: Iterable[SessionRow], of_runs: Iterable[RunRow]
) -> set[str]:
    """Write sessions, each read before as it was, and those of the runs whose session was written.

    Gives the uids of the sessions that were written; of the others somebody else has written first.
    """
    # In the order of their uids, so that two replicas which write the same ones wait for, not against each other.
    values = [_values(row, _OF_SESSION) | {"revision": row.revision + 1} for row in sorted(changed, key=_uid)]
    if not values:
        return set()
    insert = database.insert(sessions)
    unchanged = sessions.c.revision == insert.excluded.revision - 1
    update = {name: insert.excluded[name] for name in _OF_SESSION if name != "uid"}
    upsert = insert.on_conflict_do_update(index_elements=[sessions.c.uid], set_=update, where=unchanged)
    written = set((await connection.execute(upsert.returning(sessions.c.uid), values)).scalars())
    mine = [_values(run, _OF_RUN) for run in of_runs if run.uid in written]
    if mine:
        of_run = database.insert(runs)
        update = {name: of_run.excluded[name] for name in _OF_RUN if name not in ("uid", "start")}
        upsert = of_run.on_conflict_do_update(index_elements=[runs.c.uid, runs.c.start], set_=update)
        await connection.execute(upsert, mine)
    return written


async def drop_ended(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete sessions, with their runs, that ended before that; gives how many, at most `limit`."""
    old = select(sessions.c.uid).where(sessions.c.ended < before).order_by(sessions.c.ended).limit(limit)
    return (await connection.execute(delete(sessions).where(sessions.c.uid.in_(old)))).rowcount


def session_of(row: Row[Any]) -> SessionRow:
    """A row of `sessions` as a value."""
    return SessionRow(**_read(row, _OF_SESSION))


def run_of(row: Row[Any]) -> RunRow:
    """A row of `runs` as a value."""
    return RunRow(**_read(row, _OF_RUN))


def _read(row: Row[Any], names: Sequence[str]) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in names}
    if values["end_reason"]:
        values["end_reason"] = EndReason(values["end_reason"])
    return values


def _values(row: SessionRow | RunRow, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _uid(row: SessionRow) -> str:
    return row.uid
