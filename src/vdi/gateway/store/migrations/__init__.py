"""How a database comes to the schema of this code: Alembic's revisions in `versions/`, run by `upgrade`.

`downgrade` goes back before an older gateway starts: each revision says how it is undone.

A table that changes needs a new revision: a release that is out has databases at the old ones. A test compares what
the revisions make with the tables of the code.
"""

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway import store
from vdi.gateway.store.base import Database, metadata

FOLDER = Path(__file__).parent
LOCK = 0x7664_6900
"""Key of the advisory lock that PostgreSQL gives to one upgrade at a time."""


class UnknownRevisionError(Exception):
    """Raised when a database is at a revision that this code does not know: a newer gateway has upgraded it."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"the database is at revision {revision}, which this version of the gateway does not support: a newer "
            "version has upgraded it. Run that version again and go back with `vdi rollback`, or restore a backup "
            "from before the upgrade. Nothing was changed."
        )


def import_tables() -> None:
    """Import every module of the store, so that `metadata` has all tables."""
    for module in pkgutil.iter_modules(store.__path__):
        if not module.ispkg:
            importlib.import_module(f"{store.__name__}.{module.name}")


def known_revisions() -> set[str]:
    """Of databases that this code can use, if need be after an upgrade."""
    return {revision.revision for revision in _scripts().walk_revisions()}


async def upgrade(database: Database) -> None:
    """Bring the schema to what this code expects; at start, before any other query. Never downgrades.

    Two replicas that start at once take turns. Raises DatabaseUnavailableError, and UnknownRevisionError when a newer
    gateway has upgraded this database before.
    """
    async with _locked(database) as connection:
        await connection.run_sync(_upgrade)


async def downgrade(database: Database, revision: str) -> list[str]:
    """Go back to this revision, for a gateway that knows no later one; the revisions that were undone, newest first.

    A database at this revision, at an earlier one or without tables stays as it is. No gateway of this code may run:
    it would upgrade the database again. Raises DatabaseUnavailableError, UnknownRevisionError, and ValueError for a
    revision that this code does not know.
    """
    known = sorted(known_revisions())
    if revision not in known:
        raise ValueError(f"{revision}: this revision does not exist; allowed: {', '.join(known)}")
    async with _locked(database) as connection:
        return await connection.run_sync(_downgrade, revision)


@asynccontextmanager
async def _locked(database: Database) -> AsyncIterator[AsyncConnection]:
    """A transaction beside which no other one changes the schema."""
    async with database.begin() as connection:
        if not database.is_sqlite:
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        yield connection


def _upgrade(connection: Connection) -> None:
    """Run the revisions that are missing, in the transaction of `connection`. Raises UnknownRevisionError."""
    scripts = _scripts()
    if _current_revision(connection) == scripts.get_current_head():
        return
    _migrate(connection, scripts, "head", lambda current, _: scripts._upgrade_revs("head", current))


def _downgrade(connection: Connection, revision: str) -> list[str]:
    """Undo what is later than `revision`, in the transaction of `connection`. Raises UnknownRevisionError."""
    scripts, current = _scripts(), _current_revision(connection)
    later = [script.revision for script in scripts.iterate_revisions(current, None)] if current else []
    if revision not in later[1:]:
        return []
    _migrate(connection, scripts, revision, lambda now, _: scripts._downgrade_revs(revision, now))
    return later[: later.index(revision)]


def _current_revision(connection: Connection) -> str | None:
    """The revision of the database; None without tables. Raises UnknownRevisionError."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known_revisions():
        raise UnknownRevisionError(current)
    return current


def _migrate(
    connection: Connection, scripts: ScriptDirectory, destination: str, steps: Callable[[Any, object], Any]
) -> None:
    import_tables()
    with EnvironmentContext(_config(), scripts, fn=steps, destination_rev=destination) as environment:
        # The caller's transaction is the only one: half a migration must not stay.
        environment.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
        environment.run_migrations()


@cache
def _scripts() -> ScriptDirectory:
    """Of this code: its files do not change while it runs."""
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
