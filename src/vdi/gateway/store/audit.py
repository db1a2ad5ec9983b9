"""The audit log: rows that are added and never changed, for every action of a person and every
login.

An action leaves two rows: `begun`, committed before it is done, and its outcome. So an action whose
outcome is missing (the process died, the database went down) can still be seen, and history knows
who ends a session before it is gone.

When the row cannot be written, an administrator's act on another person's object (`closed`) is not
done. A person's own act is done all the same, since a database that is down must not keep users
from their desktops; the log gets the row.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Index,
    Integer,
    String,
    Text,
    case,
    cast,
    delete,
    func,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.gateway.denied import ActionDenied
from vdi.gateway.store.database import Database, DatabaseUnavailableError, table_of
from vdi.printable import escape

log = logging.getLogger(__name__)

# Outcomes, besides the codes of ActionDenied.
BEGUN, DONE, FAILED = "begun", "done", "failed"
# Refusals of one login or API token, in one session and for one reason: one row at once, and one
# with their count.
REFUSED_SECONDS = 60
# Such rows that are counted at a time, over all logins. Beyond that, the oldest is written early.
MAX_COUNTED = 1000
# Different acts that such a count names.
_MAX_NAMED = 20
# Rows of `record_soon` are in memory for so long at most, and no more of them.
_WRITE_SECONDS, _MAX_SOON = 1.0, 256

# The action by which a person ends a session; history looks for it.
END = "session.end"
# The kernel has killed the desktop, or a program in it, since its memory was used up.
OUT_OF_MEMORY_ACT = "session.out-of-memory"

# Actions of agents that carry data. They are in the list of actions, too.
_BY_AGENTS = {"computer.type": "Typed by an agent", "computer.run": "Command of an agent"}

# Data that went into a desktop or left it, by connections too, with the words for them.
TRANSFERS = {
    "clipboard.receive": "Clipboard in",
    "clipboard.send": "Clipboard out",
    "files.upload": "File in",
    "files.upload-error": "File refused",
    "files.download": "File out",
    "print.document": "Printed",
    "viewer.connect": "Connected",
    "viewer.disconnect": "Disconnected",
    "transfers.begin": "Desktop begins to report",
    "transfers.dropped": "Lost",
    **_BY_AGENTS,
}
_ONLY_TRANSFERS = TRANSFERS.keys() - _BY_AGENTS.keys()
_OUT_OF_DESKTOPS = ("clipboard.send", "files.download", "print.document")
# Rows of a list by person.
_MAX_PEOPLE = 20

# The address of the browser whose request is being answered; the app sets it for each request.
came_from: ContextVar[str] = ContextVar("came_from", default="")


class AuditRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One row of the table; the export has these columns."""

    id: Annotated[int, BigInteger().with_variant(Integer, "sqlite")]
    # The same in all rows of one act.
    act: Annotated[str, String(32)]
    at: datetime
    actor: Annotated[str, String(254)]
    address: Annotated[str, String(64)]
    action: Annotated[str, String(64)]
    target: Annotated[str, String(512)]
    target_uid: Annotated[str, String(64)]
    target_owner: Annotated[str, String(254)] = msgspec.field(name="targetUser")
    # `done`, `failed`, the code of a refusal, or `begun`: the result is unknown.
    outcome: Annotated[str, String(32)]
    # A JSON object of texts.
    detail: str


audit = table_of(
    "audit",
    AuditRow,
    # No act has two rows with the same outcome: an event that two replicas have read from a desktop
    # is one row.
    Index(None, "act", "outcome", unique=True),
    *(Index(None, column) for column in ("at", "actor", "target_uid")),
    key=("id",),
)
_SIZE_TEXT = cast(audit.c.detail, JSON().with_variant(Text(), "sqlite"))["bytes"].as_string()
# Bytes of a transfer; NULL where the row has none. A browser sends the size of an upload: one that
# is no number would fail the query for all rows.
SIZE = case((_SIZE_TEXT.regexp_match("^[0-9]{1,18}$"), cast(_SIZE_TEXT, BigInteger)))


