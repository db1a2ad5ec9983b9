"""Who did what is written down before it is done; what that means when it cannot be."""

import asyncio
import csv
import io
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from support.clock import FakeClock
from support.waiting import PATIENCE, eventually
from unit.gateway.history_stage import at
from vdi.gateway.denied import ActionDenied
from vdi.gateway.history.export import Dataset, ExportFormat, export
from vdi.gateway.store.audit import (
    Act,
    Audit,
    NotAuditedError,
    audit,
    came_from,
    enders,
)
from vdi.gateway.store.database import Database

ACT = Act(
    actor="root@example.com",
    action="session.end",
    target="alice",
    uid="u1",
    owner="alice@example.com",
    detail={"deleteHome": "true"},
)


async def check_sizes(database: Database) -> None:
    """Sums and order by size, on each kind of database: what a browser sent as size is no number."""
    trail = Audit(database, lambda: at(5))
    for number, (actor, action, size) in enumerate(
        [
            ("bob@example.com", "files.download", "5000000000"),
            ("bob@example.com", "files.upload", "7"),
            ("alice@example.com", "clipboard.send", "20"),
            ("alice@example.com", "print.document", "30"),
            ("", "files.download", "40"),
            ("eve@example.com", "files.upload", "9" * 30),
            ("eve@example.com", "files.upload", ""),
            ("eve@example.com", "session.share", "60"),
        ]
    ):
        act = Act(actor=actor, action=action, target="desk", detail={"bytes": size})
        await trail.add_events({f"{number:032}": (act, at(number))})
    assert await trail.sum_bytes(since=at(0), until=at(10)) == [
        ("bob@example.com", 5_000_000_000),
        ("alice@example.com", 50),
        ("", 40),
    ]
    assert await trail.sum_bytes(since=at(3), until=at(4)) == [("alice@example.com", 30)]
    largest = await trail.entries(limit=3, transfers=True, by_size=True)
    assert [entry.detail["bytes"] for entry in largest] == ["5000000000", "40", "30"]
    pieces = [piece async for piece in export(database, Dataset.TRANSFERS, ExportFormat.CSV)]
    rows = csv.DictReader(io.StringIO(b"".join(pieces).decode(), newline=""))
    assert [row["bytes"] for row in rows] == ["5000000000", "7", "20", "30", "40", "", ""]


async def check_search(database: Database) -> None:
    trail = Audit(database, lambda: at(5))
    for actor, action, target in (
        ("bob@example.com", "computer.type", "Desk_1"),
        ("jimbob@example.com", "computer.run", "desk-1"),
        ("bob@example.com", "files.upload", "100%"),
        ("bob@example.com", "files.upload-error", "desk/1"),
    ):
        await trail.record(Act(actor=actor, action=action, target=target))

    async def found(**filters: str) -> list[str]:
        return [entry.target for entry in await trail.entries(limit=9, **filters)]  # type: ignore[arg-type]

    assert await found(action="computer") == ["desk-1", "Desk_1"]
    assert await found(action="puter.R") == ["desk-1"]
    assert await found(action="files.upload") == ["100%"], "a kind of transfer"
    assert await found(action=".", target="desk_") == ["Desk_1"]
    assert await found(action=".", target="%") == ["100%"]
    assert await found(action=".", target="/") == ["desk/1"]
    assert await found(action="computer", actor="bob@example.com") == ["Desk_1"]
    assert await found(action="computer", actor="bob") == ["desk-1", "Desk_1"]


async def test_names_are_found_by_a_part(database: Database) -> None:
    await check_search(database)


async def test_sizes_are_added_up_and_put_in_order(database: Database) -> None:
    await check_sizes(database)


@pytest.fixture
def trail(database: Database) -> Audit:
    minutes = count(1)
    return Audit(database, lambda: at(next(minutes)))


@pytest.fixture
async def broken() -> AsyncIterator[Audit]:
    database = Database("postgresql+asyncpg://nobody@127.0.0.1:1/none")
    yield Audit(database, lambda: at(0))
    await database.close()


async def outcomes(database: Database) -> list[str]:
    async with database.connect() as connection:
        return [
            row.outcome for row in await connection.execute(audit.select().order_by(audit.c.id))
        ]


