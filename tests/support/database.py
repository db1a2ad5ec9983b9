"""Databases in files with the gateway's tables, for tests that do not try how the tables are made."""

import tempfile
from functools import cache
from pathlib import Path

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from vdi.gateway.store.database import metadata
from vdi.gateway.store.migrations import FOLDER, import_tables


def sqlite_with_tables(file: Path) -> str:
    """The URL of the database in `file`; one that is there already is kept."""
    if not file.exists():
        file.write_bytes(_empty_tables())
    return f"sqlite+aiosqlite:///{file}"


@cache
def _empty_tables() -> bytes:
    """At the newest revision. Making 20 tables takes longer than most tests; copying them does not."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vdi.db"
        engine = create_engine(f"sqlite:///{file}")
        import_tables()
        with engine.begin() as connection:
            metadata.create_all(connection)
            MigrationContext.configure(connection).stamp(ScriptDirectory(str(FOLDER)), "head")
        engine.dispose()
        return file.read_bytes()
