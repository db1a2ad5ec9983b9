"""Tables and statements for logins, API tokens, the provider accounts that addresses are bound to,
and grants: which user may enter which desktop in which role, made with which login.

Used by `login` and `edge`, which decide what a row means. Secrets are random, so only their SHA-256
is stored and nothing slower is needed. An account has one address and an address one account, each
of them per issuer.
"""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Index,
    String,
    Table,
    Text,
    UnaryExpression,
    UniqueConstraint,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.api.session import Role
from vdi.gateway.store.database import Database, Instant, batches, metadata, read_row, table_of


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """One browser that somebody has logged in with."""

    id: Annotated[str, String(64)]
    user: Annotated[str, String(254)]
    name: str
    groups: frozenset[str]
    admin: bool
    # `local` or `oidc`.
    source: Annotated[str, String(16)]
    # Fingerprint of the password that was given: another password has another one. Empty where no
    # password is known.
    credential: Annotated[str, String(64)] = ""
    address: Annotated[str, String(64)]
    agent: Annotated[str, String(200)]
    created: datetime
    seen: datetime
    expires: datetime
    ended: datetime | None = None


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """One API token, without the token itself."""

    id: Annotated[str, String(64)]
    user: Annotated[str, String(254)]
    name: str
    groups: frozenset[str]
    admin: bool
    source: Annotated[str, String(16)]
    label: Annotated[str, String(100)]
    # The one session that it may drive, and do nothing else; empty: all that its user may do.
    session_uid: Annotated[str, String(64)] = ""
    created: datetime
    seen: datetime | None = None
    expires: datetime
    ended: datetime | None = None


T = TypeVar("T", Login, ApiToken)


def _credential_table(name: str, row: type[Login] | type[ApiToken]) -> Table:
    # The hash of the secret is a column but no field: a struct that is shown or logged cannot give
    # it away.
    secret_hash = Column("secret_hash", String(64), nullable=False, unique=True)
    return table_of(name, row, secret_hash, Index(None, "user"), key=("id",))


logins = _credential_table("logins", Login)
api_tokens = _credential_table("api_tokens", ApiToken)
oidc_subjects = Table(
    "oidc_subjects",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("user", String(254), primary_key=True),
    Column("subject", String(255), nullable=False),
    Column("bound", Instant, nullable=False),
    UniqueConstraint("issuer", "subject"),
)


