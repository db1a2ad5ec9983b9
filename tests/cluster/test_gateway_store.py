"""The database on a real PostgreSQL: one upgrade of many, the schema that the code means, two
replicas, outages.
"""

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from support.postgres import Postgres, postgres_server, postgres_url
from support.waiting import eventually
from unit.gateway.history_stage import Life, Replica, at, open_database, rows_of, without_marks
from unit.gateway.test_store_audit import check_search, check_sizes
from unit.gateway.test_store_migrations import differences
from vdi.api.session import VDISession
from vdi.gateway.history.export import Dataset, ExportFormat, export
from vdi.gateway.store.audit import END, Act, Audit, event_act
from vdi.gateway.store.database import Database, DatabaseUnavailableError
from vdi.gateway.store.logins import ApiToken, Login, LoginStore
from vdi.gateway.store.migrations import upgrade
from vdi.gateway.store.notices import NoticeSubscriptions
from vdi.gateway.store.recordings import Recording, RecordingStore

__all__ = ["postgres_server", "postgres_url"]
NOW = at(10_000)


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    async with open_database(postgres_url) as database:
        yield database


@pytest.fixture
def restarted(postgres_server: Postgres) -> Iterator[Postgres]:
    """The server, which the test may stop."""
    yield postgres_server
    postgres_server.stop()
    postgres_server.start()


async def ask(database: Database) -> None:
    async with database.connect() as connection:
        await connection.exec_driver_sql("SELECT 1")


async def test_replicas_that_start_together_create_one_schema(postgres_url: str) -> None:
    replicas = [Database(postgres_url) for _ in range(4)]
    await asyncio.gather(*(upgrade(replica) for replica in replicas))
    async with replicas[0].connect() as connection:
        assert await connection.run_sync(differences) == []
        assert (
            len((await connection.exec_driver_sql("SELECT version_num FROM alembic_version")).all())
            == 1
        )
    for replica in replicas:
        await replica.close()


def lives(count: int) -> list[tuple[Life, list[VDISession]]]:
    made = []
    for number in range(count):
        life = Life(f"s{number:02}", user=f"u{number % 3}@example.com")
        states: list[VDISession] = [
            life.queued(0),
            life.starting(5),
            life.running(6),
            life.suspended(30),
        ]
        states += [
            life.starting(60),
            life.running(61),
            life.between_pods(),
            life.running(70),
            life.ending(90),
        ]
        made.append((life, states))
    return made


@pytest.mark.parametrize("seed", range(5))
async def test_concurrent_recorders_write_each_run_once(postgres_url: str, seed: int) -> None:
    """Each hears the same in its own rhythm, and they write at the same time, row against row."""
    chance = random.Random(seed)
    crowd = lives(40)
    async with open_database(postgres_url) as first, open_database(postgres_url) as second:
        replicas = [Replica(one, lambda: NOW) for one in (first, second)]

        async def hear(replica: Replica) -> None:
            left = {life.name: list(states) for life, states in crowd}
            while left:
                for name in chance.sample(sorted(left), k=min(len(left), chance.randint(1, 30))):
                    replica.tell(left[name].pop(0))
                    if not left[name]:
                        del left[name]
                await replica.write()

        await asyncio.gather(*(hear(replica) for replica in replicas))
        sessions, runs = await rows_of(first)
    assert len(sessions) == 40
    for life, _ in crowd:
        (session,) = [session for session in sessions if session.uid == life.uid]
        of_it = [run for run in runs if run.uid == life.uid]
        assert [(one.start, one.ended, one.end_reason) for one in of_it] == [
            (at(5), at(30), "suspended"),
            (at(60), at(90), "deleted"),
        ]
        assert (of_it[0].queue_seconds, of_it[0].ready, of_it[1].ready) == (300, at(6), at(61))
        assert without_marks(session).ended == at(90)


async def test_sizes_of_transfers(database: Database) -> None:
    await check_sizes(database)


async def test_search(database: Database) -> None:
    await check_search(database)


