"""Tables and statements for logins, API tokens, and the provider accounts that addresses are bound to.

Used by `login`, which decides what a row means. Secrets are random, so only their SHA-256 is stored and nothing slower
is needed. An account has one address and an address one account, each of them per issuer.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    RowMapping,
    Select,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    delete,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.store.database import Database, Instant, batches, metadata

logins = Table(
    "logins",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("user", String(254), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("source", String(16), nullable=False),
    Column("credential", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("agent", String(200), nullable=False),
    Column("created", Instant, nullable=False),
    Column("seen", Instant, nullable=False),
    Column("expires", Instant, nullable=False),
    Column("ended", Instant),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("user", String(254), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("source", String(16), nullable=False),
    Column("label", String(100), nullable=False),
    Column("created", Instant, nullable=False),
    Column("seen", Instant),
    Column("expires", Instant, nullable=False),
    Column("ended", Instant),
)


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """One browser that somebody has logged in with."""

    id: str
    user: str
    name: str
    groups: frozenset[str]
    admin: bool
    # `local` or `oidc`.
    source: str

    # A mark of the password that was given; another password is another mark. Empty where we know no password.
    credential: str = ""
    address: str
    agent: str
    created: datetime
    seen: datetime
    expires: datetime
    ended: datetime | None = None


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """One API token, without the token itself."""

    id: str
    user: str
    name: str
    groups: frozenset[str]
    admin: bool
    source: str
    label: str
    created: datetime
    seen: datetime | None = None
    expires: datetime
    ended: datetime | None = None


T = TypeVar("T", Login, ApiToken)


class LoginStore:
    """Logins and API tokens in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_login(self, login: Login, secret_hash: str) -> None:
        """A new login."""
        async with self._database.begin() as connection:
            await insert_login(connection, login, secret_hash)

    async def add_token(self, token: ApiToken, secret_hash: str, most: int) -> bool:
        """A new API token; False when its user has `most` that hold."""
        mine = and_(api_tokens.c.user == token.user, is_open(api_tokens, token.created))
        async with self._database.begin() as connection:
            await self._database.lock(connection, f"api_tokens/{token.user}")
            count = select(func.count()).select_from(api_tokens).where(mine)
            if (await connection.execute(count)).scalar_one() >= most:
                return False
            await connection.execute(api_tokens.insert().values(_values(token, secret_hash)))
            return True

    async def login_by_hash(self, secret_hash: str) -> Login | None:
        """The login with this secret, whether it still holds or not."""
        return _first(await self._rows(select(logins).where(logins.c.secret_hash == secret_hash)), Login)

    async def login(self, login_id: str) -> Login | None:
        """One login, whether it still holds or not."""
        return _first(await self._rows(select(logins).where(logins.c.id == login_id)), Login)

    async def token_by_hash(self, secret_hash: str) -> ApiToken | None:
        """The API token with this secret, whether it still holds or not."""
        return _first(await self._rows(select(api_tokens).where(api_tokens.c.secret_hash == secret_hash)), ApiToken)

    async def token(self, token_id: str) -> ApiToken | None:
        """One API token, whether it still holds or not."""
        return _first(await self._rows(select(api_tokens).where(api_tokens.c.id == token_id)), ApiToken)

    async def logins_of(self, user: str, now: datetime) -> list[Login]:
        """The logins of a user that have not ended or expired, the latest seen first."""
        query = select(logins).where(logins.c.user == user, is_open(logins, now)).order_by(logins.c.seen.desc())
        return [_read(row, Login) for row in await self._rows(query)]

    async def tokens_of(self, user: str, now: datetime) -> list[ApiToken]:
        """The API tokens of a user that have not ended or expired, the newest first."""
        mine = and_(api_tokens.c.user == user, is_open(api_tokens, now))
        query = select(api_tokens).where(mine).order_by(api_tokens.c.created.desc())
        return [_read(row, ApiToken) for row in await self._rows(query)]

    async def last_of(self, user: str, now: datetime) -> Login | ApiToken | None:
        """The last login of a user that is still known, whether it holds or not; else an API token that holds."""
        query = select(logins).where(logins.c.user == user).order_by(logins.c.created.desc()).limit(1)
        last = _first(await self._rows(query), Login)
        return last or next(iter(await self.tokens_of(user, now)), None)

    async def open_logins_from(self, source: str, now: datetime) -> list[Login]:
        """All logins that have not ended or expired, of whoever came this way."""
        query = select(logins).where(logins.c.source == source, is_open(logins, now))
        return [_read(row, Login) for row in await self._rows(query)]

    async def open_tokens_from(self, source: str, now: datetime) -> list[ApiToken]:
        """All API tokens that have not ended or expired, of whoever came this way."""
        query = select(api_tokens).where(api_tokens.c.source == source, is_open(api_tokens, now))
        return [_read(row, ApiToken) for row in await self._rows(query)]

    async def over_logins(self, now: datetime, unused_since: datetime) -> list[Login]:
        """Logins whose time is over, or that were not used since then, and that have not ended yet."""
        over = (logins.c.expires <= now) | (logins.c.seen <= unused_since)
        return [_read(row, Login) for row in await self._rows(select(logins).where(logins.c.ended.is_(None), over))]

    async def see(self, credential: Login | ApiToken, now: datetime) -> None:
        """It was used just now."""
        table = _table_of(credential)
        async with self._database.begin() as connection:
            await connection.execute(update(table).where(table.c.id == credential.id).values(seen=now))

    async def end_logins(self, ids: Sequence[str], now: datetime) -> None:
        """End logins; one that has ended keeps its end."""
        await self._end(logins, ids, now)

    async def end_tokens(self, ids: Sequence[str], now: datetime) -> None:
        """End API tokens; one that has ended keeps its end."""
        await self._end(api_tokens, ids, now)

    async def set_person(self, credential: Login | ApiToken, *, name: str, groups: frozenset[str], admin: bool) -> None:
        """What is known of the person has changed."""
        table = _table_of(credential)
        values = {"name": name, "groups": _groups_text(groups), "admin": admin}
        async with self._database.begin() as connection:
            await connection.execute(update(table).where(table.c.id == credential.id).values(**values))

    async def forget_before(self, then: datetime) -> None:
        """Remove what ended or expired before that time."""
        async with self._database.begin() as connection:
            for table in (logins, api_tokens):
                await connection.execute(delete(table).where((table.c.ended < then) | (table.c.expires < then)))

    async def _end(self, table: Table, ids: Sequence[str], now: datetime) -> None:
        for batch in batches(ids):
            some = and_(table.c.id.in_(batch), table.c.ended.is_(None))
            async with self._database.begin() as connection:
                await connection.execute(update(table).where(some).values(ended=now))

    async def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        async with self._database.connect() as connection:
            rows: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
            return rows