class NotAuditedError(Exception):
    """Raised when an act was not done because it cannot be written to the audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """An action that is about to be done."""

    # E-mail address, or the name of a component that acts by itself.
    actor: str
    # `noun.verb`, such as `session.end`.
    action: str
    target: str
    # Uid and owner of the target, where it has them.
    uid: str = ""
    owner: str = ""
    # Parameters of the action; nothing secret.
    detail: Mapping[str, str] = field(default_factory=dict)
    # The same in all rows of one act; empty: it has one row.
    id: str = ""


def act_on(session: VDISession, actor: str, action: str, detail: Mapping[str, str]) -> Act:
    """An action on a session."""
    meta = session.metadata
    return Act(
        actor=actor,
        action=action,
        target=meta.name,
        uid=meta.uid,
        owner=session.spec.user,
        detail=detail,
    )


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the audit log: the last row of an act."""

    number: Annotated[int, doc("Increases with each entry.")]
    at: Annotated[datetime, doc("When the result was known.")]
    actor: Annotated[
        str, doc("E-mail address of the user who acted. Empty: one of `users` in `detail` did.")
    ]
    address: Annotated[str, doc("Client address.")]
    action: Annotated[str, doc("Action, such as session.end.")]
    target: Annotated[str, doc("Name of the target.")]
    uid: Annotated[str, doc("The target's uid, if it has one.")]
    owner: Annotated[str, doc("Owner of the target.")]
    outcome: Annotated[
        str, doc("done, failed, the reason for a refusal, or begun (the result is not known).")
    ]
    detail: Annotated[dict[str, str], doc("Details of the request.")]


@dataclass(slots=True)
class _Refused:
    """Refusals after the one that was written at once. `row`: theirs, empty without any."""

    until: datetime
    count: int = 0
    what: set[str] = field(default_factory=set)
    row: dict[str, Any] = field(default_factory=dict)


