"""Migrations: Alembic's revisions in `versions/`, which `upgrade` runs at the gateway's start.

Once a release is out, a change of a table needs a new revision, since there are databases at the
old one. A test compares the tables that the revisions make with those of the code.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from vdi.gateway import store
from vdi.gateway.store.database import Database, metadata

FOLDER = Path(__file__).parent


class UnknownRevisionError(Exception):
    """Raised when a database is at a revision that this code does not know: a newer gateway has
    upgraded it.
    """

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"the database is at revision {revision}, which this version of the gateway does not"
            " support: a newer version has upgraded it. Run that version again, or restore a"
            " backup from before the upgrade. Nothing was changed."
        )


def import_tables() -> None:
    """Import every module of the store, so that `metadata` has all tables."""
    for module in pkgutil.iter_modules(store.__path__):
        if not module.ispkg:
            importlib.import_module(f"{store.__name__}.{module.name}")


def head_revision() -> str | None:
    """The revision that `upgrade` leads to."""
    return _scripts().get_current_head()


def known_revisions() -> set[str]:
    """Revisions of databases that this code can use, if need be after an upgrade."""
    return {revision.revision for revision in _scripts().walk_revisions()}


async def upgrade(database: Database) -> None:
    """Bring the schema to this code's revision, before any other query. Never downgrades.

    Raises DatabaseUnavailableError, and UnknownRevisionError when a newer gateway has upgraded this
    database.
    """
    # Two replicas that start at once take turns: the second one finds the schema upgraded.
    async with database.begin() as connection:
        await database.lock(connection, "migrations")
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    scripts = _scripts()
    current = MigrationContext.configure(connection).get_current_revision()
    if current == head_revision():
        return
    if current is not None and current not in known_revisions():
        raise UnknownRevisionError(current)
    import_tables()

    def steps(revision: Any, _context: object) -> Any:
        return scripts._upgrade_revs("head", revision)

    with EnvironmentContext(_config(), scripts, fn=steps, destination_rev="head") as environment:
        # The caller's transaction is the only one: half a migration must not stay.
        environment.configure(
            connection=connection, target_metadata=metadata, transactional_ddl=True
        )
        environment.run_migrations()


@cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
