"""Who did what, from where, to what, and with which result: rows that are added and never changed.

An act that is more than looking leaves two rows: `begun`, committed before it is done, and its outcome. So an act of
which the outcome is missing (the process died, the database went down) can still be seen, and who ended a session is
known before the session can be gone.

What if the row cannot be written? An act on what is another person's (`closed`: administrators' acts) is not done.
A person's own act is done all the same, since a database that is down must not keep users from their desktops;
the whole row then goes to the log, as an error.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, Row, String, Table, Text, delete, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.denied import ActionDenied
from vdi.gateway.store.database import Database, DatabaseUnavailableError, Instant, metadata

log = logging.getLogger(__name__)

# Outcomes, besides the codes of `refused.ActionDenied`.
BEGUN, DONE, FAILED = "begun", "done", "failed"

# The action by which a person ends a session; history looks for it.
END = "session.end"

# The address of the browser whose request is being answered; the app sets it for each request.
came_from: ContextVar[str] = ContextVar("came_from", default="")

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("act", String(32), nullable=False),  # the rows of one act have the same
    Column("at", Instant, nullable=False),
    Column("actor", String(254), nullable=False),
    Column("address", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(512), nullable=False),
    Column("target_uid", String(64), nullable=False),
    Column("target_owner", String(254), nullable=False),
    Column("outcome", String(32), nullable=False),
    Column("detail", Text, nullable=False),  # a JSON object of texts
    Index(None, "act"),
    Index(None, "at"),
    Index(None, "actor"),
    Index(None, "target_uid"),
)


class NotAuditedError(Exception):
    """Raised when an act was not done, because that it is done could not be written down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What is to be done, by whom."""

    # E-mail address, or the name of a part that acts by itself.
    actor: str
    # `noun.verb`, such as `session.end`.
    action: str
    # The name of what it is done to.
    target: str
    # The target's uid, where it has one.
    uid: str = ""
    # Whose the target is.
    owner: str = ""
    # What was asked for; nothing secret.
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One act as people read it: its last row."""

    # Newer acts have higher ones; for paging.
    number: int
    at: datetime
    actor: str
    address: str
    action: str
    target: str
    uid: str
    owner: str
    # `done`, `failed`, the code of a refusal, or `begun`: the result is unknown.
    outcome: str
    detail: Mapping[str, str]


class Audit:
    """The only writer of the table."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    @asynccontextmanager
    async def act(self, act: Act, *, closed: bool) -> AsyncIterator[None]:
        """Within, the act is done; an exception is its outcome, and is passed on.

        `closed`: it is not done unless it can be written down. Raises NotAuditedError then.
        """
        row = self._row(act)
        try:
            await self._add(row | {"outcome": BEGUN})
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            if closed:
                log.error("not done, since it could not be written to the audit (%s): %s", _why(error), _as_text(row))
                words = (
                    "The action was not performed, because it cannot be written to the audit log right now. Try "
                    "again in a minute."
                )
                raise NotAuditedError(words) from error
            _lament(row | {"outcome": BEGUN}, error)
        try:
            yield
        except Exception as error:
            outcome = error.code if isinstance(error, ActionDenied) else FAILED
            await self._try_to_add(row | {"at": self._clock(), "outcome": outcome})
            raise
        await self._try_to_add(row | {"at": self._clock(), "outcome": DONE})

    async def record(
        self,
        *,
        actor: str,
        action: str,
        target: str,
        outcome: str,
        detail: Mapping[str, str],
        at: datetime,
        uid: str = "",
        owner: str = "",
    ) -> None:
        """One row for what is over already, such as a login, or its refusal. Never raises: see above."""
        act = Act(actor=actor, action=action, target=target, uid=uid, owner=owner, detail=detail)
        await self._try_to_add(self._row(act) | {"at": at, "outcome": outcome})

    async def entries(
        self,
        *,
        limit: int,
        before: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
    ) -> list[Entry]:
        """The newest acts first; `before` is the number of the last one that was read.

        Raises DatabaseUnavailableError.
        """
        last = select(func.max(audit.c.id)).group_by(audit.c.act)
        query = select(audit).where(audit.c.id.in_(last)).order_by(audit.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.id < before)
        for column, value in ((audit.c.actor, actor), (audit.c.action, action), (audit.c.target, target)):
            if value:
                query = query.where(column == value)
        async with self._database.connect() as connection:
            return [_entry(row) for row in await connection.execute(query)]

    def _row(self, act: Act) -> dict[str, Any]:
        return {
            "act": uuid4().hex,
            "at": self._clock(),
            "actor": act.actor[:254],
            "address": came_from.get()[:64],
            "action": act.action,
            "target": act.target[:512],
            "target_uid": act.uid[:64],
            "target_owner": act.owner[:254],
            "detail": msgspec.json.encode(act.detail, order="sorted").decode(),
        }

    async def _add(self, row: dict[str, Any]) -> None:
        async with self._database.begin() as connection:
            await connection.execute(audit.insert().values(row))

    async def _try_to_add(self, row: dict[str, Any]) -> None:
        try:
            await self._add(row)
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            _lament(row, error)


async def enders(connection: AsyncConnection, uids: list[str]) -> dict[str, str]:
    """Who has ended these sessions, by uid: those whom a person did not end are not in it."""
    of_these = audit.c.target_uid.in_(uids) & (audit.c.action == END)
    last = select(func.max(audit.c.id)).where(of_these).group_by(audit.c.act)
    query = (
        select(audit.c.target_uid, audit.c.actor)
        .where(audit.c.id.in_(last), audit.c.outcome.in_((BEGUN, DONE)))
        .order_by(audit.c.id)
    )
    return {row.target_uid: row.actor for row in await connection.execute(query)}


async def drop_audit(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete rows from before that; gives how many, at most `limit`."""
    old = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(limit)
    return (await connection.execute(delete(audit).where(audit.c.id.in_(old)))).rowcount


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        number=row.id,
        at=row.at,
        actor=row.actor,
        address=row.address,
        action=row.action,
        target=row.target,
        uid=row.target_uid,
        owner=row.target_owner,
        outcome=row.outcome,
        detail=msgspec.json.decode(row.detail, type=dict[str, str]),
    )


def _lament(row: Mapping[str, Any], error: Exception) -> None:
    log.error("this belongs in the audit, but could not be written (%s): %s", _why(error), _as_text(row))


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, DatabaseUnavailableError) else type(error).__name__


def _as_text(row: Mapping[str, Any]) -> str:
    return msgspec.json.encode(row).decode()