class Audit:
    """The only writer of the table."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock
        # By login or API token, actor, session and code; the oldest first.
        self._refused: dict[tuple[str, ...], _Refused] = {}
        self._soon: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Write what waits: rows of `record_soon`, and counts of refusals at the end of their
        minute.

        All of it when the gateway stops.
        """
        try:
            while True:
                await asyncio.sleep(_WRITE_SECONDS)
                await self.write_refused()
        finally:
            try:
                await self.write_refused(early=True)
            except asyncio.CancelledError as error:  # nothing else has them
                for row in self._soon:
                    _log_row(row, error)
                raise

    async def record_soon(self, act: Act) -> None:
        """Record an act that is done within a second: one transaction for all of them. Never
        raises.

        For what agents do hundreds of times a second. A crash loses the rows of its last second.
        """
        self._soon.append(self._row(act) | {"outcome": DONE})
        if len(self._soon) >= _MAX_SOON:
            await self.write_soon()

    async def write_soon(self) -> None:
        """Write the rows of `record_soon` now. Never raises."""
        rows, self._soon = self._soon, []
        if not rows:
            return
        try:
            async with self._database.begin() as connection:
                await connection.execute(audit.insert(), rows)
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            for row in rows:
                _log_row(row, error)
        except asyncio.CancelledError:
            # The gateway stops, or one client has gone whose request writes the rows of all: the
            # next write has them.
            self._soon[:0] = rows
            raise

    async def refuse(self, act: Act, code: str, login_id: str) -> None:
        """Record a refused act: the first one at once, those of the next minute as one row with
        their count.

        A program that is refused a hundred times a second must not fill the table. Never raises.
        """
        key = login_id, act.actor, act.uid, code
        now = self._clock()
        known = self._refused.get(key)
        if known and now < known.until:
            self._count(known, act, code)
            return
        over = self._refused.pop(key, None)
        if over is None and len(self._refused) >= MAX_COUNTED:
            over = self._refused.pop(next(iter(self._refused)))
        self._refused[key] = _Refused(now + timedelta(seconds=REFUSED_SECONDS))
        if over and over.row:
            self._soon.append(over.row)
        await self.record(act, code)

    async def write_refused(self, *, early: bool = False) -> None:
        """Write the counts whose minute is over, or all of them, and the rows of `record_soon`.
        Never raises.
        """
        now = self._clock()
        over = [key for key, refused in self._refused.items() if early or refused.until <= now]
        counted = [self._refused.pop(key).row for key in over]
        self._soon += [row for row in counted if row]
        await self.write_soon()

    def _count(self, refused: _Refused, act: Act, code: str) -> None:
        refused.count += 1
        if len(refused.what) < _MAX_NAMED:
            refused.what.add(f"{act.action} {act.target[:100]}")
        detail = {"count": str(refused.count), "what": ", ".join(sorted(refused.what))}
        if "token" in act.detail:
            detail["token"] = act.detail["token"]
        refused.row = self._row(replace(act, detail=detail)) | {"outcome": code}

    @asynccontextmanager
    async def act(self, act: Act, *, closed: bool) -> AsyncIterator[None]:
        """The body does the act; an exception is its outcome, and is passed on.

        `closed`: the act is not done unless it can be written. Raises NotAuditedError then.
        """
        row = self._row(act)
        try:
            await self._add(row | {"outcome": BEGUN})
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            if closed:
                log.error(
                    "not done, since it could not be written to the audit (%s): %s",
                    _why(error),
                    _as_text(row),
                )
                raise NotAuditedError(
                    "The action was not performed, because it cannot be written to the audit log"
                    " right now. Try again in a minute."
                ) from error
            _log_row(row | {"outcome": BEGUN}, error)
        try:
            yield
        except Exception as error:
            outcome = error.code if isinstance(error, ActionDenied) else FAILED
            await self._try_to_add(row | {"at": self._clock(), "outcome": outcome})
            raise
        await self._try_to_add(row | {"at": self._clock(), "outcome": DONE})

    async def record(self, act: Act, outcome: str = DONE) -> None:
        """Add one row for an act that is over already, such as a login or its refusal. Never
        raises.
        """
        await self._try_to_add(self._row(act) | {"outcome": outcome})

    async def entries(
        self,
        *,
        limit: int,
        before: int | None = None,
        by_size: bool = False,
        **filters: Any,
    ) -> list[Entry]:
        """Acts, newest first; `before` is the number of the last one read. `by_size`: the largest
        first. `filters`: of `_conditions`. Raises DatabaseUnavailableError.
        """
        await self.write_soon()  # those who look see what they have just done
        later = audit.alias()
        is_last = (
            ~select(later.c.id).where(later.c.act == audit.c.act, later.c.id > audit.c.id).exists()
        )
        query = select(audit).where(is_last, *_conditions(**filters)).limit(limit)
        if by_size:
            query = query.where(SIZE.is_not(None)).order_by(SIZE.desc())
        if before is not None:
            query = query.where(audit.c.id < before)
        query = query.order_by(audit.c.id.desc())
        async with self._database.connect() as connection:
            return [
                Entry(
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
                for row in await connection.execute(query)
            ]

    async def sum_bytes(self, **filters: Any) -> list[tuple[str, int]]:
        """Bytes that left desktops by person, most first; "": one of several people. Raises
        DatabaseUnavailableError.
        """
        total = func.sum(SIZE)
        left = audit.c.action.in_(_OUT_OF_DESKTOPS) & SIZE.is_not(None)
        query = select(audit.c.actor, total).where(left, *_conditions(transfers=True, **filters))
        query = query.group_by(audit.c.actor).order_by(total.desc()).limit(_MAX_PEOPLE)
        async with self._database.connect() as connection:
            return [(actor, int(size)) for actor, size in await connection.execute(query)]

    async def add_events(self, events: Mapping[str, tuple[Act, datetime]]) -> set[str]:
        """Add what has happened, by a key of 32 characters, in this order. Returns the keys that
        were not there yet.

        Raises DatabaseUnavailableError.
        """
        rows = [
            self._row(act) | {"act": key, "at": at, "outcome": DONE}
            for key, (act, at) in events.items()
        ]
        add = (
            self._database.insert(audit)
            .values(rows)
            .on_conflict_do_nothing()
            .returning(audit.c.act)
        )
        async with self._database.begin() as connection:
            return set((await connection.execute(add)).scalars())

    def _row(self, act: Act) -> dict[str, Any]:
        return {
            "act": act.id or uuid4().hex,
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
        await self.write_soon()  # rows stay in the order of what was done
        async with self._database.begin() as connection:
            await connection.execute(audit.insert().values(row))

    async def _try_to_add(self, row: dict[str, Any]) -> None:
        try:
            await self._add(row)
        except (DatabaseUnavailableError, SQLAlchemyError) as error:
            _log_row(row, error)


def _conditions(
    *,
    actor: str | None = None,
    action: str | None = None,
    target: str | None = None,
    owner: str | None = None,
    uid: str | None = None,
    actions: Collection[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    transfers: bool = False,
) -> list[ColumnElement[bool]]:
    """Names may be parts; `until` is exclusive. `uid`: of the target. `actions`: one of these.
    `transfers`: these alone; else they are left out, unless `action` names one. Actions of agents,
    which can be ten a second, are left out unless actions or a target are named.
    """
    columns = audit.c
    conditions: list[ColumnElement[bool]] = []
    if transfers:
        conditions.append(columns.action.in_(TRANSFERS))
    elif not action:
        conditions.append(columns.action.not_in(_ONLY_TRANSFERS))
    if not (transfers or action or target or actions):
        conditions.append(columns.action.not_like("computer.%"))
    if actions:
        conditions.append(columns.action.in_(actions))
    if uid:
        conditions.append(columns.target_uid == uid)
    if since:
        conditions.append(columns.at >= since)
    if until:
        conditions.append(columns.at < until)
    wanted = {
        columns.actor: actor,
        columns.action: action,
        columns.target: target,
        columns.target_owner: owner,
    }
    for column, value in wanted.items():
        # A whole address, or a kind that a list offers, is no part of another one.
        if value and ("@" in value or value in TRANSFERS):
            conditions.append(column == value)
        elif value:
            conditions.append(column.icontains(value, autoescape=True))
    return conditions


def show_name(name: str, *, is_hashed: bool) -> str:
    """A file's name as the audit may have it."""
    if is_hashed:
        return f"sha256:{sha256(name.encode(errors='surrogateescape')).hexdigest()}"
    return escape(name)[:300]


def event_act(log: str, number: int) -> str:
    """The act of an event in a desktop's log: 16 hexadecimal digits each."""
    return f"{log}{number:016x}"


async def enders(connection: AsyncConnection, uids: list[str]) -> dict[str, str]:
    """Users who ended sessions, by the session's uid; sessions that no user has ended are left
    out.
    """
    of_these = audit.c.target_uid.in_(uids) & (audit.c.action == END)
    last = select(func.max(audit.c.id)).where(of_these).group_by(audit.c.act)
    query = (
        select(audit.c.target_uid, audit.c.actor)
        .where(audit.c.id.in_(last), audit.c.outcome.in_((BEGUN, DONE)))
        .order_by(audit.c.id)
    )
    return {row.target_uid: row.actor for row in await connection.execute(query)}


async def drop_audit(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Delete at most `limit` rows from before that time; returns how many."""
    old = select(audit.c.id).where(audit.c.at < before).order_by(audit.c.at).limit(limit)
    return (await connection.execute(delete(audit).where(audit.c.id.in_(old)))).rowcount


def _log_row(row: Mapping[str, Any], error: BaseException) -> None:
    log.error(
        "this belongs in the audit, but could not be written (%s): %s", _why(error), _as_text(row)
    )


def _why(error: BaseException) -> str:
    if isinstance(error, DatabaseUnavailableError):
        return str(error)
    return type(error).__name__


def _as_text(row: Mapping[str, Any]) -> str:
    return msgspec.json.encode(row).decode()