class LoginStore:
    """Logins, API tokens and bindings of provider accounts. Every method raises
    DatabaseUnavailableError.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        # Transactions of this process that may have ended a credential.
        self.changes = 0

    async def add_login(self, login: Login, secret_hash: str) -> None:
        async with self._database.begin() as connection:
            await insert_login(connection, login, secret_hash)

    async def add_token(self, token: ApiToken, secret_hash: str, most: int) -> bool:
        """Add an API token; False when its user has `most` that hold."""
        mine = and_(api_tokens.c.user == token.user, is_open(api_tokens, token.created))
        async with self._database.begin() as connection:
            # Two requests at once would each count one too few: the count and the insert need a
            # lock per user.
            await self._database.lock(connection, f"api_tokens/{token.user}")
            count = select(func.count()).select_from(api_tokens).where(mine)
            if (await connection.execute(count)).scalar_one() >= most:
                return False
            values = msgspec.structs.asdict(token) | {"secret_hash": secret_hash}
            await connection.execute(api_tokens.insert().values(values))
            return True

    async def by_hash(self, kind: type[T], secret_hash: str) -> T | None:
        """The login or API token with this secret, whether it still holds or not."""
        return await self._first(kind, _table_of(kind).c.secret_hash == secret_hash)

    async def by_id(self, kind: type[T], credential_id: str) -> T | None:
        """One login or API token, whether it still holds or not."""
        return await self._first(kind, _table_of(kind).c.id == credential_id)

    async def open_of(self, kind: type[T], user: str, now: datetime) -> list[T]:
        """A user's credentials that have not ended or expired: logins by their last use, tokens the
        newest first.
        """
        table = _table_of(kind)
        order = table.c.seen if kind is Login else table.c.created
        return await self._find(kind, table.c.user == user, is_open(table, now), order=order.desc())

    async def open_from(self, kind: type[T], source: str, now: datetime) -> list[T]:
        """Credentials of this source that have not ended or expired."""
        table = _table_of(kind)
        return await self._find(kind, table.c.source == source, is_open(table, now))

    async def over_logins(self, now: datetime, unused_since: datetime) -> list[Login]:
        """Logins that expired, or were not used since then, and that have not ended yet."""
        over = (logins.c.expires <= now) | (logins.c.seen <= unused_since)
        return await self._find(Login, logins.c.ended.is_(None), over)

    async def update(self, credential: Login | ApiToken, **values: object) -> None:
        """Record its last use, or what has changed about the person."""
        table = _table_of(type(credential))
        async with self._database.begin() as connection:
            await connection.execute(
                update(table).where(table.c.id == credential.id).values(**values)
            )

    async def end(
        self, kind: type[Login] | type[ApiToken], ids: Sequence[str], now: datetime
    ) -> None:
        """End these; one that has ended keeps its end."""
        table = _table_of(kind)
        for batch in batches(ids):
            some = and_(table.c.id.in_(batch), table.c.ended.is_(None))
            async with self._change() as connection:
                await connection.execute(update(table).where(some).values(ended=now))

    async def forget_before(self, then: datetime) -> None:
        """Remove what ended or expired before that time."""
        async with self._database.begin() as connection:
            for table in (logins, api_tokens):
                await connection.execute(
                    delete(table).where((table.c.ended < then) | (table.c.expires < then))
                )

    async def add_bound_login(
        self, issuer: str, subject: str, login: Login, secret_hash: str
    ) -> dict[str, str]:
        """Bind account and address unless one of them is bound already; add a login if they are
        bound to each other.

        Returns the bindings of both, as subjects by address. A new binding ends what the address
        has open of another issuer's account. All of it is one transaction: a release that comes at
        the same time finds the login.
        """
        values = {"issuer": issuer, "subject": subject, "user": login.user, "bound": login.created}
        either = or_(oidc_subjects.c.user == login.user, oidc_subjects.c.subject == subject)
        query = select(oidc_subjects.c.user, oidc_subjects.c.subject).where(
            oidc_subjects.c.issuer == issuer, either
        )
        locked = query.order_by(
            oidc_subjects.c.user
        ).with_for_update()  # a release waits until the login is there
        async with self._change() as connection:
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
            return (
                await connection.execute(delete(oidc_subjects).where(oidc_subjects.c.user == user))
            ).rowcount > 0

    async def release_all(self) -> list[str]:
        """Forget the accounts of all addresses; the addresses."""
        async with self._database.begin() as connection:
            gone = await connection.execute(delete(oidc_subjects).returning(oidc_subjects.c.user))
            return sorted(set(gone.scalars()))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._database.begin() as connection:
                yield connection
        finally:
            self.changes += 1  # after the commit: whoever read before it sees another number

    async def _find(
        self,
        kind: type[T],
        *conditions: ColumnElement[bool],
        order: UnaryExpression[datetime] | None = None,
    ) -> list[T]:
        async with self._database.connect() as connection:
            rows = await connection.execute(
                select(_table_of(kind)).where(*conditions).order_by(order)
            )
            return [read_row(row, kind) for row in rows]

    async def _first(self, kind: type[T], condition: ColumnElement[bool]) -> T | None:
        return next(iter(await self._find(kind, condition)), None)


async def insert_login(connection: AsyncConnection, login: Login, secret_hash: str) -> None:
    """Add a login, within a transaction."""
    await connection.execute(
        logins.insert().values(msgspec.structs.asdict(login) | {"secret_hash": secret_hash})
    )


async def end_all_of(connection: AsyncConnection, user: str, source: str, now: datetime) -> None:
    """End the logins and API tokens of a user that came this way, within a transaction."""
    for table in (logins, api_tokens):
        mine = and_(table.c.user == user, table.c.source == source, table.c.ended.is_(None))
        await connection.execute(update(table).where(mine).values(ended=now))


async def count_credentials(database: Database, now: datetime) -> dict[str, Counter[str]]:
    """Numbers of accounts at the provider, open logins and API tokens, by person and table."""
    counts = defaultdict[str, Counter[str]](Counter)
    async with database.connect() as connection:
        for table in (oidc_subjects, logins, api_tokens):
            query = select(table.c.user, func.count()).group_by(table.c.user)
            if table is not oidc_subjects:
                query = query.where(is_open(table, now))
            for user, count in await connection.execute(query):
                counts[user][table.name] = count
    return counts


def is_open(table: Table, now: datetime) -> ColumnElement[bool]:
    """Whether a row of `logins` or `api_tokens` has not ended or expired."""
    return and_(table.c.ended.is_(None), table.c.expires > now)


def _table_of(kind: type[Login] | type[ApiToken]) -> Table:
    return logins if kind is Login else api_tokens


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One browser's way into one desktop."""

    id: Annotated[str, String(64)]
    session_uid: Annotated[str, String(64)]
    user: Annotated[str, String(254)]
    # Of the user, as the login had them when this was made: limits are looked up by them.
    groups: frozenset[str] = frozenset()
    role: Role
    login_id: Annotated[str, String(64)]
    created: datetime
    # The login is over by then; it may be sooner.
    expires: datetime
    ended: datetime | None = None
    # Why it ended, as a code: `logout`, `ended`, `left`, `suspended`, `session-ended`,
    # `access-ended`, `login-over` (login or API token), `displaced` (by newer ones of the same user
    # in this session).
    reason: Annotated[str, String(64)] = ""