async def test_an_act_is_written_before_and_after(database: Database, trail: Audit) -> None:
    token = came_from.set("192.0.2.7")
    async with trail.act(ACT, closed=True):
        assert await outcomes(database) == ["begun"]
    came_from.reset(token)
    assert await outcomes(database) == ["begun", "done"]
    (entry,) = await trail.entries(limit=10)
    assert (entry.actor, entry.address, entry.action) == (
        "root@example.com",
        "192.0.2.7",
        "session.end",
    )
    assert (entry.target, entry.uid, entry.owner) == ("alice", "u1", "alice@example.com")
    assert (entry.outcome, entry.detail, entry.at) == ("done", {"deleteHome": "true"}, at(2))


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ActionDenied("Conflict", "Somebody else."), "Conflict"), (OSError("broken"), "failed")],
)
async def test_what_goes_wrong_is_the_outcome(trail: Audit, error: Exception, outcome: str) -> None:
    with pytest.raises(type(error)):
        async with trail.act(ACT, closed=False):
            raise error
    (entry,) = await trail.entries(limit=10)
    assert entry.outcome == outcome


async def test_an_act_whose_process_died_is_still_there(database: Database, trail: Audit) -> None:
    with pytest.raises(KeyboardInterrupt):
        async with trail.act(ACT, closed=False):
            raise KeyboardInterrupt
    (entry,) = await trail.entries(limit=10)
    assert entry.outcome == "begun"


async def test_an_administrators_act_needs_its_audit_row(
    broken: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        NotAuditedError, match="not performed, because it cannot be written to the audit"
    ):
        async with broken.act(ACT, closed=True):
            raise AssertionError("it was done")
    (line,) = caplog.messages
    assert "not done" in line and '"actor":"root@example.com"' in line


