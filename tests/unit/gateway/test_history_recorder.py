"""What is watched gets into the database: once, whoever else writes, and also when the database was
away.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from support.waiting import eventually
from unit.gateway.history_stage import Life, Replica, at, rows_of, without_marks
from vdi.api.session import VDISession
from vdi.gateway.history import recorder as module
from vdi.gateway.history.recorder import MAX_STATES
from vdi.gateway.store.audit import END, Act, Audit
from vdi.gateway.store.database import Database, DatabaseUnavailableError
from vdi.gateway.store.history import save
from vdi.kube.errors import ConnectionFailed, Forbidden

NOW = at(10_000)


@pytest.fixture
def replica(database: Database) -> Replica:
    return Replica(database, lambda: NOW)


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[None]:
    task = asyncio.create_task(replica.recorder.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_initial_and_later_states_are_written(replica: Replica) -> None:
    alice, bob = Life(), Life("bob", user="bob@example.com")
    replica.tell(alice.running_since(0))
    async with running(replica):
        await eventually(
            lambda: replica.recorder.written == 1 and replica.recorder.lag == 0, "alice is written"
        )
        replica.tell(bob.queued(3))
        replica.tell(alice.suspended(30))
        await eventually(lambda: replica.recorder.written == 3, "all is written")
    sessions, (run,) = await rows_of(replica.database)
    found = [(session.name, session.ended, session.waiting_since) for session in sessions]
    assert found == [("alice", None, None), ("bob", None, at(3))]
    assert (run.gpus, run.end_reason, run.ended) == (2, "suspended", at(30))


async def test_states_that_say_nothing_new_are_not_even_looked_at(replica: Replica) -> None:
    life = Life()
    replica.tell(life.running_since(0))
    await replica.write()
    replica.tell(life.state(message="A sentence for who waits."))
    assert replica.recorder._unwritten == {}


async def test_several_states_are_written_in_one_transaction(replica: Replica) -> None:
    life = Life()
    for state in (
        life.queued(0),
        life.starting(10),
        life.suspended(20),
        life.starting(30),
        life.ending(40),
    ):
        replica.tell(state)
    await replica.write()
    (session,), runs = await rows_of(replica.database)
    assert [(run.ended, run.end_reason) for run in runs] == [
        (at(20), "suspended"),
        (at(40), "deleted"),
    ]
    assert (session.ended, runs[0].queue_seconds, session.revision) == (at(40), 600, 1)


async def test_a_restart_and_a_second_replica_find_it_written(
    database: Database, replica: Replica
) -> None:
    life = Life()
    states = [life.queued(0), life.starting(10), life.running(11)]
    for state in states:
        replica.tell(state)
    await replica.write()
    before = await rows_of(database)
    for _ in range(2):
        again = Replica(database, lambda: at(20_000))
        for state in states:
            again.tell(state)
            await again.write()
    assert await rows_of(database) == before


async def test_who_has_read_too_early_reads_again(
    database: Database, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica writes between our reading and our writing."""
    life = Life()
    other = Replica(database, lambda: NOW)
    other.tell(life.created())
    await other.write()

    async def load_too_early(_connection: AsyncConnection, _uids: list[str]) -> Any:
        return {}

    replica.tell(life.starting(5))
    with monkeypatch.context() as patch:
        patch.setattr(module, "load", load_too_early)
        await replica.recorder._write_some()
    assert list(replica.recorder._unwritten) == ["uid-alice"]
    assert (await rows_of(database))[1] == []
    await replica.write()
    (session,), (run,) = await rows_of(database)
    assert (session.revision, run.start) == (2, at(5))


