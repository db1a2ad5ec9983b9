"""`/history`, `/usage` and `/export`: what has been. One's own; everybody's below `/admin`."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from vdi.api.constraints import doc
from vdi.gateway.api.operation import Call, Empty, Operation, make_cursor, read_cursor
from vdi.gateway.api.problems import invalid
from vdi.gateway.api.schemas import Address, Page
from vdi.gateway.denied import ActionDenied
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.export import Dataset, ExportFormat, export_usage
from vdi.gateway.history.usage import By, Month, UsageReport
from vdi.gateway.store.history import PastRun, SessionFacts
from vdi.session.users import same_user

_MonthText = Annotated[
    Annotated[str, Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")] | None,
    Meta(description="A calendar month (UTC) such as 2026-11. Default: the current month."),
]


class PastSession(SessionFacts, rename="camel", frozen=True, kw_only=True):
    """One session, running or ended."""

    runs: Annotated[tuple[PastRun, ...], doc("Its runs, oldest first.")]


class PastList(msgspec.Struct, omit_defaults=True):
    """Sessions, newest first."""

    items: Annotated[tuple[PastSession, ...], doc("Sessions on this page.")]
    next: Annotated[str, doc("`cursor` of the next page; absent on the last one.")] = ""


class PastQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Which of my past sessions."""

    name: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description=("Only sessions with this name."))
    ] = None


class AllPastQuery(PastQuery, rename="camel", forbid_unknown_fields=True):
    """Which of everybody's past sessions."""

    user: Annotated[Address | None, Meta(description="Only sessions of this user.")] = None


class UsageQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Which month."""

    month: _MonthText = None


class _Export(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    format: Annotated[Literal["csv", "jsonl"], Meta(description="CSV, or one JSON object per line.")] = "csv"
    since: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only records from this time on, such as 2026-11-01T00:00:00Z. Not with usage."),
    ] = None
    until: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Only records from before this time. Not with usage."),
    ] = None
    month: _MonthText = None


class ExportQuery(_Export, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """What of mine to export."""

    what: Annotated[Literal["sessions", "runs", "usage"], Meta(description="Which table.")]
    by: Annotated[Literal["user", "template"] | None, Meta(description="Rows of usage. Default: user.")] = None


class AllExportQuery(_Export, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """What of everybody's to export."""

    what: Annotated[Literal["sessions", "runs", "usage", "audit"], Meta(description="Which table.")]
    by: Annotated[Literal["user", "template"] | None, Meta(description="Rows of usage. Default: user.")] = None
    user: Annotated[Address | None, Meta(description="Only records of this user.")] = None


async def list_history(call: Call[PastQuery, None]) -> PastList:
    """My past sessions."""

    return await _past(call, call.user.email)


async def list_all_history(call: Call[AllPastQuery, None]) -> PastList:
    """Everybody's."""
    return await _past(call, call.query.user)


async def _past(call: Call[Any, None], user: str | None) -> PastList:
    query: PastQuery = call.query
    before = _before(query.cursor)
    found = await call.api.history.past(limit=query.limit + 1, user=user, name=query.name, before=before)
    shown = found[: query.limit]
    more = len(found) > query.limit
    after = make_cursor((shown[-1].session.created.isoformat(), shown[-1].session.uid)) if more else ""
    return PastList(tuple(_session(past) for past in shown), after)


def _before(cursor: str | None) -> tuple[datetime, str] | None:
    key = read_cursor(cursor)
    if key is None:
        return None
    try:
        created, uid = key
        return datetime.fromisoformat(created), uid
    except ValueError as error:
        raise invalid("cursor", cursor, "`next` of the previous page") from error


def _session(past: SessionHistory) -> PastSession:
    facts = {name: getattr(past.session, name) for name in SessionFacts.__struct_fields__}
    runs = tuple(msgspec.convert(run, PastRun, from_attributes=True) for run in past.runs)
    return PastSession(**facts, runs=runs)


async def get_history(call: Call[Empty, None]) -> PastSession:
    """One past session; of another person's only an administrator learns that it was there."""
    past = await call.api.history.session(call.path("uid"))
    if past is None or not (call.user.admin or same_user(past.session.owner, call.user.email)):
        raise ActionDenied("NotFound", f"You have never had a session with the uid {call.path('uid')!r}.")
    return _session(past)


