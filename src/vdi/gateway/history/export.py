"""History, audit and usage as CSV or JSON lines, streamed: a table of any length costs the memory
of one page.

Each page is a query of its own, by key, so a slow export holds no transaction
open and sees each row once.
"""

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, FromClause, Table, select, tuple_

from vdi.gateway.history.usage import By, Usage, UsageReport
from vdi.gateway.store.audit import SIZE, TRANSFERS, AuditRow, audit
from vdi.gateway.store.database import Database
from vdi.gateway.store.history import PastRun, SessionFacts, runs, sessions
from vdi.session.users import normal_user

PAGE = 500
# Spreadsheets run a cell that begins so, and names and messages come from users.
_BEGINS_A_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_S, _R, _A = sessions.c, runs.c, audit.c


class Dataset(StrEnum):
    """Tables that can be exported."""

    SESSIONS = "sessions"
    RUNS = "runs"
    AUDIT = "audit"
    TRANSFERS = "transfers"


class ExportFormat(StrEnum):
    """Formats of an export."""

    CSV = "csv"
    JSON_LINES = "jsonl"

    @property
    def media_type(self) -> str:
        if self is ExportFormat.CSV:
            return "text/csv; charset=utf-8"
        return "application/jsonl; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Source:
    # Columns by the names that they have outside.
    columns: Mapping[str, ColumnElement[Any]]
    tables: FromClause
    # Order of the pages. Its first column is the time that `since` and `until` are compared with.
    key: tuple[Column[Any], ...]
    user: Column[Any]
    only: ColumnElement[bool] | None = None


def _columns_of(table: Table, row: type[msgspec.Struct]) -> dict[str, Column[Any]]:
    names = zip(row.__struct_encode_fields__, row.__struct_fields__, strict=True)
    return {shown: table.c[column] for shown, column in names}


_SOURCES = {
    Dataset.SESSIONS: _Source(
        _columns_of(sessions, SessionFacts), sessions, (_S.created, _S.uid), _S.owner
    ),
    Dataset.RUNS: _Source(
        {
            "uid": _R.uid,
            "name": _S.name,
            "user": _S.owner,
            "template": _S.template,
            **_columns_of(runs, PastRun),
        },
        runs.join(sessions),
        (_R.start, _R.uid),
        _S.owner,
    ),
    Dataset.AUDIT: _Source(_columns_of(audit, AuditRow), audit, (_A.at, _A.id), _A.actor),
    Dataset.TRANSFERS: _Source(
        {**_columns_of(audit, AuditRow), "bytes": SIZE},
        audit,
        (_A.at, _A.id),
        _A.target_owner,
        _A.action.in_(TRANSFERS),
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
    """Rows, oldest first, in pieces: sessions by creation, runs by start, others by time; `until`
    is exclusive.

    Raises DatabaseUnavailableError, also half-way.
    """
    source = _SOURCES[what]
    at = source.key[0]
    query = select(*source.columns.values(), *source.key).select_from(source.tables)
    if source.only is not None:
        query = query.where(source.only)
    if since is not None:
        query = query.where(at >= since)
    if until is not None:
        query = query.where(at < until)
    if user is not None:
        query = query.where(source.user == normal_user(user))
    # The heading comes with the first page: a database that is down shows before a byte was sent.
    text = b""
    if form is ExportFormat.CSV:
        text = _as_csv([list(source.columns)])
    query = query.order_by(*source.key).limit(PAGE)
    page = query
    while True:
        async with database.connect() as connection:
            rows = (await connection.execute(page)).all()
        text += _as_text([dict(zip(source.columns, row, strict=False)) for row in rows], form)
        if text:
            yield text
        text = b""
        if len(rows) < PAGE:
            return
        page = query.where(tuple_(*source.key) > tuple(rows[-1][len(source.columns) :]))


def export_usage(report: UsageReport, form: ExportFormat, by: By = By.USER) -> bytes:
    """A month's usage as a file."""
    names = Usage.__struct_encode_fields__
    columns = [str(by) if name == "name" else name for name in names]
    rows = [
        dict(zip(columns, msgspec.structs.astuple(row), strict=True)) for row in report.rows(by)
    ]
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
    """Lines of CSV (RFC 4180, UTF-8). A text that a spreadsheet would run as a formula gets a `'`
    in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_BEGINS_A_FORMULA)
    return f"'{value}" if is_formula else value


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value