async def insert_login(connection: AsyncConnection, login: Login, secret_hash: str) -> None:
    """Add a login, within a transaction."""
    await connection.execute(logins.insert().values(_values(login, secret_hash)))


async def end_all_of(connection: AsyncConnection, user: str, source: str, now: datetime) -> None:
    """End the logins and API tokens of a user that came this way, within a transaction."""
    for table in (logins, api_tokens):
        mine = and_(table.c.user == user, table.c.source == source, table.c.ended.is_(None))
        await connection.execute(update(table).where(mine).values(ended=now))


def is_open(table: Table, now: datetime) -> ColumnElement[bool]:
    """Whether a row of `logins` or `api_tokens` has not ended or expired."""
    return and_(table.c.ended.is_(None), table.c.expires > now)


def _table_of(credential: Login | ApiToken) -> Table:
    return logins if isinstance(credential, Login) else api_tokens


def _values(credential: Login | ApiToken, secret_hash: str) -> dict[str, Any]:
    groups = _groups_text(credential.groups)
    return msgspec.structs.asdict(credential) | {"groups": groups, "secret_hash": secret_hash}


def _groups_text(groups: frozenset[str]) -> str:
    return msgspec.json.encode(sorted(groups)).decode()


def _read(row: RowMapping, kind: type[T]) -> T:
    fields = {name: value for name, value in row.items() if name != "secret_hash"}
    return kind(**fields | {"groups": frozenset(msgspec.json.decode(row["groups"], type=list[str]))})


def _first(rows: Sequence[RowMapping], kind: type[T]) -> T | None:
    return _read(rows[0], kind) if rows else None


oidc_subjects = Table(
    "oidc_subjects",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("user", String(254), primary_key=True),
    Column("subject", String(255), nullable=False),
    Column("bound", Instant, nullable=False),
    UniqueConstraint("issuer", "subject"),
)


class SubjectStore:
    """Bindings in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_login(self, issuer: str, subject: str, login: Login, secret_hash: str) -> dict[str, str]:
        """Bind account and address unless one of them is bound already; add a login if they are bound to each other.

        Returns the bindings of both, as subjects by address. A new binding ends what the address has open of another
        issuer's account. All of it is one transaction: a release that comes at the same time finds the login.
        """
        values = {"issuer": issuer, "subject": subject, "user": login.user, "bound": login.created}
        either = or_(oidc_subjects.c.user == login.user, oidc_subjects.c.subject == subject)
        query = select(oidc_subjects.c.user, oidc_subjects.c.subject).where(oidc_subjects.c.issuer == issuer, either)
        locked = query.order_by(oidc_subjects.c.user).with_for_update()  # a release waits until the login is there
        async with self._database.begin() as connection:
            insert = self._database.insert(oidc_subjects).values(values).on_conflict_do_nothing()
            is_new = (await connection.execute(insert)).rowcount > 0
            bound = {row.user: row.subject for row in await connection.execute(locked)}
            if bound == {login.user: subject}:
                if is_new:
                    await end_all_of(connection, login.user, login.source, login.created)
                await insert_login(connection, login, secret_hash)
            return bound

    async def release(self, user: str) -> bool:
        """Forget the account of an address; False: it has none."""
        async with self._database.begin() as connection:
            return (await connection.execute(delete(oidc_subjects).where(oidc_subjects.c.user == user))).rowcount > 0

    async def release_all(self) -> list[str]:
        """Forget the accounts of all addresses; the addresses."""
        async with self._database.begin() as connection:
            gone = await connection.execute(delete(oidc_subjects).returning(oidc_subjects.c.user))
            return sorted(set(gone.scalars()))
