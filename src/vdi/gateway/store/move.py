"""Move of a SQLite database to PostgreSQL: `python -m vdi.gateway.store.move FILE`, a sidecar of
the gateway's pod.

The chart runs it with `gateway.database.sqlite: move`, on the node of the gateway that still works
with the file. From the copy on until it ends, this process has the file's write lock: the old
gateway only reads, and loses no row that the copy does not have. However the process ends, the
kernel releases the lock, so there is nothing to clean up. The copy is one transaction. After it the
process listens on `PORT`, which lets the new gateway start.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Column, MetaData, String, Table, Text, delete, func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.store.database import (
    Database,
    DatabaseUnavailableError,
    DatabaseUrlError,
    Instant,
    metadata,
)
from vdi.gateway.store.migrations import UnknownRevisionError, head_revision, import_tables, upgrade

PORT = 8083
_AGAIN = (
    "To move, empty PostgreSQL (docs/upgrading.md). To keep only its rows: vdi upgrade"
    " --leave-history-behind"
)
_BATCH = 1000
_RETRY_SECONDS = 2.0
# One row in the target, of the same transaction as the copy. Not among the gateway's tables.
_marker = Table(
    "moved_from_sqlite",
    MetaData(),
    Column("at", Instant, nullable=False),
    # SHA-256 of all rows of the source as JSON, and their number by table, as JSON.
    Column("digest", String(64), nullable=False),
    Column("counts", Text, nullable=False),
)


class MoveError(Exception):
    """Raised when the move must not be done: the target has rows of its own, or the counts
    differ.
    """


async def move(source: AsyncConnection, target: Database) -> dict[str, int]:
    """Copy all tables and compare their counts; returns these. The caller has the source's write
    lock.

    Safe to repeat: an unchanged target is filled again; one that is in use stays, if SQLite has not
    changed. Raises MoveError, DatabaseUnavailableError.
    """
    async with target.begin() as connection:
        await target.lock(connection, "move")
        await connection.run_sync(_marker.create, checkfirst=True)
        marker = (await connection.execute(select(_marker))).first()
        if marker is None:
            await _refuse_rows(connection)
        elif await _is_changed(connection, msgspec.json.decode(marker.counts, type=dict[str, int])):
            return await _compare(source, marker)
        else:
            for table in (_marker, *reversed(metadata.sorted_tables)):
                await connection.execute(delete(table))
        digest, counts = sha256(), {}
        for table in metadata.sorted_tables:
            async for rows in _batches(source, table):
                digest.update(msgspec.json.encode(rows, order="deterministic"))
                await connection.execute(table.insert(), rows)
            counts[table.name] = await _count(source, table)
            copied = await _count(connection, table)
            if copied != counts[table.name]:
                raise MoveError(
                    f"{table.name} has {counts[table.name]} rows in SQLite and {copied} in"
                    " PostgreSQL"
                )
            await _continue_ids(connection, table)
            print(f"{table.name}: {copied} rows", flush=True)  # noqa: T201 -- the progress
        now, encoded = datetime.now(UTC), msgspec.json.encode(counts).decode()
        await connection.execute(
            _marker.insert().values(at=now, digest=digest.hexdigest(), counts=encoded)
        )
    return counts


async def _refuse_rows(connection: AsyncConnection) -> None:
    for table in metadata.sorted_tables:
        if count := await _count(connection, table):
            raise MoveError(
                f"PostgreSQL has rows that were not moved there: {count} in {table.name}. {_AGAIN}"
            )


async def _is_changed(connection: AsyncConnection, counts: dict[str, int]) -> bool:
    """Whether another transaction than the move has written: PostgreSQL keeps the one of each row
    in `xmin`.
    """
    for name, moved in counts.items():
        query = f'SELECT count(*), count(*) FILTER (WHERE t.xmin = m.xmin) FROM "{name}" t, moved_from_sqlite m'  # noqa: S608
        if tuple((await connection.execute(text(query))).one()) != (moved, moved):
            return True
    return False


async def _compare(source: AsyncConnection, marker: Any) -> dict[str, int]:
    """The counts of an earlier move. Raises MoveError if SQLite has been used since, as after a
    rollback.
    """
    digest = sha256()
    for table in metadata.sorted_tables:
        async for rows in _batches(source, table):
            digest.update(msgspec.json.encode(rows, order="deterministic"))
    if digest.hexdigest() != marker.digest:
        raise MoveError(
            f"both SQLite and PostgreSQL have changed since the move at {marker.at:%F %T} UTC."
            f" {_AGAIN}"
        )
    counts: dict[str, int] = msgspec.json.decode(marker.counts)
    return counts


async def _batches(source: AsyncConnection, table: Table) -> AsyncIterator[list[dict[str, Any]]]:
    rows_of_table = await source.stream(select(table).order_by(*table.primary_key))
    async for rows in rows_of_table.mappings().partitions(_BATCH):
        yield [dict(row) for row in rows]


async def _count(connection: AsyncConnection, table: Table) -> int:
    return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


async def _continue_ids(connection: AsyncConnection, table: Table) -> None:
    """Continue a sequence after the ids that were copied."""
    column = table.autoincrement_column
    if column is None:
        return
    last = select(func.max(column)).scalar_subquery()
    sequence = func.pg_get_serial_sequence(table.name, column.name)
    await connection.execute(
        select(func.setval(sequence, func.coalesce(last, 1), last.is_not(None)))
    )


async def run(file: Path, target: Database) -> None:
    """Move, then hold the write lock until cancelled. Waits for PostgreSQL, which may be starting.

    Raises MoveError, UnknownRevisionError.
    """
    import_tables()
    source, reported = Database(f"sqlite+aiosqlite:///{file}"), ""
    try:
        while True:
            try:
                await upgrade(target)
                async with source.begin() as connection:
                    await _refuse_older(connection)
                    await move(connection, target)
                    print("moved: all counts are equal; the old gateway is read-only", flush=True)  # noqa: T201
                    await _listen()
            except DatabaseUnavailableError as error:
                if str(error) != reported:
                    reported = str(error)
                    print(f"waiting: {reported}", flush=True)  # noqa: T201
                await asyncio.sleep(_RETRY_SECONDS)
    finally:
        await source.close()
        await target.close()


async def _refuse_older(source: AsyncConnection) -> None:
    current = (await source.exec_driver_sql("SELECT version_num FROM alembic_version")).scalar()
    if current != head_revision():
        raise MoveError(
            f"SQLite has the tables of another version ({current}). Upgrade with SQLite first, then"
            " move."
        )


async def _listen() -> None:
    """Until cancelled. Whoever connects learns only that the copy is there."""

    def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(close, "0.0.0.0", PORT) as server:  # noqa: S104 -- the kubelet connects
        await server.serve_forever()


async def _main(file: Path, target: Database) -> int:
    work = asyncio.ensure_future(run(file, target))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        return 0
    except (MoveError, UnknownRevisionError, SQLAlchemyError) as error:
        print(f"not moved: {error}", file=sys.stderr)  # noqa: T201
    return 1


def main(arguments: Sequence[str]) -> int:
    """0: stopped; 1: not moved; 2: wrong command line or URL."""
    try:
        (file,) = map(Path, arguments)
        target = Database(os.environ["VDI_DATABASE_URL"])
    except (ValueError, KeyError, DatabaseUrlError) as error:
        print(  # noqa: T201
            f"python -m vdi.gateway.store.move FILE, and VDI_DATABASE_URL: {error}", file=sys.stderr
        )
        return 2
    if target.is_sqlite or not file.is_file():
        print(  # noqa: T201
            f"nothing to move: {file} does not exist, or VDI_DATABASE_URL names SQLite",
            file=sys.stderr,
        )
        return 2
    return asyncio.run(_main(file, target))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