async def test_the_audit_the_export_and_the_end_of_a_session(database: Database) -> None:
    trail, replica, life = Audit(database, lambda: at(1)), Replica(database, lambda: NOW), Life()
    act = Act(
        actor="root@example.com",
        action=END,
        target="alice",
        uid=life.uid,
        owner="alice@example.com",
    )
    async with trail.act(act, closed=True):
        replica.tell(life.ending(5))
        await replica.write()
    (session,), _ = await rows_of(database)
    assert (session.end_reason, session.ended_by) == ("admin", "root@example.com")
    (entry,) = await trail.entries(limit=5)
    assert (entry.outcome, entry.at) == ("done", at(1))
    for what in Dataset:
        text = b"".join(
            [piece async for piece in export(database, what, ExportFormat.CSV, since=at(-1))]
        ).decode()
        assert (
            len(text.splitlines())
            == {Dataset.SESSIONS: 2, Dataset.RUNS: 1, Dataset.AUDIT: 3, Dataset.TRANSFERS: 1}[what]
        )


async def test_events_of_a_desktop_are_kept_once_by_replicas_at_once(database: Database) -> None:
    trails = [Audit(database, lambda: at(1)) for _ in range(4)]
    log, others = "0123456789abcdef", "fedcba9876543210"
    acts = [
        Act(actor="", action="files.download", target="alice", detail={"bytes": str(n)})
        for n in range(300)
    ]

    def events(first: int, last: int, of: str = log) -> dict[str, tuple[Act, datetime]]:
        return {event_act(of, number + 1): (acts[number], at(2)) for number in range(first, last)}

    added = await asyncio.gather(
        *(trail.add_events(events(0, 50 + 50 * n)) for n, trail in enumerate(trails))
    )
    assert sorted(act for each in added for act in each) == sorted(events(0, 200))
    await trails[0].add_events(events(0, 1, others))
    await trails[1].add_events(events(200, 300))
    found = [entry.detail["bytes"] for entry in await trails[2].entries(limit=500, transfers=True)]
    assert found[::-1] == [str(number) for number in (*range(200), 0, *range(200, 300))]
    assert await trails[2].entries(limit=5) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_states_during_an_outage_are_recorded_later(
    restarted: Postgres, postgres_url: str, how: signal.Signals
) -> None:
    async with open_database(postgres_url) as database:
        replica, life = Replica(database, lambda: NOW), Life()
        recording = asyncio.create_task(replica.recorder.run())
        replica.tell(life.queued(0))
        await eventually(lambda: replica.recorder.written == 1, "the beginning is written")
        restarted.stop(how)
        for state in (life.starting(10), life.running(11), life.suspended(20), life.starting(30)):
            replica.tell(state)
        await eventually(lambda: bool(replica.recorder.trouble), "it is known to be away")
        with pytest.raises(DatabaseUnavailableError):
            await ask(database)
        restarted.start()
        await eventually(
            lambda: not replica.recorder.trouble and replica.recorder.lag == 0, "all is written"
        )
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
        _, runs = await rows_of(database)
    assert [(run.start, run.ended, run.queue_seconds) for run in runs] == [
        (at(10), at(20), 600),
        (at(30), None, None),
    ]


async def test_dead_pooled_connections_are_replaced(restarted: Postgres, postgres_url: str) -> None:
    async with open_database(postgres_url) as database:
        await asyncio.gather(*(ask(database) for _ in range(5)))
        restarted.stop()
        restarted.start()
        await asyncio.gather(*(ask(database) for _ in range(5)))


@asynccontextmanager
async def replicas(url: str, count: int) -> AsyncIterator[list[Database]]:
    """Gateways that have made the tables."""
    databases = [Database(url) for _ in range(count)]
    await upgrade(databases[0])
    yield databases
    for database in databases:
        await database.close()


