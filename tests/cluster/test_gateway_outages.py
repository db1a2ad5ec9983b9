"""Outages of PostgreSQL and Redis on real servers, as users, metric, readiness and the doctor see
them.

Servers that respond to every read and refuse every write; and replicas that start while the
database is away.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from cluster.edge_traefik import free_port
from cluster.gateway_stage import add_people, gateway_process
from cluster.operator_stage import Stage
from cluster.redis_stage import RedisServer, redis
from support.postgres import Postgres, postgres_server, postgres_url
from support.waiting import eventually
from unit.gateway.history_stage import open_database
from unit.gateway.test_gateway_health import HealthStage
from vdi.doctor.objects.components import troubles
from vdi.gateway import last_write
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.shared_state import RedisSharedState, SharedUnavailableError
from vdi.gateway.store.banner import save_banner
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.process import TroubleLog

__all__ = ["postgres_server", "postgres_url", "redis"]


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TroubleLog, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(last_write, "RECENT_SECONDS", 0.1)


@asynccontextmanager
async def watched(stage: HealthStage) -> AsyncIterator[None]:
    """The gateway's own checks run."""
    checks = asyncio.create_task(stage.health.run())
    try:
        yield
    finally:
        checks.cancel()
        await asyncio.gather(checks, return_exceptions=True)


def metric(stage: HealthStage, dependency: str) -> str:
    lines = generate_latest(stage.context.metrics.registry).decode().splitlines()
    name = f'vdi_gateway_dependency_up{{dependency="{dependency}"}}'
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(name)), "")


async def reports(
    stage: HealthStage, log: pytest.LogCaptureFixture, name: str, dependency: str, reason: str
) -> None:
    """Metric, readiness and the doctor name the server and its reason."""

    def in_doctor() -> str:
        return troubles([record.getMessage() for record in log.records]).get(name, "")

    await eventually(lambda: metric(stage, dependency) == "0.0", "the metric is 0")
    await eventually(lambda: reason in in_doctor(), "the doctor finds the reason in the log")
    status, text = await stage.get("/readyz")
    assert status == 200, "open desktops need the replica"
    assert f"but {name}: " in text and reason in text


async def is_over(stage: HealthStage, log: pytest.LogCaptureFixture, dependency: str) -> None:
    await eventually(lambda: metric(stage, dependency) == "1.0", "the metric is 1 again")
    await eventually(
        lambda: not troubles([record.getMessage() for record in log.records]),
        "the doctor finds nothing",
    )
    assert await stage.get("/readyz") == (200, "ok\n")


@pytest.fixture
async def shared(redis: RedisServer) -> AsyncIterator[RedisSharedState]:
    shared = RedisSharedState(redis.url)
    yield shared
    await shared.close()


@pytest.mark.parametrize(
    ("damage", "repair", "reason"),
    [
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            "command not allowed when used memory > 'maxmemory'",
        ),
        ("REPLICAOF 127.0.0.1 9", "REPLICAOF NO ONE", "read only replica"),
    ],
    ids=["full", "replica"],
)
async def test_redis_that_refuses_writes_is_down(
    shared: RedisSharedState,
    caplog: pytest.LogCaptureFixture,
    damage: str,
    repair: str,
    reason: str,
) -> None:
    caplog.set_level(logging.WARNING)
    stage = HealthStage(shared=shared)
    async with watched(stage):
        await eventually(lambda: metric(stage, "redis") == "1.0", "Redis works")
        await shared._redis.execute_command(damage)  # type: ignore[no-untyped-call]
        await shared._redis.ping()
        with pytest.raises(SharedUnavailableError, match=reason):
            await Throttle(shared).seconds_to_wait("alice@example.com", "203.0.113.7")
        await reports(stage, caplog, "shared state", "redis", reason)
        await shared._redis.execute_command(repair)  # type: ignore[no-untyped-call]
        await is_over(stage, caplog, "redis")


