"""Grants: which user may enter which session's desktop in which role, made with which login. Used by `edge`.

The handle, a secret in the browser's cookie, is stored as its SHA-256 only: it is random, so nothing slower is needed.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated

import msgspec
from sqlalchemy import Column, ColumnElement, Index, String, delete, exists, func, select, update

from vdi.api.session import Role
from vdi.gateway.store.database import Database, batches, read_row, table_of
from vdi.gateway.store.logins import api_tokens, is_open, logins


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
    # Why it ended, as a code: `logout`, `ended`, `left`, `suspended`, `session-ended`, `access-ended`, `login-over`
    # (login or API token), `displaced` (by newer ones of the same user in this session).
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
            # A later version may have left a role that is not known here: such a grant lets no one in.
            known = select(grants).where(grants.c.role.in_(list(Role)), *conditions)
            rows = await connection.execute(known.order_by(grants.c.created, grants.c.id))
            return [read_row(row, Grant) for row in rows]