async def test_api_tokens_made_at_once_are_counted(postgres_url: str) -> None:
    now = datetime(2026, 11, 20, 7, 25, tzinfo=UTC)
    words: dict[str, Any] = {
        "name": "",
        "groups": frozenset(),
        "admin": False,
        "source": "local",
        "label": "x",
    }
    tokens = [
        ApiToken(
            id=f"t{number}",
            user="a@example.com",
            created=now,
            expires=now + timedelta(days=1),
            **words,
        )
        for number in range(20)
    ]
    async with replicas(postgres_url, 4) as databases:
        stores = [LoginStore(database) for database in databases]
        made = await asyncio.gather(
            *(
                stores[number % 4].add_token(token, token.id, 5)
                for number, token in enumerate(tokens)
            )
        )
        assert (
            made.count(True) == 5
            and len(await stores[0].open_of(ApiToken, "a@example.com", now)) == 5
        )
        other = msgspec.structs.replace(tokens[0], id="other", user="b@example.com")
        assert await stores[1].add_token(other, "other", 5), "each person has a count of their own"


async def test_subscriptions_to_notices_are_replaced(database: Database) -> None:
    store = NoticeSubscriptions(database)
    for kinds in (
        frozenset({"session.ready", "session.failed"}),
        frozenset({"session.shared"}),
        frozenset[str](),
    ):
        await store.save("a@example.com", kinds)
        assert await store.of("a@example.com") == kinds
    assert await store.of("b@example.com") == frozenset()


async def test_concurrent_logins_bind_an_address_to_one_account(postgres_url: str) -> None:
    now = datetime(2026, 11, 20, 7, 25, tzinfo=UTC)
    words: dict[str, Any] = {
        "name": "",
        "groups": frozenset(),
        "admin": False,
        "address": "",
        "agent": "",
    }
    words |= {"source": "oidc", "created": now, "seen": now, "expires": now + timedelta(days=1)}

    def login(user: str, number: int) -> tuple[Login, str]:
        return Login(id=f"l{number}", user=f"{user}@example.com", **words), f"secret-{number}"

    async with replicas(postgres_url, 4) as databases:
        stores = [LoginStore(database) for database in databases]
        seen = await asyncio.gather(
            *(
                stores[number % 4].add_bound_login("https://id", str(number), *login("a", number))
                for number in range(12)
            )
        )
        (bound,) = {tuple(each.items()) for each in seen}
        assert bound[0][0] == "a@example.com" and len(bound) == 1
        assert len(await LoginStore(databases[0]).open_of(Login, "a@example.com", now)) == 1
        taken = await stores[0].add_bound_login("https://id", bound[0][1], *login("b", 12))
        assert taken == {"a@example.com": bound[0][1]}, "an account has one address"
        assert await stores[1].release("a@example.com") and not await stores[2].release(
            "a@example.com"
        )
        free = await stores[3].add_bound_login("https://id", bound[0][1], *login("b", 13))
        assert free == {"b@example.com": bound[0][1]}


async def test_recordings_of_a_run_are_summed_and_expire(database: Database) -> None:
    store = RecordingStore(database)
    fields: dict[str, Any] = dict.fromkeys(("run", "run_seen", "started", "ended"), NOW)
    fields |= dict.fromkeys(("name", "owner", "template"), "a") | {
        "size_bytes": 1 << 40,
        "owner_may_watch": True,
    }
    recordings = [
        Recording(
            id=f"{uid}-{number}",
            uid=uid,
            seconds=seconds,
            keep_until=NOW + timedelta(days=number),
            **fields,
        )
        for uid, number, seconds in (("u", 1, 10.0), ("u", 2, 20.0), ("v", 3, 5.0))
    ]
    for recording in (
        *recordings,
        msgspec.structs.replace(recordings[0], seconds=15.0, started=NOW + timedelta(hours=1)),
    ):
        await store.save(recording)
    await store.see_run("u", NOW, NOW + timedelta(minutes=1))
    listed = await store.newest(2, "a", (NOW, "v-3"))
    found = [
        (recording.id, recording.seconds, recording.run_recorded_seconds) for recording in listed
    ]
    assert found == [("u-2", 20.0, 35.0), ("u-1", 15.0, 35.0)]
    assert {(recording.started, recording.run_seen) for recording in listed} == {
        (NOW, NOW + timedelta(minutes=1))
    }
    assert [
        recording.id for recording in await store.expired(NOW + timedelta(days=2, hours=1), 9)
    ] == [
        "u-1",
        "u-2",
    ]
    await store.drop("u-1")
    assert await store.get("u-1") is None
    assert len(await store.newest(9, None, None)) == 2