async def get_usage(call: Call[UsageQuery, None]) -> UsageReport:
    """What I have used."""
    return await _usage(call, call.user.email)


async def get_all_usage(call: Call[UsageQuery, None]) -> UsageReport:
    """What everybody has used."""
    return await _usage(call, None)


async def _usage(call: Call[UsageQuery, None], user: str | None) -> UsageReport:
    return await call.api.history.usage(_month(call.query.month, call.now()), call.now(), user)


def _month(text: str | None, now: datetime) -> Month:
    try:
        return Month.parse(text) if text else Month.of(now)
    except ValueError as error:
        raise invalid("month", text, "a month such as 2026-11") from error


async def export_mine(call: Call[ExportQuery, None]) -> Response:
    """My rows as a file."""
    return await _export(call, call.user.email)


async def export_all(call: Call[AllExportQuery, None]) -> Response:
    """Everybody's rows as a file."""
    return await _export(call, call.query.user)


async def _export(call: Call[Any, None], user: str | None) -> Response:
    query: ExportQuery | AllExportQuery = call.query
    now, form = call.now(), ExportFormat(query.format)
    headers = {"Content-Disposition": f'attachment; filename="vdi-{query.what}.{form}"'}
    if query.what == "usage":
        if query.since or query.until:
            raise invalid("since" if query.since else "until", str(query.since or query.until), "given with usage")
        report = await call.api.history.usage(_month(query.month, now), now, user)
        text = export_usage(report, form, By(query.by or By.USER))
        return Response(text, headers=headers, media_type=form.media_type)
    if query.by:
        raise invalid("by", query.by, f"given with {query.what}: only usage has it")
    if query.month:
        raise invalid("month", query.month, f"given with {query.what}: use since and until")
    rows = call.api.history.export(Dataset(query.what), form, since=query.since, until=query.until, user=user)
    first = await anext(
        rows, b""
    )  # a database that does not answer is said as a problem, not by a file that breaks off
    return StreamingResponse(_chained(first, rows), headers=headers, media_type=form.media_type)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


_TAG, _ADMIN = "History", "Administration"
_ABOUT_EXPORT = (
    "Text that a spreadsheet would run as a formula gets a leading `'`. The response is streamed and can have any "
    "length."
)

OPERATIONS = (
    Operation(
        method="GET", path="/history", name="listHistory", tag=_TAG, handler=list_history,
        summary="Your sessions with their runs, including ended ones, newest first", query=PastQuery, answer=PastList,
    ),
    Operation(
        method="GET", path="/history/{uid}", name="getHistory", tag=_TAG, handler=get_history,
        summary="One of these sessions", answer=PastSession, problems=("not-found",),
    ),
    Operation(
        method="GET", path="/usage", name="getUsage", tag=_TAG, handler=get_usage,
        summary="Your usage in a month", query=UsageQuery, answer=UsageReport,
    ),
    Operation(
        method="GET", path="/export", name="exportMine", tag=_TAG, handler=export_mine,
        summary="Your sessions, runs or usage as a file", description=_ABOUT_EXPORT,
        query=ExportQuery, media="text/csv, application/jsonl",
    ),
    Operation(
        method="GET", path="/admin/history", name="listAllHistory", tag=_ADMIN, handler=list_all_history, admin=True,
        summary="Sessions of all users with their runs, including ended ones", query=AllPastQuery, answer=PastList,
    ),
    Operation(
        method="GET", path="/admin/usage", name="getAllUsage", tag=_ADMIN, handler=get_all_usage, admin=True,
        summary="Usage of all users in a month by user, template and group, idle GPUs, and the cost",
        query=UsageQuery, answer=UsageReport,
    ),
    Operation(
        method="GET", path="/admin/export", name="exportAll", tag=_ADMIN, handler=export_all, admin=True,
        summary="Sessions, runs or usage of all users, or the audit log, as a file", description=_ABOUT_EXPORT,
        query=AllExportQuery, media="text/csv, application/jsonl",
    ),
)  # fmt: skip
