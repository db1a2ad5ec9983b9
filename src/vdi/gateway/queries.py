"""Reads that REST API and portal have in common: pages of long lists, past sessions, usage, the
audit log.

Both translate a request into one of these calls and render its result. A parameter that cannot be
read raises ActionDenied with its field, so both refuse it with the same message.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from vdi.api.constraints import doc
from vdi.gateway.current_use import Use, use_of
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.usage import By, Month
from vdi.gateway.rights import User
from vdi.gateway.services import Services
from vdi.gateway.store.audit import Entry
from vdi.gateway.store.recordings import WatchedRecording

T = TypeVar("T")
Key = tuple[str, ...]


class ListPage(msgspec.Struct, Generic[T], omit_defaults=True):
    """A list, or one page of a long one."""

    items: Annotated[tuple[T, ...], doc("The items, or those on this page.")]
    next: Annotated[
        str, doc("`cursor` of the next page; absent on the last one, and for a list without pages.")
    ] = ""


def cut(
    items: Iterable[T], key: Callable[[T], Key], *, limit: int, cursor: str | None
) -> ListPage[T]:
    """A page of these items in the order of `key`.

    A cursor is the key of the last item of its page. So the server keeps nothing between two pages,
    and an item that is added or removed in between neither repeats nor hides another one.
    """
    after = _read_cursor(cursor)
    return _first(
        sorted((item for item in items if after is None or key(item) > after), key=key), limit, key
    )


def _first(items: Sequence[T], limit: int, key: Callable[[T], Key]) -> ListPage[T]:
    """The first `limit` items; there is a next page if there are more."""
    shown = tuple(items[:limit])
    if len(items) <= limit:
        return ListPage(shown)
    return ListPage(
        shown, base64.urlsafe_b64encode(msgspec.json.encode(key(shown[-1]))).decode().rstrip("=")
    )


def _read_cursor(cursor: str | None) -> Key | None:
    if not cursor:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[str, ...])
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise _bad_cursor(cursor) from error


def _bad_cursor(cursor: str | None) -> ActionDenied:
    return invalid("cursor", cursor, "`next` of the previous page")


def _read_place(cursor: str | None) -> tuple[datetime, str] | None:
    """The time and the name of the last item of the page before."""
    try:
        at, name = _read_cursor(cursor) or ("", "")
        if at:
            return (datetime.fromisoformat(at), name)
        return None
    except ValueError as error:
        raise _bad_cursor(cursor) from error


async def read_past_sessions(
    services: Services, *, user: str | None, name: str | None = None, limit: int, cursor: str | None
) -> ListPage[SessionHistory]:
    """Sessions with their runs, newest first. `user` None: of all users."""
    before = _read_place(cursor)
    listed = await services.history.past(limit=limit + 1, user=user, name=name, before=before)
    # With fractions of a second: two sessions of one second are told apart by them.
    return _first(listed, limit, lambda past: (past.session.created.isoformat(), past.session.uid))


async def read_recordings(
    services: Services, user: User, *, limit: int, cursor: str | None
) -> ListPage[WatchedRecording]:
    """Recordings that the user may watch, newest first."""
    listed = await services.recordings.newest(user, limit + 1, _read_place(cursor))
    return _first(listed, limit, lambda recording: (recording.started.isoformat(), recording.id))


async def read_audit(
    services: Services,
    *,
    limit: int,
    cursor: str | None,
    by_size: bool = False,
    **filters: Any,
) -> ListPage[Entry]:
    """Entries of the audit log, newest first; the cursor is the number of an entry. `by_size`: the
    largest transfers, one page.
    """
    if cursor and not (cursor.isdecimal() and len(cursor) < 19):
        raise _bad_cursor(cursor)
    before = int(cursor) if cursor else None
    entries = await services.audit.entries(
        limit=limit if by_size else limit + 1, before=before, by_size=by_size, **filters
    )
    return ListPage(
        tuple(entries[:limit]), str(entries[limit - 1].number) if len(entries) > limit else ""
    )


async def read_use(services: Services, user: User) -> Use:
    """Current use of this user beside their limits."""
    now, limit = services.context.clock(), services.limits.of(user)
    used = await services.history.use_this_month(user.email, now)
    return use_of(services.context.cluster, limit, user.email, used.hours, used.gpu_hours)


def read_month(text: str | None, now: datetime) -> Month:
    """A month such as 2026-11; without text the current one."""
    try:
        return Month.parse(text) if text else Month.of(now)
    except ValueError as error:
        raise invalid("month", text, "a month such as 2026-11") from error


def read_day(field: str, text: str) -> datetime | None:
    """The beginning (UTC) of a day such as 2026-11-30; None without text."""
    try:
        return datetime.fromisoformat(f"{text}T00:00:00Z") if text else None
    except ValueError as error:
        raise invalid(field, text, "a day such as 2026-11-30") from error


def read_by(text: str | None) -> By:
    """The rows of a usage report; without text users."""
    try:
        return By(text or By.USER)
    except ValueError as error:
        raise invalid("by", text, f"one of {', '.join(By)}") from error
