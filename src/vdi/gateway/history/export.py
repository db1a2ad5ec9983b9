"""History, audit and usage as CSV or JSON lines, streamed: a table of any length costs the memory of one page.

Each page is a question of its own, by key: an export that takes long holds no transaction open, and sees each row once.
"""

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Column, FromClause, select, tuple_

from vdi.gateway.history.usage import By, Usage, UsageReport
from vdi.gateway.store.audit import audit
from vdi.gateway.store.database import Database
from vdi.gateway.store.history import runs, sessions
from vdi.session.users import normal_user

PAGE = 500
# Spreadsheets run a cell that begins so, and names and messages come from users.
_BEGINS_A_FORMULA = tuple("=+-@\t\r\n＝＋－＠")


class Dataset(StrEnum):
    """What can be exported."""

    SESSIONS = "sessions"
    RUNS = "runs"
    AUDIT = "audit"


class ExportFormat(StrEnum):
    """How."""

    CSV = "csv"
    JSON_LINES = "jsonl"

    @property
    def media_type(self) -> str:
        """For the header Content-Type."""

        return "text/csv; charset=utf-8" if self is ExportFormat.CSV else "application/jsonl; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the rows are: their columns, by the names that they have outside."""

    columns: Mapping[str, Column[Any]]
    tables: FromClause
    # What the pages go by; its first column is a time.
    key: tuple[Column[Any], ...]
    user: Column[Any]


_S, _R, _A = sessions.c, runs.c, audit.c
_SOURCES = {
    Dataset.SESSIONS: _Source(
        {
            "uid": _S.uid,
            "name": _S.name,
            "namespace": _S.namespace,
            "user": _S.owner,
            "template": _S.template,
            "created": _S.created,
            "ended": _S.ended,
            "endReason": _S.end_reason,
            "endedBy": _S.ended_by,
        },
        sessions,
        (_S.created, _S.uid),
        _S.owner,
    ),
    Dataset.RUNS: _Source(
        {
            "uid": _R.uid,
            "name": _S.name,
            "user": _S.owner,
            "template": _S.template,
            "start": _R.start,
            "ready": _R.ready,
            "node": _R.node,
            "pod": _R.pod,
            "gpus": _R.gpus,
            "cpu": _R.cpu,
            "memoryGib": _R.memory_gib,
            "renderer": _R.renderer,
            "encoder": _R.encoder,
            "queueSeconds": _R.queue_seconds,
            "startupSeconds": _R.startup_seconds,
            "ended": _R.ended,
            "endReason": _R.end_reason,
            "endDetail": _R.end_detail,
        },
        runs.join(sessions),
        (_R.start, _R.uid),
        _S.owner,
    ),
    Dataset.AUDIT: _Source(
        {
            "id": _A.id,
            "act": _A.act,
            "at": _A.at,
            "actor": _A.actor,
            "address": _A.address,
            "action": _A.action,
            "target": _A.target,
            "targetUid": _A.target_uid,
            "targetUser": _A.target_owner,
            "outcome": _A.outcome,
            "detail": _A.detail,
        },
        audit,
        (_A.at, _A.id),
        _A.actor,
    ),
}


async def export(
    database: Database,
    what: Dataset,
    form: ExportFormat,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    user: str | None = None,
) -> AsyncIterator[bytes]:
    """The rows from the oldest on, in pieces: sessions by their creation, runs by their start, audit by its time.

    `since` is within, `until` is not. Raises DatabaseUnavailableError, also half-way.
    """
    source = _SOURCES[what]
    at, query = source.key[0], select(*source.columns.values(), *source.key).select_from(source.tables)
    if since is not None:
        query = query.where(at >= since)
    if until is not None:
        query = query.where(at < until)
    if user is not None:
        query = query.where(source.user == normal_user(user))
    if form is ExportFormat.CSV:
        yield _as_csv([list(source.columns)])
    query = query.order_by(*source.key).limit(PAGE)
    page = query
    while True:
        async with database.connect() as connection:
            rows = (await connection.execute(page)).all()
        if rows:
            yield _as_text([dict(zip(source.columns, row, strict=False)) for row in rows], form)
        if len(rows) < PAGE:
            return
        page = query.where(tuple_(*source.key) > tuple(rows[-1][len(source.columns) :]))


def export_usage(report: UsageReport, form: ExportFormat, by: By = By.USER) -> bytes:
    """A month's report."""
    names = Usage.__struct_encode_fields__
    columns = [str(by) if name == "name" else name for name in names]
    rows = [dict(zip(columns, msgspec.structs.astuple(row), strict=True)) for row in report.rows(by)]
    return (_as_csv([columns]) if form is ExportFormat.CSV else b"") + _as_text(rows, form)


def _as_text(rows: Sequence[Mapping[str, Any]], form: ExportFormat) -> bytes:
    plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
    if form is ExportFormat.CSV:
        return _as_csv([list(row.values()) for row in plain])
    for row in plain:
        if "detail" in row:
            row["detail"] = msgspec.Raw(row["detail"].encode())
    return msgspec.json.Encoder().encode_lines(plain)


def _as_csv(rows: Sequence[Sequence[Any]]) -> bytes:
    """Lines of CSV (RFC 4180, UTF-8). A text that a spreadsheet would run as a formula gets a `'` in front."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA)
    return f"'{value}" if is_formula else value


def _plain(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