async def test_who_ended_it_is_known_from_the_audit(database: Database, replica: Replica) -> None:
    audit = Audit(database, lambda: NOW)
    for name, actor, failed in (
        ("alice", "alice@example.com", 0),
        ("bob", "root@example.com", 0),
        ("carol", "x", 1),
    ):
        life = Life(name, user=f"{name}@example.com")
        act = Act(actor=actor, action=END, target=name, uid=life.uid, owner=f"{name}@example.com")
        with suppress(OSError):
            async with audit.act(act, closed=True):
                if failed:
                    raise OSError("no")
        replica.tell(life.ending(5))
    await replica.write()
    sessions, _ = await rows_of(database)
    ends = [("user", "alice@example.com"), ("admin", "root@example.com"), ("deleted", "")]
    assert [(session.end_reason, session.ended_by) for session in sessions] == ends


async def test_gone_is_gone(replica: Replica) -> None:
    life = Life()
    state = life.running_since(0)
    replica.tell(state)
    await replica.write()
    replica.tell_gone(state)
    await replica.write()
    (session,), (run,) = await rows_of(replica.database)
    assert (session.ended, session.end_reason, run.ended) == (NOW, "deleted", NOW)
    assert replica.recorder._last == {}


async def test_what_vanished_while_no_one_watched_is_closed(
    database: Database, replica: Replica
) -> None:
    lives = [Life(name) for name in ("alice", "bob", "carol")]
    for life in lives:
        replica.tell(life.running_since(0))
    await replica.write()
    after = Replica(database, lambda: NOW)
    after.tell(lives[0].running(1))
    after.on_the_server["bob"] = Life(
        "bob", uid="uid-bob-2"
    ).created()  # another one of the same name
    after.on_the_server["carol"] = lives[2].created()  # our watch has not brought it yet
    await after.recorder.close_lost()
    sessions, runs = await rows_of(database)
    assert [session.ended for session in sessions] == [None, at(480), None]
    assert [session.end_reason for session in sessions] == [None, "unknown", None]
    assert [run.end_reason for run in runs] == [None, "unknown", None]
    await after.recorder.close_lost()
    assert await rows_of(database) == (sessions, runs)