grants = table_of(
    "grants",
    Grant,
    Column("handle_hash", String(64), nullable=False, unique=True),
    *(Index(None, column) for column in ("session_uid", "user", "login_id", "ended")),
    key=("id",),
)


class GrantStore:
    """Grants in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, grant: Grant, handle_hash: str) -> None:
        values = msgspec.structs.asdict(grant) | {"handle_hash": handle_hash}
        async with self._database.begin() as connection:
            await connection.execute(grants.insert().values(values))

    async def by_handle(self, handle_hash: str) -> Grant | None:
        """The grant with this handle, whether it still holds or not."""
        matching = await self._find(grants.c.handle_hash == handle_hash)
        return matching[0] if matching else None

    async def open(
        self,
        *,
        session_uid: str | None = None,
        user: str | None = None,
        login_id: str | None = None,
    ) -> list[Grant]:
        """Grants that have not ended: of this session, this user and this login, as far as they are
        named.
        """
        named = {
            grants.c.session_uid: session_uid,
            grants.c.user: user,
            grants.c.login_id: login_id,
        }
        return await self._find(
            grants.c.ended.is_(None),
            *(column == value for column, value in named.items() if value is not None),
        )

    async def was_in(self, session_uid: str, user: str) -> bool:
        """Whether this user has entered this session, as far back as grants are kept."""
        return bool(await self._find(grants.c.session_uid == session_uid, grants.c.user == user))

    async def open_of_ended_logins(self, now: datetime, token_prefix: str) -> list[Grant]:
        """Grants that have not ended, though the login or API token that they were made with has
        ended or expired.

        A row of that is committed before its first grant, and is removed only long after its end.
        """
        token_id = func.substr(grants.c.login_id, len(token_prefix) + 1)
        return await self._find(
            grants.c.ended.is_(None),
            ~exists().where(logins.c.id == grants.c.login_id, is_open(logins, now)),
            ~exists().where(api_tokens.c.id == token_id, is_open(api_tokens, now)),
        )

    async def ended_since(self, moment: datetime) -> list[Grant]:
        """Grants that were ended then or later."""
        return await self._find(grants.c.ended >= moment)

    async def end(self, ids: Collection[str], now: datetime, reason: str) -> set[str]:
        """End these; what had ended before keeps its time and reason. Returns which ones this has
        ended.
        """
        ended: set[str] = set()
        for batch in batches(ids):
            some = grants.c.id.in_(batch) & grants.c.ended.is_(None)
            end = update(grants).where(some).values(ended=now, reason=reason).returning(grants.c.id)
            async with self._database.begin() as connection:
                ended.update((await connection.execute(end)).scalars())
        return ended

    async def forget_before(self, moment: datetime) -> None:
        """Remove what had ended or expired before."""
        async with self._database.begin() as connection:
            await connection.execute(
                delete(grants).where((grants.c.ended < moment) | (grants.c.expires < moment))
            )

    async def _find(self, *conditions: ColumnElement[bool]) -> list[Grant]:
        async with self._database.connect() as connection:
            # A later version may have left a role that is not known here: such a grant lets no one
            # in.
            known = select(grants).where(grants.c.role.in_(list(Role)), *conditions)
            rows = await connection.execute(known.order_by(grants.c.created, grants.c.id))
            return [read_row(row, Grant) for row in rows]
