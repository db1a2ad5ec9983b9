"""Transactions that wait for each other, times that keep their meaning, and errors without people's
data in them.
"""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, event, insert, select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, StatementError

from support.waiting import PATIENCE, eventually
from unit.gateway.history_stage import sqlite_url
from vdi.gateway.store.database import Database, DatabaseUnavailableError, DatabaseUrlError, Instant

things = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("at", Instant),
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(sqlite_url(tmp_path))
    async with database.begin() as connection:
        await connection.run_sync(things.metadata.create_all)
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "not a database URL"),
        ("/data/vdi.db", "not a database URL"),
        ("mysql://me:hunter2@host/vdi", "mysql: is not supported"),
        ("postgresql://me:hunter2@host/vdi", "postgresql: is not supported"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(url: str, words: str) -> None:
    with pytest.raises(DatabaseUrlError) as refused:
        Database(url)
    assert words in str(refused.value)
    assert "sqlite+aiosqlite:////data/vdi.db, or postgresql+asyncpg://" in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_instants_are_utc_and_naive_ones_are_refused(database: Database) -> None:
    east = datetime(2026, 11, 20, 10, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    async with database.begin() as connection:
        await connection.execute(insert(things).values(id=1, name="a", at=east))
        await connection.execute(insert(things).values(id=2, name="b", at=None))
        found = (
            (await connection.execute(select(things.c.at).order_by(things.c.id))).scalars().all()
        )
        assert found == [datetime(2026, 11, 20, 8, 0, 0, 5, tzinfo=UTC), None]
        assert found[0].tzinfo is UTC
        later = select(things.c.id).where(things.c.at < east + timedelta(seconds=1))
        assert (await connection.execute(later)).scalars().all() == [1]
        with pytest.raises(StatementError, match="has no time zone"):
            await connection.execute(
                insert(things).values(id=3, name="c", at=datetime(2026, 11, 20))
            )


async def test_an_exception_undoes_all_of_a_transaction(database: Database) -> None:
    with pytest.raises(RuntimeError):
        async with database.begin() as connection:
            await connection.execute(insert(things).values(id=1, name="a"))
            raise RuntimeError("no")
    async with database.connect() as connection:
        assert (await connection.execute(select(things))).all() == []


async def test_writers_that_read_first_take_turns(database: Database, tmp_path: Path) -> None:
    """In two processes: with a plain BEGIN of SQLite one of them would fail."""
    async with database.begin() as connection:
        await connection.execute(insert(things).values(id=1, name="0"))

    async def add_one(writer: Database) -> None:
        async with writer.begin() as connection:
            number = int((await connection.execute(select(things.c.name))).scalar_one())
            await asyncio.sleep(0)
            await connection.execute(things.update().values(name=str(number + 1)))

    other = Database(sqlite_url(tmp_path))
    await asyncio.gather(*(add_one(writer) for writer in [database, other] * 5))
    await other.close()
    async with database.connect() as connection:
        assert (await connection.execute(select(things.c.name))).scalar_one() == "10"


async def test_writers_of_one_process_do_not_compete(database: Database) -> None:
    @event.listens_for(database.engine.sync_engine, "connect")
    def wait_for_no_lock(connection: Any, _record: object) -> None:
        connection.cursor().execute("PRAGMA busy_timeout=0")

    async def write(number: int) -> None:
        async with database.begin() as connection:
            await connection.execute(insert(things).values(id=number, name="a"))

    await asyncio.gather(*map(write, range(12)))
    async with database.connect() as connection:
        assert len((await connection.execute(select(things))).all()) == 12


async def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    async with database.begin() as writer:
        await writer.execute(insert(things).values(id=1, name="a"))
        async with asyncio.timeout(PATIENCE), database.connect() as reader:
            assert (await reader.execute(select(things))).all() == []


async def test_what_is_there_already_is_left_or_replaced(database: Database) -> None:
    first = database.insert(things).values(id=1, name="a")
    async with database.begin() as connection:
        await connection.execute(first)
        await connection.execute(first.on_conflict_do_nothing())
        again = database.insert(things).values(id=1, name="b")
        await connection.execute(
            again.on_conflict_do_update(index_elements=[things.c.id], set_={"name": "b"})
        )
        assert (await connection.execute(select(things.c.name))).scalars().all() == ["b"]


async def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    before = driver_threads()
    for url in (
        f"sqlite+aiosqlite:///{tmp_path}/no/such/folder/vdi.db",
        "postgresql+asyncpg://me:hunter2@127.0.0.1:1/x",
    ):
        database = Database(url)
        with pytest.raises(DatabaseUnavailableError) as unavailable:
            async with database.connect():
                raise AssertionError("it was reached")
        assert "hunter2" not in str(unavailable.value)
        await database.close()
    await eventually(lambda: driver_threads() <= before, "the driver's thread has ended")


def driver_threads() -> set[threading.Thread]:
    """Of SQLite's driver. One that outlives its test's event loop fails in the next test."""
    return {one for one in threading.enumerate() if "_connection_worker_thread" in one.name}


async def test_trouble_within_a_transaction_is_reported_from_a_mistake(database: Database) -> None:
    with pytest.raises(IntegrityError) as mistake:
        async with database.begin() as connection:
            await connection.execute(insert(things).values(id=1, name=None))
    assert "name" in str(mistake.value.orig)
    with pytest.raises(DatabaseUnavailableError, match="no such table: nowhere") as trouble:
        async with database.connect() as connection:
            await connection.exec_driver_sql("SELECT * FROM nowhere WHERE name = 'secret'")
    assert "secret" not in str(trouble.value)


@pytest.mark.parametrize(
    ("error", "is_temporary"),
    [
        (asyncpg.ReadOnlySQLTransactionError, True),
        (asyncpg.DiskFullError, True),
        (asyncpg.QueryCanceledError, True),
        (asyncpg.DeadlockDetectedError, True),
        (asyncpg.SerializationError, True),
        (asyncpg.LockNotAvailableError, True),
        (asyncpg.PostgresIOError, True),
        (asyncpg.InFailedSQLTransactionError, False),
        (asyncpg.UndefinedTableError, False),
        (asyncpg.StringDataRightTruncationError, False),
        (asyncpg.UniqueViolationError, False),
        (asyncpg.InsufficientPrivilegeError, False),
    ],
)
async def test_temporary_postgresql_errors_differ_from_mistakes(
    database: Database, error: type[asyncpg.PostgresError], is_temporary: bool
) -> None:
    dialect: Any = PGDialect_asyncpg
    driver = dialect.import_dbapi()
    kinds = driver._asyncpg_error_translate
    kind = next(kinds[parent] for parent in error.__mro__ if parent in kinds)
    raised = DBAPIError.instance(
        "DELETE 'secret'", {}, kind("the server's words", error("no")), driver.Error
    )
    assert not isinstance(raised, OperationalError)
    with pytest.raises(DatabaseUnavailableError if is_temporary else type(raised)) as trouble:
        async with database.begin():
            raise raised
    if is_temporary:
        assert str(trouble.value) == "unexpected response of the database: the server's words"


async def test_a_file_whose_opening_is_cancelled_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []
    connect, opening, cancelled = sqlite3.connect, threading.Event(), threading.Event()

    def connect_slowly(*args: Any, **options: Any) -> sqlite3.Connection:
        opening.set()
        cancelled.wait(10)
        opened.append(connect(*args, **{**options, "check_same_thread": False}))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", connect_slowly)
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/x.db")

    async def read() -> None:
        async with database.connect():
            pytest.fail("it was cancelled before")

    reading = asyncio.ensure_future(read())
    await asyncio.to_thread(opening.wait, 10)
    reading.cancel()
    await asyncio.sleep(0)
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await database.close()
    (connection,) = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
