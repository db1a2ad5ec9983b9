"""The database: connections, transactions and errors of SQLite and PostgreSQL, and tables made from
structs.

Every module of this package defines its tables on `metadata` (`migrations` imports them all). Times
are aware datetimes in and out, whatever the database keeps.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Integer,
    MetaData,
    Row,
    RowMapping,
    String,
    Table,
    Text,
    event,
    func,
    select,
    types,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import SchemaItem
from sqlalchemy.util import await_only

from vdi.gateway.last_write import LastWrite
from vdi.gateway.settings import DATABASE_DRIVERS, DATABASE_URLS
from vdi.http_client import is_unknown_host

R = TypeVar("R", bound=msgspec.Struct)
# All tables. Constraints have names, since a migration can only change what it can name.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

CONNECT_SECONDS = 5.0
# A statement that takes longer is given up: nothing here is large, so the server is in trouble.
ANSWER_SECONDS = 30.0

# Values of one `IN (...)`. A statement has at most 32,767 parameters with PostgreSQL, and 32,766
# with SQLite.
IN_LIMIT = 10_000
_AGAIN_SECONDS = 0.01
# How PostgreSQL's SQLSTATE begins: a server that only reads, deadlocks, a full disk, locks, a
# statement that takes too long, errors of its operating system. Others, such as 42, are mistakes of
# ours.
_TEMPORARY = ("25006", "40", "53", "55", "57", "58")
_WRITES = "vdi_writes"


class DatabaseUrlError(ValueError):
    """Raised when a database URL cannot be used; names what is allowed, and never shows a
    password.
    """


class DatabaseUnavailableError(Exception):
    """Raised when the database does not answer or cannot work now; another try may succeed."""


class Instant(types.TypeDecorator[datetime]):
    """An aware datetime, in UTC when read. SQLite keeps no time zone, so what goes in there is made
    UTC first.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database. Raises ValueError for a naive datetime, which has no meaning."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; allowed: datetimes with a time zone")
        utc = value.astimezone(UTC)
        if dialect.name == "sqlite":
            return utc.replace(tzinfo=None)
        return utc

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value.astimezone(UTC)


class WordSet(types.TypeDecorator[frozenset[str]]):
    """A set of words, kept as a sorted JSON list."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: frozenset[str] | None, _dialect: Dialect) -> str | None:
        if value is None:
            return None
        return msgspec.json.encode(sorted(value)).decode()

    def process_result_value(self, value: str | None, _dialect: Dialect) -> frozenset[str] | None:
        if value is None:
            return None
        return msgspec.json.decode(value, type=frozenset[str])


class EnumText(types.TypeDecorator[StrEnum]):
    """A member of a StrEnum, kept as its value. A value that this version does not know is read as
    ValueError.
    """

    impl = String
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__(16)
        self.kind = kind

    def process_result_value(self, value: str | None, _dialect: Dialect) -> StrEnum | None:
        return None if value is None else self.kind(value)


_COLUMN_TYPES: dict[object, types.TypeEngine[Any]] = {
    str: Text(), int: Integer(), float: Float(), bool: Boolean(), datetime: Instant(), frozenset[str]: WordSet(),
}  # fmt: skip


def table_of(
    name: str, row: type[msgspec.Struct], *more: SchemaItem, key: Collection[str]
) -> Table:
    """The table of a struct: one column per field, of the type that its annotation names or that
    fits.

    `more`: columns that no struct may show, such as the hash of a secret, and indices.
    """
    hints = get_type_hints(row, include_extras=True)
    columns = [
        _column_of(field, hints[field], is_key=field in key) for field in row.__struct_fields__
    ]
    return Table(name, metadata, *columns, *more)


def _column_of(name: str, hint: Any, *, is_key: bool) -> Column[Any]:
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
    else:
        kind, *notes = (hint,)
    nullable = NoneType in get_args(kind)
    if nullable:
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    named = next((note for note in notes if isinstance(note, types.TypeEngine)), None)
    is_enum = isinstance(kind, type) and issubclass(kind, StrEnum)
    column_type = named or (EnumText(kind) if is_enum else _COLUMN_TYPES[kind])
    return Column(name, column_type, primary_key=is_key, nullable=nullable)


def read_row(row: Row[Any] | RowMapping, kind: type[R]) -> R:
    """A row as the struct whose table it is of; columns that the struct has not are left out."""
    values = row if isinstance(row, Mapping) else row._mapping
    return kind(**{field: values[field] for field in kind.__struct_fields__})


class Database:
    """An engine with its pool. It connects with the first statement; call `close` at the end."""

    def __init__(self, url: str) -> None:
        """Raises DatabaseUrlError."""
        self.url = read_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = _sqlite_engine(self.url)
        else:
            self.engine = _postgresql_engine(self.url)
        self._writer = self.engine.execution_options(**{_WRITES: True})
        self._writes = asyncio.Lock()
        self._last_write = LastWrite(DatabaseUnavailableError)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed at the end, rolled back by an exception.

        Raises DatabaseUnavailableError, also for what goes wrong with the connection inside.
        """
        # On SQLite this takes the write lock at once (BEGIN IMMEDIATE). A transaction that reads
        # first and writes later would fail, not wait, when another one has written in between.
        with self._last_write.record():
            async with _translated(self._writer) as connection, self._turn(), connection.begin():
                yield connection

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One writer of this process after the other on SQLite, which has no queue: of twenty that
        write all the time, one has no luck within its seconds.
        """
        if not self.is_sqlite:
            yield
            return
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._writes.acquire()
        try:
            yield
        finally:
            self._writes.release()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with. Raises DatabaseUnavailableError, like `begin`."""
        async with _translated(self.engine) as connection:
            yield connection

    async def check(self) -> None:
        """Return when the last write worked; without a recent one, write. Raises
        DatabaseUnavailableError.
        """
        await self._last_write.check(self._write)

    async def _write(self) -> None:
        # The one row that every database has, without a change: a server that is full or only reads
        # refuses this too.
        try:
            async with self.begin() as connection:
                await connection.exec_driver_sql(
                    "UPDATE alembic_version SET version_num = version_num"
                )
        # No such table, or no right to write: health reports these as well.
        except DBAPIError as error:
            raise DatabaseUnavailableError(_reason(error)) from error

    async def lock(self, connection: AsyncConnection, name: str) -> None:
        """Lock a name until the transaction ends, for a count before an insert. SQLite's `begin`
        locks everything.
        """
        if not self.is_sqlite:
            await connection.execute(
                select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0)))
            )

    def insert(self, table: Table) -> "postgresql.Insert | sqlite.Insert":
        """An INSERT that has `.on_conflict_do_nothing()` and `.on_conflict_do_update(...)`."""
        if self.is_sqlite:
            return sqlite.insert(table)
        return postgresql.insert(table)

    async def close(self) -> None:
        await self.engine.dispose()


