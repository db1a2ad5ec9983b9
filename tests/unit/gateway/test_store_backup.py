"""A copy of the database is of one moment, and comes back without letting anybody in who was shown
out.
"""

import asyncio
import io
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.types import TypeEngine

from unit.gateway.history_stage import Life, Replica, at, open_database, rows_of, sqlite_url
from vdi.gateway.settings import Settings
from vdi.gateway.store.backup import NOT_BROUGHT_BACK, BackupError, load, main, save
from vdi.gateway.store.database import Database, Instant, metadata
from vdi.gateway.store.migrations import UnknownRevisionError, import_tables, upgrade


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(sqlite_url(tmp_path)) as database:
        yield database


async def record(database: Database, name: str) -> None:
    replica = Replica(database, lambda: at(99))
    replica.tell(Life(name).running_since(0))
    await replica.write()


def saved(tmp_path: Path) -> bytes:
    out = io.BytesIO()
    save(tmp_path / "vdi.db", out)
    return out.getvalue()


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("vdi.db")]


async def test_what_was_saved_comes_back_under_a_gateway_that_runs(
    database: Database, tmp_path: Path
) -> None:
    await record(database, "before")
    copy = saved(tmp_path)
    await record(database, "after")
    load(tmp_path / "vdi.db", io.BytesIO(copy))
    sessions, runs = await rows_of(database)
    assert [session.name for session in sessions] == ["before"]
    assert len(runs) == 1
    await upgrade(database)
    await record(database, "later")
    assert left_behind(tmp_path) == []


async def test_a_transaction_that_is_not_committed_is_not_in_the_copy(
    database: Database, tmp_path: Path
) -> None:
    await record(database, "before")
    async with database.begin() as connection:
        await connection.exec_driver_sql("UPDATE history_sessions SET name = 'half done'")
        copy = saved(tmp_path)
    with closing(sqlite3.connect(":memory:")) as opened:
        opened.deserialize(copy)
        assert opened.execute("SELECT name FROM history_sessions").fetchall() == [("before",)]


async def test_no_one_comes_back_in(database: Database, tmp_path: Path) -> None:
    import_tables()
    async with database.begin() as connection:
        for table in (metadata.tables[name] for name in NOT_BROUGHT_BACK):
            given = {column.name: _something(column.type) for column in table.columns}
            await connection.execute(table.insert().values(given))
    load(tmp_path / "vdi.db", io.BytesIO(saved(tmp_path)))
    async with database.connect() as connection:
        for name in NOT_BROUGHT_BACK:
            assert (await connection.execute(metadata.tables[name].select())).all() == []


def _something(kind: TypeEngine[Any]) -> object:
    return at(0) if isinstance(kind, Instant) else {bool: False, int: 1}.get(kind.python_type, "x")


async def test_what_is_no_copy_of_ours_changes_nothing(database: Database, tmp_path: Path) -> None:
    await record(database, "before")
    copy = saved(tmp_path)
    with closing(sqlite3.connect(tmp_path / "vdi.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0009_next'")
    newer = saved(tmp_path)
    load(tmp_path / "vdi.db", io.BytesIO(copy))
    damaged = bytearray(copy)
    damaged[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    for bad, error in (
        (b"", BackupError),
        (b"not a database at all" * 99, BackupError),
        (bytes(damaged), BackupError),
        (newer, UnknownRevisionError),
    ):
        with pytest.raises(error):
            load(tmp_path / "vdi.db", io.BytesIO(bad))
    assert [one.name for one in (await rows_of(database))[0]] == ["before"]
    with pytest.raises(BackupError, match="the database"):
        save(tmp_path / "other.db", io.BytesIO())


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sqlite = Settings(database_url=sqlite_url(tmp_path))
    assert main(["delete"], sqlite) == 2
    assert "backup save > vdi.db" in capsys.readouterr().err
    assert main(["save"], Settings(database_url="postgresql+asyncpg://me:hunter2@db/vdi")) == 2
    said = capsys.readouterr().err
    assert "pg_dump" in said and "hunter2" not in said
    assert main(["save"], sqlite) == 1
    assert "the database" in capsys.readouterr().err


def test_as_the_documentation_calls_it(tmp_path: Path) -> None:
    async def prepare() -> None:
        async with open_database(sqlite_url(tmp_path)) as database:
            await record(database, "before")

    asyncio.run(prepare())
    source = str(Path(sys.modules["vdi"].__path__[0]).parent)
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": source,
        "VDI_DATABASE_URL": sqlite_url(tmp_path),
    }
    command = [sys.executable, "-P", "-m", "vdi.gateway.store.backup", "save"]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    with closing(sqlite3.connect(":memory:")) as opened:
        opened.deserialize(done.stdout)
        assert opened.execute("SELECT name FROM history_sessions").fetchall() == [("before",)]
