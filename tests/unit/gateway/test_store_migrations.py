"""The schema that migrations make is the one that the code means, and a database of another day is
refused in words.
"""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from unit.gateway.history_stage import sqlite_url
from vdi.gateway.store.database import Database, metadata
from vdi.gateway.store.migrations import FOLDER, UnknownRevisionError, import_tables, upgrade


def differences(connection: Connection) -> list[object]:
    """Between the database and the tables of the code."""
    import_tables()
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    found: list[object] = compare_metadata(context, metadata)
    return found


async def test_an_upgraded_database_has_the_tables_of_the_code(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    await upgrade(database)
    async with database.connect() as connection:
        assert await connection.run_sync(differences) == []
    await database.close()


async def test_upgrading_again_and_two_at_once_are_one_upgrade(tmp_path: Path) -> None:
    replicas = [Database(sqlite_url(tmp_path)) for _ in range(3)]
    await asyncio.gather(*(upgrade(replica) for replica in replicas))
    await upgrade(replicas[0])
    async with replicas[0].connect() as connection:
        (revision,) = (
            await connection.exec_driver_sql("SELECT version_num FROM alembic_version")
        ).scalars()
    assert revision == ScriptDirectory(str(FOLDER)).get_current_head()
    for replica in replicas:
        await replica.close()


async def test_a_database_of_a_newer_gateway_is_left_alone(tmp_path: Path) -> None:
    database = Database(sqlite_url(tmp_path))
    await upgrade(database)
    async with database.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0009_next'")
        await connection.exec_driver_sql("DROP TABLE audit")
    with pytest.raises(
        UnknownRevisionError, match=r"at revision 0009_next, which .* Nothing was changed\."
    ):
        await upgrade(database)
    async with database.connect() as connection:
        tables = (
            await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        ).scalars()
        assert "audit" not in set(tables)
    await database.close()


async def test_an_upgrade_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(sqlite_url(tmp_path))
    async with database.begin() as connection:
        await connection.exec_driver_sql("CREATE TABLE history_runs (uid TEXT)")  # in the way
    with pytest.raises(Exception, match="history_runs already exists"):
        await upgrade(database)
    async with database.connect() as connection:
        tables = (
            await connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")
        ).scalars()
        assert set(tables) == {"history_runs"}
    await database.close()