def batches(values: Iterable[str]) -> Iterator[list[str]]:
    """Values in lists that are short enough for one `IN (...)`."""
    rest = iter(values)
    while batch := list(islice(rest, IN_LIMIT)):
        yield batch


def read_url(text: str) -> URL:
    """Parse a URL whose driver is supported. Raises DatabaseUrlError."""
    try:
        url = make_url(text)
    except ArgumentError:
        raise DatabaseUrlError(f"this is not a database URL; allowed: {DATABASE_URLS}") from None
    if url.drivername not in DATABASE_DRIVERS:
        raise DatabaseUrlError(f"{url.drivername}: is not supported; allowed: {DATABASE_URLS}")
    return url


@asynccontextmanager
async def _translated(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    connection = engine.connect()
    try:
        await (_open_sqlite(connection) if engine.dialect.name == "sqlite" else connection.start())
    except (OSError, DBAPIError, PoolTimeoutError) as error:
        raise DatabaseUnavailableError(_reason(error)) from error
    try:
        yield connection
    except (OperationalError, InterfaceError, TimeoutError) as error:
        raise DatabaseUnavailableError(_reason(error)) from error
    except DBAPIError as error:
        # asyncpg's errors come as plain DBAPIError, whatever they say: only their SQLSTATE tells.
        if error.connection_invalidated or _sqlstate(error).startswith(_TEMPORARY):
            raise DatabaseUnavailableError(_reason(error)) from error
        raise
    finally:
        await connection.close()


async def _open_sqlite(connection: AsyncConnection) -> None:
    # When the caller is cancelled while aiosqlite opens the file in its thread, the file would stay
    # open. So opening goes on to its end, and the connection is closed then.
    opening = asyncio.ensure_future(connection.start())
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        with suppress(Exception):
            await opening
            await connection.close()
        raise


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _reason(error: Exception) -> str:
    # Without the statement and its parameters, which hold people's data.
    if isinstance(error, DBAPIError) and error.orig:
        cause = error.orig
    else:
        cause = error
    if is_unknown_host(error):
        problem = "cannot resolve its host name"
    else:
        problem = "unexpected response of the database"
    return f"{problem}: {str(cause) or type(cause).__name__}"


def describe_error(error: Exception) -> str:
    """The text of an error; of one of SQLAlchemy its type alone, since its text has values."""
    if isinstance(error, SQLAlchemyError):
        return type(error).__name__
    return str(error)


def _postgresql_engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=5,
        max_overflow=10,
        pool_timeout=CONNECT_SECONDS,
        pool_pre_ping=True,  # the server may have been restarted since
        connect_args={"timeout": CONNECT_SECONDS, "command_timeout": ANSWER_SECONDS},
        hide_parameters=True,
    )


def _sqlite_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url, connect_args={"timeout": CONNECT_SECONDS}, hide_parameters=True
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself: we do, below
        cursor = connection.cursor()
        _write_ahead(cursor)
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _write_ahead(cursor: Any) -> None:
    # With a write-ahead log readers do not wait for a writer. The file keeps the mode, so only the
    # first connection of all changes it. Two that open a new file at once would each wait for the
    # other: SQLite sees that and refuses one at once, whatever its timeout
    # (https://sqlite.org/c3ref/busy_handler.html). So trying again is up to us.
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # The lower byte: whichever kind of busy.
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > end:
                raise
            await_only(asyncio.sleep(_AGAIN_SECONDS))
