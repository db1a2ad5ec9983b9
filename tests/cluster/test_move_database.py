"""The move from SQLite to a real PostgreSQL: all rows, logins that go on, and a process that is
killed at any point.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, func, select, update

from cluster.edge_traefik import free_port
from cluster.gateway_stage import GatewayStage, add_people, gateway_process
from cluster.operator_stage import Stage
from support.database import sqlite_with_tables
from support.postgres import Postgres, postgres_server, postgres_url
from support.waiting import eventually
from unit.gateway.history_stage import Life, Replica, at, open_database
from vdi.gateway.store.audit import Act, Audit, audit
from vdi.gateway.store.database import (
    Database,
    DatabaseUnavailableError,
    EnumText,
    Instant,
    WordSet,
    metadata,
)
from vdi.gateway.store.history import runs, sessions
from vdi.gateway.store.logins import logins
from vdi.gateway.store.move import MoveError, move

__all__ = ["postgres_server", "postgres_url"]


def a_row(table: Table) -> dict[str, object]:
    """A value in each column."""
    values: dict[str, object] = {}
    for column in table.columns:
        match column.type:
            case Instant():
                values[column.name] = at(0)
            case WordSet():
                values[column.name] = frozenset({"a", "b"})
            case EnumText() as enum:
                values[column.name] = next(iter(enum.kind))
            case kind:
                values[column.name] = {bool: True, int: 1, float: 1.5}.get(
                    kind.python_type, "é \u2028"
                )
    return values


@pytest.fixture
async def source(tmp_path: Path) -> AsyncIterator[Database]:
    """SQLite with a row in each table."""
    async with open_database(sqlite_with_tables(tmp_path / "vdi.db")) as database:
        async with database.begin() as connection:
            for table in metadata.sorted_tables:
                await connection.execute(table.insert().values(a_row(table)))
        yield database


@pytest.fixture
async def target(postgres_url: str) -> AsyncIterator[Database]:
    async with open_database(postgres_url) as database:
        yield database


async def counts_of(database: Database) -> dict[str, int]:
    counts = {}
    async with database.connect() as connection:
        for table in metadata.sorted_tables:
            count = select(func.count()).select_from(table)
            counts[table.name] = (await connection.execute(count)).scalar_one()
    return counts


async def rows_of(database: Database) -> list[list[Any]]:
    async with database.connect() as connection:
        tables = metadata.sorted_tables
        return [
            list(await connection.execute(select(table).order_by(*table.primary_key)))
            for table in tables
        ]


async def record(database: Database, name: str) -> None:
    replica = Replica(database, lambda: at(99))
    replica.tell(Life(name).running_since(0))
    await replica.write()


async def add_audit(database: Database, target: str) -> None:
    await Audit(database, lambda: at(5)).record(
        Act(actor="a@example.com", action="login", target=target)
    )


async def do_move(source: Database, target: Database) -> dict[str, int]:
    async with source.begin() as connection:
        return await move(connection, target)


@dataclass
class Mover:
    """The sidecar as a process of its own."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    async def is_done(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def until_done(self) -> None:
        await eventually(self.is_done, "the copy is there")

    async def until_printed(self, beginning: str) -> None:
        async def is_printed() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return any(line.startswith(beginning) for line in self.log.read_text().splitlines())

        await eventually(is_printed, f"it prints {beginning!r}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def mover(file: Path, url: str) -> Iterator[Mover]:
    port = free_port()
    program = (
        f"import sys; from vdi.gateway.store import move; move.PORT = {port};"
        " sys.exit(move.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "VDI_DATABASE_URL": url}
    command = [sys.executable, "-c", program, str(file)]
    log = file.with_suffix(f".{port}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield Mover(process, port, log)
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def cannot_write(database: Database) -> AsyncIterator[None]:
    """The database reads, and refuses to write. SQLite waits 5 s before it does."""
    yield
    assert (await rows_of(database))[0]
    with pytest.raises(DatabaseUnavailableError):
        async with database.begin():
            pass


async def test_every_row_is_moved_and_new_ids_follow(source: Database, target: Database) -> None:
    await record(source, "alice")
    counts = await do_move(source, target)
    assert counts == await counts_of(source) == await counts_of(target)
    assert set(counts.values()) == {1, 2}
    assert counts["history_runs"] == 2
    assert await rows_of(source) == await rows_of(target)
    await add_audit(target, "later")
    async with target.connect() as connection:
        assert list(
            (await connection.execute(select(audit.c.id).order_by(audit.c.id))).scalars()
        ) == [1, 2]


async def test_unused_target_is_filled_again(source: Database, target: Database) -> None:
    await do_move(source, target)
    await add_audit(source, "later")
    await do_move(source, target)
    assert await rows_of(source) == await rows_of(target)


async def test_target_in_use_is_not_filled_again(source: Database, target: Database) -> None:
    counts = await do_move(source, target)
    await add_audit(target, "later")
    assert await do_move(source, target) == counts
    assert (await counts_of(target))["audit"] == 2


async def test_a_use_of_both_is_refused(source: Database, target: Database) -> None:
    await do_move(source, target)
    async with target.begin() as connection:
        await connection.exec_driver_sql("UPDATE logins SET name = 'seen'")
    await add_audit(source, "after a rollback")
    with pytest.raises(
        MoveError, match="both SQLite and PostgreSQL have changed since the move at"
    ):
        await do_move(source, target)
    assert (await counts_of(target))["audit"] == 1


async def test_target_with_own_rows_is_refused(source: Database, target: Database) -> None:
    await add_audit(target, "another gateway")
    with pytest.raises(MoveError, match="rows that were not moved there: 1 in audit"):
        await do_move(source, target)


async def test_killed_while_it_waits_for_postgresql(
    source: Database, postgres_server: Postgres, tmp_path: Path
) -> None:
    url = postgres_server.new_database()
    postgres_server.stop()
    try:
        with mover(tmp_path / "vdi.db", url) as process:
            await process.until_printed("waiting: ")
            await add_audit(source, "the old gateway still writes")
            process.kill()
    finally:
        postgres_server.start()
    with mover(tmp_path / "vdi.db", url) as process:
        await process.until_done()
    async with open_database(url) as moved:
        assert await rows_of(moved) == await rows_of(source)


async def test_killed_in_the_middle_of_the_copy(
    source: Database, target: Database, postgres_url: str, tmp_path: Path
) -> None:
    with mover(tmp_path / "vdi.db", postgres_url) as process:
        async with target.begin() as connection:
            await connection.exec_driver_sql("LOCK TABLE history_runs IN EXCLUSIVE MODE")
            async with cannot_write(source):
                await process.until_printed("history_sessions: ")
            process.kill()
    await add_audit(source, "the old gateway writes again")
    assert not any((await counts_of(target)).values())
    with mover(tmp_path / "vdi.db", postgres_url) as process:
        await process.until_done()
        assert await rows_of(target) == await rows_of(source)


async def test_killed_after_the_copy_loses_no_row(
    source: Database, target: Database, postgres_url: str, tmp_path: Path
) -> None:
    with mover(tmp_path / "vdi.db", postgres_url) as process:
        async with cannot_write(source):
            await process.until_done()
        process.kill()
        assert "audit: 1 rows\n" in process.log.read_text()
    await add_audit(source, "between two containers")
    with mover(tmp_path / "vdi.db", postgres_url) as process:
        await process.until_done()
        assert await rows_of(target) == await rows_of(source)
        process.process.terminate()
        assert process.process.wait(20) == 0
    await add_audit(source, "after its end")


async def test_killed_when_the_new_gateway_works(
    source: Database, target: Database, postgres_url: str, tmp_path: Path
) -> None:
    with mover(tmp_path / "vdi.db", postgres_url) as process:
        await process.until_done()
        await add_audit(target, "the new gateway")
        process.kill()
    with mover(tmp_path / "vdi.db", postgres_url) as process:
        await process.until_done()
        assert (await counts_of(target))["audit"] == 2


async def api_token(gateway: GatewayStage, browser: Any) -> dict[str, str]:
    page = (await gateway.post(browser, "/account/tokens", {"label": "moves", "days": "7"})).text
    found = re.search(r"vdi_[\w-]{43}", page)
    assert found, page
    return {"Authorization": f"Bearer {found[0]}"}


async def fill(database: Database, count: int) -> None:
    """So many sessions with a run each."""
    async with database.begin() as connection:
        for table in (sessions, runs):
            row = a_row(table) | {"ended": at(count)}
            await connection.execute(
                table.insert(), [row | {"uid": f"uid-{number}"} for number in range(count)]
            )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.long)])