async def test_a_persons_own_act_is_done_and_goes_to_the_log(
    broken: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    done = False
    async with broken.act(ACT, closed=False):
        done = True
    assert done
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    for line, outcome in zip(caplog.messages, ("begun", "done"), strict=True):
        assert "belongs in the audit" in line and f'"outcome":"{outcome}"' in line
        assert '"target":"alice"' in line


async def test_what_is_over_already_is_one_row_and_never_raises(
    trail: Audit, broken: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    for one in (trail, broken):
        await one.record(
            Act(actor="mallory@example.com", action="login", target="portal"), "refused"
        )
    (entry,) = await trail.entries(limit=10)
    assert (entry.action, entry.outcome, entry.at) == ("login", "refused", at(1))
    assert '"action":"login"' in caplog.text


async def test_the_newest_come_first_page_by_page_and_filtered(trail: Audit) -> None:
    for number in range(5):
        act = Act(actor=f"u{number % 2}@example.com", action="session.start", target=f"t{number}")
        async with trail.act(act, closed=False):
            pass
    first = await trail.entries(limit=2)
    assert [one.target for one in first] == ["t4", "t3"]
    rest = await trail.entries(limit=10, before=first[-1].number)
    assert [one.target for one in rest] == ["t2", "t1", "t0"]
    assert [entry.target for entry in await trail.entries(limit=9, actor="u1@example.com")] == [
        "t3",
        "t1",
    ]
    assert [entry.target for entry in await trail.entries(limit=9, target="t2")] == ["t2"]
    assert await trail.entries(limit=9, action="session.end") == []


async def test_who_ended_which_session(database: Database, trail: Audit) -> None:
    async with trail.act(ACT, closed=False):
        pass
    with pytest.raises(ActionDenied):
        async with trail.act(
            Act(actor="bob@example.com", action="session.end", target="x", uid="u2"), closed=False
        ):
            raise ActionDenied("Conflict", "no")
    async with trail.act(
        Act(actor="bob@example.com", action="session.suspend", target="x", uid="u3"), closed=False
    ):
        pass
    async with database.connect() as connection:
        assert await enders(connection, ["u1", "u2", "u3"]) == {"u1": "root@example.com"}


async def test_what_is_too_long_is_cut(trail: Audit) -> None:
    await trail.record(Act(actor="a" * 999, action="login", target="t" * 999))
    (entry,) = await trail.entries(limit=1)
    assert (len(entry.actor), len(entry.target)) == (254, 512)


REFUSED = Act(
    actor="bob@example.com",
    action="computer.key",
    target="alice",
    uid="u1",
    detail={"token": "nightly", "text": "x"},
)


@pytest.fixture
def clocked(database: Database) -> tuple[Audit, FakeClock]:
    clock = FakeClock(at(0))
    return Audit(database, clock.now), clock


async def test_refusals_of_a_minute_are_one_row_and_their_count(
    clocked: tuple[Audit, FakeClock],
) -> None:
    trail, clock = clocked
    for _ in range(100):
        await trail.refuse(REFUSED, "Parked", "token:1")
    await trail.refuse(REFUSED, "Parked", "token:2")
    await trail.refuse(REFUSED, "Forbidden", "token:1")
    await trail.refuse(replace(REFUSED, uid="u2"), "Parked", "token:1")
    assert [entry.outcome for entry in await trail.entries(limit=9, action="computer.key")] == [
        "Parked",
        "Forbidden",
        "Parked",
        "Parked",
    ]
    clock.forward(seconds=59)
    await trail.write_refused()
    assert len(await trail.entries(limit=9, action="computer.key")) == 4
    clock.forward(seconds=1)
    await trail.write_refused()
    counted = (await trail.entries(limit=9, action="computer.key"))[0]
    assert counted.detail == {"count": "99", "what": "computer.key alice", "token": "nightly"}
    assert (counted.outcome, counted.target, counted.uid, counted.at) == (
        "Parked",
        "alice",
        "u1",
        at(0),
    )
    await trail.refuse(REFUSED, "Parked", "token:1")
    assert len(await trail.entries(limit=9, action="computer.key")) == 6, (
        "the next minute begins with a row"
    )


async def test_counts_are_written_when_the_gateway_stops(clocked: tuple[Audit, FakeClock]) -> None:
    trail, _ = clocked
    running = asyncio.create_task(trail.run())
    await asyncio.sleep(0)
    for _ in range(3):
        await trail.refuse(REFUSED, "Parked", "token:1")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert [
        entry.detail.get("count", "")
        for entry in await trail.entries(limit=9, action="computer.key")
    ] == ["2", ""]


async def test_counts_that_cannot_be_written_go_to_the_log(
    broken: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await broken.refuse(REFUSED, "Parked", "token:1")
    await broken.write_refused(early=True)
    assert ['count\\":\\"2' in line for line in caplog.messages] == [False, True]


async def test_counts_that_a_stop_interrupts_go_to_the_log(
    clocked: tuple[Audit, FakeClock],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trail, _ = clocked
    for _ in range(3):
        await trail.refuse(REFUSED, "Parked", "token:1")

    @asynccontextmanager
    async def blocked() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(trail, "_database", SimpleNamespace(begin=blocked))
    writing = asyncio.create_task(trail.run())
    for _ in range(2):  # the stop, and the end of the stop's patience
        await asyncio.sleep(0)
        writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert ['count\\":\\"2' in line for line in caplog.messages] == [True]


async def test_counted_refusals_are_bounded(
    clocked: tuple[Audit, FakeClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit the oldest is written early, and none is lost."""
    trail, _ = clocked
    monkeypatch.setattr("vdi.gateway.store.audit.MAX_COUNTED", 3)
    for number in range(10):
        for target in range(30):
            act = replace(REFUSED, target=f"{target}" * 300)
            await trail.refuse(act, "Forbidden", f"token:{number}")
    assert len(trail._refused) == 3
    await trail.write_refused(early=True)
    entries = await trail.entries(limit=99, action="computer.key")
    assert sum(int(entry.detail.get("count", 1)) for entry in entries) == 300
    assert len(entries) == 20 and max(len(entry.detail.get("what", "")) for entry in entries) < 2500


async def test_agents_rows_are_written_within_a_second(database: Database, trail: Audit) -> None:
    running = asyncio.create_task(trail.run())
    await trail.record_soon(ACT)
    assert await outcomes(database) == []
    await eventually(lambda: not trail._soon, "it is being written", PATIENCE)
    running.cancel()
    await asyncio.wait([running])
    assert await outcomes(database) == ["done"]


async def test_agents_rows_are_written_when_the_gateway_stops(
    database: Database, trail: Audit
) -> None:
    running = asyncio.create_task(trail.run())
    await asyncio.sleep(0)
    await trail.record_soon(ACT)
    running.cancel()
    await asyncio.wait([running])
    assert await outcomes(database) == ["done"]


async def test_reader_finds_rows_that_have_just_been_made(trail: Audit) -> None:
    await trail.record_soon(ACT)
    assert [entry.outcome for entry in await trail.entries(limit=9)] == ["done"]


async def test_many_rows_do_not_wait_for_the_second(database: Database, trail: Audit) -> None:
    for _ in range(256):
        await trail.record_soon(ACT)
    assert len(await outcomes(database)) == 256


async def test_client_that_goes_takes_no_rows_of_others_away(
    database: Database, trail: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def blocked() -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    await trail.record_soon(ACT)
    with monkeypatch.context() as patch:
        patch.setattr(trail, "_database", SimpleNamespace(begin=blocked))
        request = asyncio.create_task(trail.record(ACT, "Conflict"))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
    await trail.write_soon()
    assert await outcomes(database) == ["done"]
