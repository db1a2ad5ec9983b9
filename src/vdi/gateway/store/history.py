"""Sessions and their runs: a struct for the rows of each table, and every statement that the
recorder uses.

A struct is all there is of a column: the table, the REST API's answer and the export are made from
its fields, in their order. A new column is a field here, a migration, and what fills it in
`history.transitions`.

Exactly once, without locks: a session's row has a revision and is written only by whoever has read
the revision before. Runs are written in the same transaction, by their key (session, start). A
replica that comes second reads again.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, String, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.api.constraints import doc
from vdi.gateway.store.database import Database, batches, read_row, table_of


class EndReason(StrEnum):
    """Reason of the end of a run or a session."""

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


_EndReason = Annotated[
    EndReason | None, doc("Why it ended: " + ", ".join(EndReason) + ". null: it goes on.")
]


class SessionFacts(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Columns of a session that its users see, running or ended."""

    uid: Annotated[str, doc("The session's uid, which is never reused."), String(64)]
    name: Annotated[str, doc("Its name."), String(253)]
    namespace: Annotated[str, doc("Its namespace."), String(63)]
    # The column is not called `user`, which is a word of SQL's own.
    owner: Annotated[str, doc("Owner of the session."), String(254)] = msgspec.field(name="user")
    template: Annotated[str, doc("Its template."), String(253)]
    created: Annotated[datetime, doc("When it was created.")]
    ended: Annotated[datetime | None, doc("When it ended; null if it still exists.")] = None
    end_reason: _EndReason = None
    ended_by: Annotated[str, doc("Who ended it, if known."), String(254)] = ""


class SessionRow(SessionFacts, frozen=True, kw_only=True, rename="camel"):
    """One session."""

    # Since when it stands in the queue, or stood before its last run.
    waiting_since: datetime | None = None
    # resourceVersion of the state that these rows tell of.
    seen: Annotated[int, BigInteger()] = 0
    # How often the row was written: a writer must have read the revision before.
    revision: int = 0


class PastRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One run: from admission to suspension or end, including restarts."""

    start: Annotated[datetime, doc("When it started.")]
    ready: Annotated[datetime | None, doc("When its desktop first responded.")] = None
    node: Annotated[str, doc("Its last node."), String(253)] = ""
    pod: Annotated[str, doc("Its last pod."), String(253)] = ""
    # Size: unknown if the template had changed before the gateway saw the run.
    gpus: Annotated[int | None, doc("GPUs (or shares of one); null if unknown.")] = None
    cpu: Annotated[float | None, doc("CPUs; null if unknown.")] = None
    memory_gib: Annotated[float | None, doc("Memory in GiB; null if unknown.")] = None
    renderer: Annotated[
        str | None,
        doc(
            "OpenGL renderer: Zink or Native (on the GPU), or Software; null if the desktop did not"
            " report it."
        ),
        String(32),
    ] = None
    encoder: Annotated[
        str | None,
        doc("Encoder of the stream, such as nvenc or x264; null if the desktop did not report it."),
        String(32),
    ] = None
    queue_seconds: Annotated[
        float | None,
        doc("How long it waited for capacity; null if it did not wait, or if unknown."),
    ] = None
    startup_seconds: Annotated[
        float | None, doc("From the start of the run to the desktop's first response.")
    ] = None
    ended: Annotated[datetime | None, doc("When it ended; null if it has not ended.")] = None
    end_reason: _EndReason = None
    end_detail: Annotated[str, doc("More about why it ended.")] = ""
    agent_minutes: Annotated[
        int, doc("Minutes in which software agents drove: each begins with an action of one.")
    ] = 0


class RunRow(PastRun, frozen=True, kw_only=True, rename="camel"):
    """One run: from admission to suspension or end, over all pods that replace one another in
    it.
    """

    # Of the session.
    uid: Annotated[str, String(64)]
    # When it ends at the latest.
    expires: datetime | None = None


class Record(msgspec.Struct, frozen=True):
    """Input of the next transition: a session, and its last run."""

    session: SessionRow
    run: RunRow | None = None


_NOT_OF_SNAPSHOTS = ("uid", "start", "agent_minutes")
sessions = table_of(
    "history_sessions",
    SessionRow,
    Index(None, "owner", "created"),
    Index(None, "created"),
    Index(None, "ended"),
    key=("uid",),
)
runs = table_of(
    "history_runs",
    RunRow,
    ForeignKeyConstraint(["uid"], ["history_sessions.uid"], ondelete="CASCADE"),
    Index(None, "start"),
    Index(None, "ended"),
    key=("uid", "start"),
)


async def load(connection: AsyncConnection, uids: Sequence[str]) -> dict[str, Record]:
    """Records of these sessions."""
    rows = await connection.execute(select(sessions).where(sessions.c.uid.in_(uids)))
    known = [read_row(row, SessionRow) for row in rows]
    last: dict[str, RunRow] = {}
    for row in await connection.execute(
        select(runs).where(runs.c.uid.in_(uids)).order_by(runs.c.start)
    ):
        last[row.uid] = read_row(row, RunRow)
    return {row.uid: Record(row, last.get(row.uid)) for row in known}


async def find_names(
    connection: AsyncConnection, uids: Collection[str]
) -> dict[str, tuple[str, str]]:
    """Namespace and name of these sessions, by uid; of those that the history has."""
    names: dict[str, tuple[str, str]] = {}
    for batch in batches(uids):
        query = select(sessions.c.uid, sessions.c.namespace, sessions.c.name).where(
            sessions.c.uid.in_(batch)
        )
        names.update(
            {row.uid: (row.namespace, row.name) for row in await connection.execute(query)}
        )
    return names


async def load_open(connection: AsyncConnection, after: str, limit: int) -> list[SessionRow]:
    """Sessions that have not ended, in the order of their uids, from the one after `after` on."""
    is_open = sessions.c.ended.is_(None) & (sessions.c.uid > after)
    query = select(sessions).where(is_open).order_by(sessions.c.uid).limit(limit)
    return [read_row(row, SessionRow) for row in await connection.execute(query)]


async def save(
    database: Database,
    connection: AsyncConnection,
    changed: Iterable[SessionRow],
    of_runs: Iterable[RunRow],
) -> set[str]:
    """Write sessions, each read before as it was, and those of the runs whose session was written.

    Gives the uids of the sessions that were written; of the others somebody else has written first.
    """
    # In the order of their uids, so that two replicas which write the same ones wait for, not
    # against each other.
    ordered = sorted(changed, key=lambda row: row.uid)
    values = [msgspec.structs.asdict(row) | {"revision": row.revision + 1} for row in ordered]
    if not values:
        return set()
    insert = database.insert(sessions)
    unchanged = sessions.c.revision == insert.excluded.revision - 1
    update = {name: insert.excluded[name] for name in SessionRow.__struct_fields__ if name != "uid"}
    upsert = insert.on_conflict_do_update(
        index_elements=[sessions.c.uid], set_=update, where=unchanged
    )
    written = set((await connection.execute(upsert.returning(sessions.c.uid), values)).scalars())
    mine = [msgspec.structs.asdict(run) for run in of_runs if run.uid in written]
    if mine:
        of_run = database.insert(runs)
        update = {
            name: of_run.excluded[name]
            for name in RunRow.__struct_fields__
            if name not in _NOT_OF_SNAPSHOTS
        }
        upsert = of_run.on_conflict_do_update(
            index_elements=[runs.c.uid, runs.c.start], set_=update
        )
        await connection.execute(upsert, mine)
    return written


async def add_agent_minute(database: Database, uid: str) -> None:
    """Count one more minute of an agent in the session's present run. Raises
    DatabaseUnavailableError.
    """
    present = (runs.c.uid == uid) & runs.c.ended.is_(None)
    async with database.begin() as connection:
        await connection.execute(
            runs.update().where(present).values(agent_minutes=runs.c.agent_minutes + 1)
        )


async def drop_ended(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete sessions, with their runs, that ended before that; gives how many, at most `limit`."""
    old = (
        select(sessions.c.uid)
        .where(sessions.c.ended < before)
        .order_by(sessions.c.ended)
        .limit(limit)
    )
    return (await connection.execute(delete(sessions).where(sessions.c.uid.in_(old)))).rowcount
