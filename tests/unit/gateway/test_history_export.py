"""What leaves the database: complete, in order, page by page, and no formula in a spreadsheet."""

import csv
import io
import json
from typing import Any

import pytest

from support.variants import first_of
from unit.gateway.history_stage import Life, Replica, at
from vdi.gateway.history import export as module
from vdi.gateway.history.export import Dataset, ExportFormat, export
from vdi.gateway.store.audit import Act, Audit
from vdi.gateway.store.database import Database

EVIL = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "\rx",
    "\nx",
    "＝cmd|' /C calc'!A0",
    '=HYPERLINK("http://x","y")',
]


async def text_of(
    database: Database, what: Dataset, form: ExportFormat, **filters: Any
) -> tuple[str, int]:
    pieces = [piece async for piece in export(database, what, form, **filters)]
    return b"".join(pieces).decode(), len(pieces)


async def record_lives(database: Database, count: int = 7) -> None:
    replica = Replica(database, lambda: at(0))
    for number in range(count):
        life = Life(f"s{number}", user=f"u{number % 2}@example.com")
        replica.tell(life.queued(0))
        replica.tell(life.running_since(number))
        if number % 2:
            replica.tell(life.ending(number + 60))
    await replica.write()


async def test_a_run_in_both_forms(database: Database) -> None:
    await record_lives(database, 2)
    text, _ = await text_of(database, Dataset.RUNS, ExportFormat.CSV)
    first, second = csv.DictReader(io.StringIO(text, newline=""))
    assert first["ended"] == first["endReason"] == ""
    assert second == {
        "uid": "uid-s1", "name": "s1", "user": "u1@example.com", "template": "office",
        "start": "2026-11-20T08:01:00Z", "ready": "2026-11-20T08:02:00Z", "node": "node-1", "pod": "s1",
        "gpus": "2", "cpu": "2.0", "memoryGib": "4.0", "renderer": "", "encoder": "",
        "queueSeconds": "60.0", "startupSeconds": "60.0",
        "ended": "2026-11-20T09:01:00Z", "endReason": "deleted", "endDetail": "", "agentMinutes": "0",
    }  # fmt: skip
    lines, _ = await text_of(database, Dataset.RUNS, ExportFormat.JSON_LINES)
    objects = [json.loads(line) for line in lines.splitlines()]
    assert {
        name: "" if value is None else str(value) for name, value in objects[1].items()
    } == second
    assert (objects[0]["ended"], objects[1]["gpus"]) == (None, 2)


@pytest.mark.parametrize("page", first_of([2, 1, 3, 7, 8]))
@pytest.mark.parametrize("what", [Dataset.SESSIONS, Dataset.RUNS])
async def test_each_row_once_and_in_order_whatever_the_page(
    database: Database, what: Dataset, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All sessions were created in the same second: the time alone would not tell the pages
    apart.
    """
    monkeypatch.setattr(module, "PAGE", page)
    await record_lives(database)
    text, pieces = await text_of(database, what, ExportFormat.JSON_LINES)
    assert [json.loads(line)["name"] for line in text.splitlines()] == [
        f"s{number}" for number in range(7)
    ]
    assert pieces == -(-7 // page)


async def test_filters(database: Database) -> None:
    await record_lives(database)
    for filters, names in (
        ({"user": "U1@example.com"}, ["s1", "s3", "s5"]),
        ({"since": at(2), "until": at(4)}, ["s2", "s3"]),
        ({"since": at(2), "until": at(5), "user": "u0@example.com"}, ["s2", "s4"]),
        ({"since": at(100)}, []),
    ):
        text, _ = await text_of(database, Dataset.RUNS, ExportFormat.JSON_LINES, **filters)
        assert [json.loads(line)["name"] for line in text.splitlines()] == names


async def test_an_empty_export_still_names_its_columns(database: Database) -> None:
    text, _ = await text_of(database, Dataset.SESSIONS, ExportFormat.CSV)
    assert text == "uid,name,namespace,user,template,created,ended,endReason,endedBy\r\n"
    assert await text_of(database, Dataset.SESSIONS, ExportFormat.JSON_LINES) == ("", 0)


@pytest.mark.parametrize("evil", EVIL)
async def test_no_cell_is_a_formula(database: Database, evil: str) -> None:
    audit = Audit(database, lambda: at(0))
    await audit.record(
        Act(actor=evil, action="login", target='say "hi", now', detail={"x": evil}), "refused"
    )
    text, _ = await text_of(database, Dataset.AUDIT, ExportFormat.CSV)
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["actor"] == f"'{evil}"
    assert row["target"] == 'say "hi", now'
    assert json.loads(row["detail"]) == {"x": evil}
    assert not any(cell.startswith(tuple("=+-@\t\r\n")) for cell in row.values())
    lines, _ = await text_of(database, Dataset.AUDIT, ExportFormat.JSON_LINES)
    # JSON needs no guard.
    assert (json.loads(lines)["actor"], json.loads(lines)["detail"]) == (
        evil,
        {"x": evil},
    )


async def test_numbers_are_no_texts(database: Database) -> None:
    replica, life = Replica(database, lambda: at(0)), Life()
    replica.tell(life.starting(0))
    await replica.write()
    async with database.begin() as connection:
        await connection.exec_driver_sql("UPDATE history_runs SET queue_seconds = -1.5")
    text, _ = await text_of(database, Dataset.RUNS, ExportFormat.CSV)
    assert ",-1.5," in text


def test_how_it_is_called() -> None:
    assert ExportFormat.CSV.media_type == "text/csv; charset=utf-8"
    assert ExportFormat("jsonl").media_type.startswith("application/jsonl")
