"""Grants: who may enter which session's desktop, as what, on the strength of which login. One table.

The handle, a secret in the browser's cookie, is not stored, only its SHA-256: it is random, so nothing slower is
needed. What a grant means is in `edge`.
"""

from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import Column, ColumnElement, RowMapping, String, Table, Text, delete, exists, func, select, update

from vdi.api.session import Role
from vdi.gateway.store.database import Database, Instant, batches, metadata
from vdi.gateway.store.logins import api_tokens, is_open, logins

grants = Table(
    "grants",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("handle_hash", String(64), nullable=False, unique=True),
    Column("session_uid", String(64), nullable=False, index=True),
    Column("user", String(254), nullable=False, index=True),
    Column("groups", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("login_id", String(64), nullable=False, index=True),
    Column("created", Instant, nullable=False),
    Column("expires", Instant, nullable=False),
    Column("ended", Instant, index=True),
    Column("reason", String(64), nullable=False),
)


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """One browser's way into one desktop."""

    id: str
    session_uid: str
    user: str
    # Of the user, as the login said when this was made: what limits are looked up by.
    groups: frozenset[str] = frozenset()

    role: Role
    login_id: str
    created: datetime
    # The login is over by then; it may be sooner.
    expires: datetime
    ended: datetime | None = None
    # Why it ended, in a word for programs: `logout`, `ended`, `left`, `suspended`, `session-ended`, `access-ended`,
    # `login-over` (login or API token), `displaced` (by newer ones of the same user in this session).
    reason: str = ""


class GrantStore:
    """Grants in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, grant: Grant, handle_hash: str) -> None:
        """A new grant."""
        values = msgspec.structs.asdict(grant) | {
            "handle_hash": handle_hash,
            "groups": msgspec.json.encode(sorted(grant.groups)).decode(),
            "role": str(grant.role),
        }
        async with self._database.begin() as connection:
            await connection.execute(grants.insert().values(values))

    async def by_handle(self, handle_hash: str) -> Grant | None:
        """The grant with this handle, whether it still holds or not."""
        found = await self._find(grants.c.handle_hash == handle_hash)
        return found[0] if found else None

    async def open(
        self, *, session_uid: str | None = None, user: str | None = None, login_id: str | None = None
    ) -> list[Grant]:
        """Grants that have not ended: of this session, this user and this login, as far as they are named."""
        named = {grants.c.session_uid: session_uid, grants.c.user: user, grants.c.login_id: login_id}
        return await self._find(
            grants.c.ended.is_(None), *(column == value for column, value in named.items() if value is not None)
        )

    async def open_of_ended_logins(self, now: datetime, token_prefix: str) -> list[Grant]:
        """Grants that have not ended, though the login or API token that they were made with has ended or expired.

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
        """End these; what had ended before keeps its time and reason. Returns which ones this has ended."""
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
            await connection.execute(delete(grants).where((grants.c.ended < moment) | (grants.c.expires < moment)))

    async def _find(self, *conditions: ColumnElement[bool]) -> list[Grant]:
        async with self._database.connect() as connection:
            # A role of a later version is not known here, and so no way in.
            known = select(grants).where(grants.c.role.in_(list(Role)), *conditions)
            rows = await connection.execute(known.order_by(grants.c.created, grants.c.id))
            return [_read(row) for row in rows.mappings()]


def _read(row: RowMapping) -> Grant:
    values = {name: value for name, value in row.items() if name != "handle_hash"}
    values["groups"] = frozenset(msgspec.json.decode(row["groups"], type=list[str]))
    values["role"] = Role(row["role"])
    return Grant(**values)
