"""The schema that migrations make is the one that the code means, and a database of another day is refused in words."""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from support.database import sqlite_with_tables
from unit.gateway.history_stage import sqlite_url
from vdi.gateway.store.base import Database, metadata
from vdi.gateway.store.downgrade import main as downgrade_program
from vdi.gateway.store.migrations import FOLDER, UnknownRevisionError, downgrade, import_tables, upgrade


def differences(connection: Connection) -> list[object]:
    """Between the database and the tables of the code."""
    import_tables()
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    found: list[object] = compare_metadata(context, metadata)
    return found


async def test_an_upgraded_database_has_the_tables_of_the_code(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    await upgrade(database)
    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


def to_0_1_0(connection: Connection) -> None:
    """The tables that version 0.1.0 made."""
    scripts, first = ScriptDirectory(str(FOLDER)), "0001_c65dbe3c"
    context = MigrationContext.configure(connection)
    with Operations.context(context):
        scripts.get_revision(first).module.upgrade()
    context.stamp(scripts, first)


async def make_0_1_0(database: Database) -> None:
    """With a session and its run."""
    async with database.begin() as connection:
        await connection.run_sync(to_0_1_0)
        await connection.exec_driver_sql(
            "INSERT INTO history_sessions (uid, name, namespace, owner, template, created, ended_by, seen, revision)"
            " VALUES ('u-1', 'desk', 'vdi-sessions', 'alice@example.com', 'small', '2026-11-01', '', 1, 1)"
        )
        await connection.exec_driver_sql(
            "INSERT INTO history_runs (uid, start, node, pod, end_detail)"
            " VALUES ('u-1', '2026-11-01', 'node-1', 'desk', '')"
        )


async def has_the_rows_of_0_1_0(database: Database) -> None:
    """In today's tables, without a word on what drew."""
    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []
        rows = await connection.exec_driver_sql("SELECT uid, node, renderer, cpu, idle_since FROM history_runs")
        assert [tuple(row) for row in rows] == [("u-1", "node-1", None, None, None)]


def contents(connection: Connection) -> tuple[dict[str, str], list[object]]:
    """What a database is: the statements that make its tables, by name, and the rows of runs."""
    made = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    runs = connection.exec_driver_sql("SELECT * FROM history_runs")
    return {name: " ".join(sql.split()) for name, sql in made}, [tuple(row) for row in runs]


async def test_a_downgrade_gives_0_1_0_the_database_that_it_knows(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    await make_0_1_0(database)
    async with database.connect() as connection:
        before = await connection.run_sync(contents)
    await upgrade(database)
    async with database.begin() as connection:
        await connection.exec_driver_sql("UPDATE history_runs SET renderer = 'virgl', encoder = 'x264enc'")
    assert await downgrade(database, "0001_c65dbe3c") == ["0004_usage", "0003_scheduled_starts", "0002_graphics"]
    async with database.connect() as connection:
        assert await connection.run_sync(contents) == before
    assert await downgrade(database, "0001_c65dbe3c") == [], "nothing is left to do"
    assert await downgrade(database, "0002_graphics") == [], "it never goes forward"
    await upgrade(database)
    await has_the_rows_of_0_1_0(database)
    await database.close()


async def test_a_downgrade_that_cannot_be_is_refused_in_words(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    assert await downgrade(database, "0001_c65dbe3c") == [], "no gateway has used it"
    await upgrade(database)
    with pytest.raises(
        ValueError, match=("0000_none: this revision does not exist; allowed: 0001_c65dbe3c, 0002_graphics")
    ):
        await downgrade(database, "0000_none")
    async with database.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0009_next'")
    with pytest.raises(UnknownRevisionError, match="go back with `vdi rollback`"):
        await downgrade(database, "0001_c65dbe3c")
    await database.close()


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["0001_c65dbe3c"], 0, "undone: 0004_usage, 0003_scheduled_starts, 0002_graphics\n"),
        (["0002_graphics"], 0, "undone: 0004_usage, 0003_scheduled_starts\n"),
        (["0003_scheduled_starts"], 0, "undone: 0004_usage\n"),
        (["0004_usage"], 0, "undone: nothing\n"),
        (["0000_none"], 1, "0000_none: this revision does not exist"),
        ([], 2, "python -m vdi.gateway.store.downgrade REVISION"),
    ],
)
def test_the_program_that_the_job_of_a_rollback_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    said: str,
) -> None:
    monkeypatch.setenv("VDI_DATABASE_URL", sqlite_with_tables(tmp_path / "vdi.db"))
    assert downgrade_program(words) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


async def test_a_database_of_0_1_0_keeps_its_rows(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    await make_0_1_0(database)
    await upgrade(database)
    await has_the_rows_of_0_1_0(database)
    await database.close()


async def test_upgrading_again_and_two_at_once_are_one_upgrade(tmp_path: Path) -> None:
    replicas = [Database(sqlite_url(tmp_path)) for _ in range(3)]
    await asyncio.gather(*(upgrade(replica) for replica in replicas))
    await upgrade(replicas[0])
    async with replicas[0].connect() as connection:
        (revision,) = (await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).scalars()
    assert revision == ScriptDirectory(str(FOLDER)).get_current_head()
    for replica in replicas:
        await replica.close()


async def test_a_database_of_a_newer_gateway_is_left_alone(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    await upgrade(database)
    async with database.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0009_next'")
        await connection.exec_driver_sql("DROP TABLE audit")
    with pytest.raises(UnknownRevisionError, match=r"at revision 0009_next, which .* Nothing was changed\."):
        await upgrade(database)
    async with database.connect() as connection:
        tables = (await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars()
        assert "audit" not in set(tables)
    await database.close()


async def test_an_upgrade_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(sqlite_url(tmp_path))
    async with database.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE history_runs (uid TEXT)")  # in the way
    with pytest.raises(Exception, match="history_runs already exists"):
        await upgrade(database)
    async with database.connect() as connection:
        tables = (await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars()
        assert set(tables) == {"history_runs"}
    await database.close()