async def test_a_forbidden_session_does_not_block_closing_the_others(
    database: Database, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives = [Life(name) for name in ("alice", "bob", "carol")]
    lives[1].meta["namespace"] = "left"
    for life in lives:
        replica.tell(life.running_since(0))
    await replica.write()
    after = Replica(database, lambda: NOW)
    get, asked, is_away = after.get, list[str](), True

    async def refuse(
        resource: object, name: str, *, namespace: str, into: type[VDISession]
    ) -> VDISession:
        asked.append(name)
        if is_away:
            raise ConnectionFailed("https://api", "GET", "refused")
        if namespace == "left" or name == "alice":
            raise Forbidden(403, "Forbidden", f"vdisessions of {namespace} are forbidden")
        return await get(resource, name, namespace=namespace, into=into)

    monkeypatch.setattr(after, "get", refuse)
    with pytest.raises(ConnectionFailed):
        await after.recorder.close_lost()
    assert asked == ["alice"], "an API server that is away is not asked for each of them"
    is_away = False
    with pytest.raises(Forbidden, match="of vdi-sessions are forbidden"):
        await after.recorder.close_lost()
    sessions, runs = await rows_of(database)
    assert [session.end_reason for session in sessions] == [None, "unknown", "unknown"]
    assert [run.end_reason for run in runs] == [None, "unknown", "unknown"]
    assert asked == ["alice", "alice", "bob", "carol"]


async def test_the_operators_report_is_written_when_it_is_answered(replica: Replica) -> None:
    life = Life()
    replica.tell(life.running_since(0))  # not written yet: it comes first
    await replica.recorder.record_end(life.ending(9))
    for _ in range(2):
        await replica.recorder.record_end(life.ending(9))
    (session,), (run,) = await rows_of(replica.database)
    assert (session.ended, session.end_reason, run.ready, run.ended) == (
        at(9),
        "deleted",
        at(1),
        at(9),
    )
    assert replica.recorder._unwritten == {}


class Outage:
    """The database of a replica, which can be away."""

    def __init__(self, replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away = True
        begin = replica.database.begin

        @asynccontextmanager
        async def begin_unless_away() -> AsyncIterator[AsyncConnection]:
            if self.away:
                raise DatabaseUnavailableError(
                    "unexpected response of the database: connection refused"
                )
            async with begin() as connection:
                yield connection

        monkeypatch.setattr(replica.database, "begin", begin_unless_away)
        monkeypatch.setattr(module, "FIRST_RETRY_SECONDS", 0.001)


async def test_changes_during_an_outage_are_written_afterwards(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    outage, life = Outage(replica, monkeypatch), Life()
    async with running(replica):
        for state in (life.queued(0), life.starting(10), life.running(12), life.suspended(20)):
            replica.tell(state)
            await eventually(lambda: bool(replica.recorder.trouble), "it is known that it is away")
        ending = life.ending(30)
        replica.tell(ending)
        replica.tell_gone(ending)
        assert replica.recorder.lag > 0
        with pytest.raises(DatabaseUnavailableError):
            await replica.recorder.record_end(life.ending(30))
        outage.away = False
        await eventually(
            lambda: not replica.recorder.trouble and replica.recorder.lag == 0, "all is written"
        )
    (session,), (run,) = await rows_of(replica.database)
    assert (session.ended, run.queue_seconds, run.startup_seconds, run.end_reason) == (
        at(30),
        600,
        120,
        "suspended",
    )
    # Said once, and that it is over.
    assert [record.levelname for record in caplog.records] == [
        "ERROR",
        "WARNING",
    ]
    assert "history is written again" in caplog.messages[-1]


async def test_memory_has_an_end(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "MAX_SESSIONS", 2)
    life = Life("a")
    for minute in range(MAX_STATES + 5):
        replica.tell(life.starting(minute))
    states = replica.recorder._unwritten["uid-a"]
    last = states[-1].run
    assert len(states) == MAX_STATES and last and last.start == at(MAX_STATES + 4)
    for name in ("b", "c"):
        replica.tell(Life(name).created())
    assert list(replica.recorder._unwritten) == ["uid-b", "uid-c"]
    assert "uid-a is dropped" in caplog.text


async def test_a_state_that_the_database_refuses_blocks_no_other(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def save_but_bob(
        database: Database, connection: AsyncConnection, rows: Any, runs: Any
    ) -> set[str]:
        if any(row.name == "bob" for row in rows):
            raise IntegrityError("INSERT", {}, ValueError("no"))
        return await save(database, connection, rows, runs)

    monkeypatch.setattr(module, "save", save_but_bob)
    for name in ("alice", "bob", "carol"):
        replica.tell(Life(name).created())
    await replica.write()
    sessions, _ = await rows_of(replica.database)
    assert [session.name for session in sessions] == ["alice", "carol"]
    assert "uid-bob cannot be written, and is lost" in caplog.text


async def test_an_unreadable_state_is_reported_once_and_passed_over(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life()
    for start, message in (
        ("yesterday", ""),
        ("yesterday", "Starting."),
        (None, ""),
        ("yesterday", ""),
    ):
        replica.tell(life.state(startTime=start, message=message))
    await replica.write()
    assert len((await rows_of(replica.database))[0]) == 1
    assert caplog.text.count("vdi-sessions/alice: this state cannot be read") == 2


async def test_rows_of_one_name_are_reported_apart_by_uid(replica: Replica) -> None:
    state = Life().running_since(0)
    replica.tell(state)
    replica.tell_gone(state)
    replica.tell(Life(uid="uid-alice-2", version=100).running_since(60))
    await replica.write()
    sessions, runs = await rows_of(replica.database)
    assert [(session.uid, bool(session.ended)) for session in sessions] == [
        ("uid-alice", True),
        ("uid-alice-2", False),
    ]
    assert [run.start for run in runs] == [at(0), at(60)]
    assert without_marks(sessions[0]) != without_marks(sessions[1])
