"""Databases with the gateway's tables, for tests that do not try how the tables are made: in
memory, or in a file.
"""

import itertools
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any
from weakref import finalize

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Row, StaticPool, Table, create_engine, select

from vdi.gateway.store.database import metadata
from vdi.gateway.store.migrations import FOLDER, import_tables

_numbers = itertools.count()


def sqlite_with_tables(file: Path) -> str:
    """The URL of the database in `file`; one that is there already is kept."""
    if not file.exists():
        file.write_bytes(_empty_tables())
    return f"sqlite+aiosqlite:///{file}"


class MemoryDatabase:
    """A SQLite database in memory, for any number of connections of this process, as long as this
    object is kept.

    A test may read and write rows itself, without awaiting: `insert`, `rows`, `drop`. Not while
    another connection has a transaction open: it could not commit until the test gives the event
    loop back.
    """

    def __init__(self) -> None:
        # SQLite's VFS `memdb` shares one database between connections, with the locks of a file. It
        # lasts as long as one of them is open: the one below.
        self.path = f"file:/vdi-{next(_numbers)}?vfs=memdb&uri=true"
        self.url = f"sqlite+aiosqlite:///{self.path}"
        self.engine = create_engine(f"sqlite:///{self.path}", poolclass=StaticPool)
        finalize(self, self.engine.dispose)
        with (
            closing(sqlite3.connect(":memory:")) as empty,
            closing(self.engine.raw_connection()) as connection,
        ):
            empty.deserialize(_empty_tables())
            driver: Any = connection.driver_connection
            empty.backup(driver)

    def insert(self, table: Table, *rows: Mapping[str, Any]) -> None:
        """Add these rows."""
        with self.engine.begin() as connection:
            connection.execute(table.insert(), list(rows))

    def rows(self, table: Table) -> Sequence[Row[Any]]:
        """All rows of a table, in the order in which they were added."""
        with self.engine.begin() as connection:
            return connection.execute(select(table)).all()

    def drop(self, *tables: Table) -> None:
        """From now on these tables cannot be read or written, as with a database that is down;
        others can.
        """
        with self.engine.begin() as connection:
            metadata.drop_all(connection, tables)


@cache
def _empty_tables() -> bytes:
    """At the newest revision. Making 20 tables takes longer than most tests; copying them does
    not.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vdi.db"
        engine = create_engine(f"sqlite:///{file}")
        import_tables()
        with engine.begin() as connection:
            metadata.create_all(connection)
            MigrationContext.configure(connection).stamp(ScriptDirectory(str(FOLDER)), "head")
        engine.dispose()
        return file.read_bytes()