@pytest.fixture
def read_only(
    postgres_server: Postgres, request: pytest.FixtureRequest
) -> Iterator[tuple[Callable[[], None], ...]]:
    """Functions that make the server read-only, and that repair it."""
    signal_file = postgres_server.folder / "data/standby.signal"

    def set_read_only(value: str) -> None:
        # The statement's own session may write, whatever the server's default is.
        postgres_server.run(
            *(
                "psql",
                "-h",
                str(postgres_server.folder),
                "-U",
                "postgres",
                "-d",
                "postgres",
                "-qAt",
            ),
            *("-c", "SET default_transaction_read_only = off"),
            *(
                "-c",
                f"ALTER SYSTEM SET default_transaction_read_only = {value}",
                "-c",
                "SELECT pg_reload_conf()",
            ),
        )

    def become_standby() -> None:
        postgres_server.stop()
        signal_file.touch()
        postgres_server.start()

    def promote() -> None:
        postgres_server.psql("postgres", "SELECT pg_promote()")

    if request.param == "setting":
        yield (lambda: set_read_only("on"), lambda: set_read_only("off"))
        set_read_only("off")
        return
    yield become_standby, promote
    if signal_file.exists():
        postgres_server.stop()
        signal_file.unlink()
        postgres_server.start()


@pytest.mark.parametrize("read_only", ["setting", "standby"], indirect=True)
async def test_database_that_refuses_writes_is_down(
    postgres_url: str,
    read_only: tuple[Callable[[], None], Callable[[], None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    damage, repair = read_only
    async with open_database(postgres_url) as database:
        stage = HealthStage(database=database)
        async with watched(stage):
            await eventually(lambda: metric(stage, "database") == "1.0", "the database works")
            await asyncio.to_thread(damage)
            reason = "in a read-only transaction"
            await reports(stage, caplog, "database", "database", reason)
            async with database.connect() as connection:
                await connection.exec_driver_sql("SELECT 1")
            with pytest.raises(DatabaseUnavailableError, match=reason):
                await save_banner(database, "x")
            await asyncio.to_thread(repair)
            await is_over(stage, caplog, "database")


async def test_database_without_its_tables_is_a_trouble(
    postgres_server: Postgres, postgres_url: str
) -> None:
    """Health's own write must not end the process."""
    async with open_database(postgres_url) as database:
        async with database.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE alembic_version RENAME TO elsewhere")
        stage = HealthStage(database=database)
        await eventually(lambda: _is_reported(stage), "the missing table is reported")


async def _is_reported(stage: HealthStage) -> bool:
    return 'relation "alembic_version" does not exist' in (await stage.get("/readyz"))[1]


@pytest.fixture
def stopped(postgres_server: Postgres, postgres_url: str) -> Iterator[str]:
    """The URL of a database whose server the test starts."""
    postgres_server.stop()
    yield postgres_url
    postgres_server.stop()
    postgres_server.start()


@pytest.mark.ci
@pytest.mark.timeout(180)
async def test_replicas_that_wait_for_the_database_show_a_page(
    stage: Stage, tmp_path: Path, postgres_server: Postgres, stopped: str, redis: RedisServer
) -> None:
    """A port where no one listens refuses connections, as a Service without a ready pod does."""
    await add_people(stage)
    variables = {"VDI_REDIS_URL": redis.url, "VDI_GATEWAY_URL": f"http://127.0.0.1:{free_port()}"}
    async with AsyncExitStack() as stack:
        processes = [
            gateway_process(stage, tmp_path, VDI_DATABASE_URL=stopped, **variables)
            for _ in range(2)
        ]
        waiting = [await stack.enter_async_context(process) for process in processes]
        replicas = [replica.gateway for replica in waiting]
        for replica in replicas:
            assert (await replica.inside("/readyz")).text.startswith("waiting\n")
            browser = await replica.browser()
            page = await browser.get("/login")
            assert page.status_code == 503 and "database has not responded since" in page.text
            assert 'vdi_gateway_dependency_up{dependency="database"} 0.0' in await replica.metrics()
            opened = await replica.verify("alice-desktop", headers={"Sec-Fetch-Mode": "navigate"})
            assert opened.status_code == 302
            waits = await browser.get(opened.headers["location"])
            assert waits.status_code == 503 and 'http-equiv="refresh"' in waits.text
            script = await replica.verify("alice-desktop", "/x.js")
            assert script.status_code == 503 and "database has not responded since" in script.text
        await asyncio.to_thread(postgres_server.start)

        async def all_start() -> bool:
            answers = [await replica.inside("/readyz") for replica in replicas]
            return all(answer.text.startswith("ok\n") for answer in answers)

        await eventually(all_start, "they start", 60)
        for replica in replicas:
            await replica.log_in("alice@example.com")