async def test_logins_go_on_in_postgresql(
    stage: Stage, tmp_path: Path, postgres_url: str, count: int
) -> None:
    await add_people(stage)
    file = tmp_path / "vdi.db"
    url = sqlite_with_tables(file)
    async with (
        open_database(url) as source,
        gateway_process(stage, tmp_path, VDI_DATABASE_URL=url) as old,
    ):
        await fill(source, count)
        alice = await old.gateway.log_in("alice@example.com")
        token = await api_token(old.gateway, alice)
        async with source.begin() as connection:
            await connection.execute(
                update(logins).values(seen=datetime.now(UTC) - timedelta(minutes=5))
            )
        with mover(file, postgres_url) as process:
            await process.until_done()
            async with source.connect() as connection:
                frozen = (
                    await connection.execute(select(func.count()).select_from(audit))
                ).scalar_one()
            assert (await alice.get("/")).status_code == 200, "a use that cannot be recorded"
            async with gateway_process(stage, tmp_path, VDI_DATABASE_URL=postgres_url) as new:
                cookies = {cookie.name: cookie.value or "" for cookie in alice.cookies.jar}
                browser = await new.gateway.browser()
                browser.cookies.update(cookies)
                assert (await browser.get("/")).status_code == 200
                stranger = await new.gateway.browser()
                me = await stranger.get("/api/v1/me", headers=token)
                assert me.json()["user"] == "alice@example.com", me.text
                await new.gateway.log_in("bob@example.com")
                async with open_database(postgres_url) as target:
                    counts = await counts_of(target)
                    assert counts["history_sessions"] == counts["history_runs"] == count
                    assert counts["audit"] > frozen and counts["logins"] == 2
