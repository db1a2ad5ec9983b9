"""Operations below `/history`, `/usage`, `/export` and `/recordings`: past sessions; of all users
below `/admin`.
"""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from vdi.api.constraints import doc
from vdi.gateway import queries
from vdi.gateway.api.operation import Call, Empty, OperationTable
from vdi.gateway.api.schemas import Address, Page, SinceTime, UntilTime
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.history.component import SessionHistory
from vdi.gateway.history.export import Dataset, ExportFormat, export_usage
from vdi.gateway.history.usage import By, UsageReport
from vdi.gateway.queries import ListPage
from vdi.gateway.store.history import PastRun, SessionFacts
from vdi.gateway.store.recordings import WatchedRecording
from vdi.session.users import same_user

operation = OperationTable("History")
admin_operation = OperationTable("Administration", admin=True, auditor=True)

_MonthText = Annotated[
    Annotated[str, Meta(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$")] | None,
    Meta(description="A calendar month (UTC) such as 2026-11. Default: the current month."),
]


class PastSession(SessionFacts, rename="camel", frozen=True, kw_only=True):
    """One session, running or ended."""

    runs: Annotated[tuple[PastRun, ...], doc("Its runs, oldest first.")]


class PastQuery(Page, rename="camel", forbid_unknown_fields=True):
    """Filters of one's own past sessions."""

    name: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="Only sessions with this name."),
    ] = None


class AllPastQuery(PastQuery, rename="camel", forbid_unknown_fields=True):
    """Filters of all users' past sessions."""

    user: Annotated[Address | None, Meta(description="Only sessions of this user.")] = None


class UsageQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Month of a usage report."""

    month: _MonthText = None


class _Export(UsageQuery, rename="camel", forbid_unknown_fields=True, kw_only=True):
    format: Annotated[ExportFormat, Meta(description="CSV, or one JSON object per line.")] = (
        ExportFormat.CSV
    )
    since: SinceTime = None
    until: UntilTime = None
    by: Annotated[
        Literal["user", "template"] | None, Meta(description="Rows of usage. Default: user.")
    ] = None


class ExportQuery(_Export, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """Parameters of an export of one's own records."""

    what: Annotated[
        Literal["sessions", "runs", "usage", "transfers"], Meta(description="Which table.")
    ]


class AllExportQuery(_Export, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """Parameters of an export of all users' records."""

    what: Annotated[
        Literal["sessions", "runs", "usage", "audit", "transfers"], Meta(description="Which table.")
    ]
    user: Annotated[Address | None, Meta(description="Only records of this user.")] = None


def _session(past: SessionHistory) -> PastSession:
    facts = {name: getattr(past.session, name) for name in SessionFacts.__struct_fields__}
    return PastSession(
        **facts,
        runs=tuple(msgspec.convert(run, PastRun, from_attributes=True) for run in past.runs),
    )


@operation("GET /history")
async def list_history(call: Call[PastQuery, None]) -> ListPage[PastSession]:
    """Your sessions with their runs, including ended ones, newest first."""
    return await _list(call, call.user.email)


@admin_operation("GET /admin/history")
async def list_all_history(call: Call[AllPastQuery, None]) -> ListPage[PastSession]:
    """Sessions of all users with their runs, including ended ones."""
    return await _list(call, call.query.user)


async def _list(call: Call[PastQuery, None], user: str | None) -> ListPage[PastSession]:
    query = call.query
    page = await queries.read_past_sessions(
        call.api, user=user, name=query.name, limit=query.limit, cursor=query.cursor
    )
    return ListPage(tuple(map(_session, page.items)), page.next)


@operation("GET /history/{uid}", problems=("not-found",))
async def get_history(call: Call[Empty, None]) -> PastSession:
    """One of these sessions."""
    past = await call.api.history.session(call.path("uid"))
    # The same refusal for an unknown session and for another user's: nobody learns that it was
    # there.
    if past is None or not (call.user.may_audit or same_user(past.session.owner, call.user.email)):
        raise ActionDenied(
            "NotFound", f"You have never had a session with the uid {call.path('uid')!r}."
        )
    return _session(past)


@operation("GET /usage")
async def get_usage(call: Call[UsageQuery, None]) -> UsageReport:
    """Your usage in a month."""
    return await call.api.history.usage(
        queries.read_month(call.query.month, call.now()), call.now(), call.user.email
    )


@admin_operation("GET /admin/usage")
async def get_all_usage(call: Call[UsageQuery, None]) -> UsageReport:
    """Usage of all users in a month, by user and by template."""
    return await call.api.history.usage(
        queries.read_month(call.query.month, call.now()), call.now(), None
    )


@operation("GET /export", media="text/csv, application/jsonl")
async def export_mine(call: Call[ExportQuery, None]) -> Response:
    """Your sessions, runs, usage or transfers as a file.

    Text that a spreadsheet would run as a formula gets a leading `'`. The response is streamed and
    can have any length.
    """
    return await _export(call, call.user.email)


@admin_operation("GET /admin/export", media="text/csv, application/jsonl")
async def export_all(call: Call[AllExportQuery, None]) -> Response:
    """Sessions, runs, usage or transfers of all users, or the audit log, as a file.

    Text that a spreadsheet would run as a formula gets a leading `'`. The response is streamed and
    can have any length.
    """
    return await _export(call, call.query.user)


async def _export(call: Call[ExportQuery | AllExportQuery, None], user: str | None) -> Response:
    query, name, history = call.query, call.query.what, call.api.history
    is_usage = name == "usage"
    for field in ("since", "until") if is_usage else ("month", "by"):
        if given := getattr(query, field):
            raise invalid(
                field, str(given), "given with other tables" if is_usage else "given with usage"
            )
    headers = {"Content-Disposition": f'attachment; filename="vdi-{name}.{query.format}"'}
    if is_usage:
        month = queries.read_month(query.month, call.now())
        report = await history.usage(month, call.now(), user)
        headers["Content-Disposition"] = f'attachment; filename="vdi-{name}-{month}.{query.format}"'
        content = export_usage(report, query.format, By(query.by or By.USER))
        return Response(content, headers=headers, media_type=query.format.media_type)
    chunks = history.export(
        Dataset(name), query.format, since=query.since, until=query.until, user=user
    )
    # Read the first rows before the headers are sent: a database that is down is then an error
    # response, not a file that breaks off.
    rows = _chain(await anext(chunks, b""), chunks)
    return StreamingResponse(rows, headers=headers, media_type=query.format.media_type)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


@operation("GET /recordings")
async def list_recordings(call: Call[Page, None]) -> ListPage[WatchedRecording]:
    """Recordings of desktops, newest first: all for administrators, else your own where their
    template allows it.
    """
    return await queries.read_recordings(
        call.api, call.user, limit=call.query.limit, cursor=call.query.cursor
    )


@operation("GET /recordings/{id}", media="video/mp4", problems=("not-found", "conflict"))
async def get_recording(call: Call[Empty, None]) -> Response:
    """A recording as MP4, whole or in ranges. The audit log has an entry for each view."""
    call.api.guard.check_origin(call.request)
    ranges = call.request.headers.get("range", "")
    return await call.api.recordings.watch(call.user, call.path("id"), ranges, call.until_read)
