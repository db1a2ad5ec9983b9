"""Ready means that a person who comes now is served; the answer names each thing that is
missing.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest
from prometheus_client import generate_latest
from starlette.applications import Starlette

from support.clock import replace_sleep
from support.metrics_token import TOKEN, token_file
from unit.gateway.gateway_stage import NOW
from vdi.gateway import health as module
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.component import GatewayContext
from vdi.gateway.health import Health
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState, SharedState
from vdi.gateway.store.database import Database, DatabaseUnavailableError
from vdi.kube.transport import Client
from vdi.settings import METRICS_TOKEN_FILE


class FakeDatabase:
    error: Exception | None = None
    silent = False

    async def check(self) -> None:
        if self.silent:
            await asyncio.Event().wait()
        if self.error:
            raise self.error


class HealthStage:
    """`database`, `shared`: None for ones that always work."""

    def __init__(
        self,
        token: Path = METRICS_TOKEN_FILE,
        database: Database | None = None,
        shared: SharedState | None = None,
    ) -> None:
        self.fake_database = FakeDatabase()
        self.trouble = ""
        self.external: Sequence[str] = ()
        self.lost: list[str] = []
        self.server_time: datetime | None = None
        self.stuck: list[str] = []
        world = SimpleNamespace(troubles=lambda: iter(self.lost), stuck=lambda: iter(self.stuck))
        client = SimpleNamespace(server_time=lambda: self.server_time)
        self.context = GatewayContext(
            settings=Settings(metrics_token_file=token),
            client=cast(Client, client),
            cluster=cast(ClusterCache, world),
            database=database or cast(Database, self.fake_database),
            shared=shared or MemorySharedState(),
            metrics=Metrics(),
            clock=lambda: NOW,
        )
        self.health = Health(self.context, lambda: filter(None, (self.trouble,)), (self._external,))
        self.health.begun = True

    async def _external(self) -> Sequence[str]:
        return self.external

    async def ask(self, path: str, authorization: str = "") -> httpx.Response:
        app = Starlette(routes=[*self.health.internal_routes()])
        headers = {"Authorization": authorization} if authorization else {}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://x"
        ) as client:
            return await client.get(path, headers=headers)

    async def get(self, path: str) -> tuple[int, str]:
        answer = await self.ask(path)
        return answer.status_code, answer.text


async def test_ready_when_nothing_is_missing() -> None:
    assert await HealthStage().get("/readyz") == (200, "ok\n")


async def test_everything_that_is_missing_is_named_at_once() -> None:
    stage = HealthStage()
    stage.health.begun = False
    stage.lost = ["vdisessions: the first list is not complete yet"]
    stage.trouble = "signing keys: none"
    stage.fake_database.error = DatabaseUnavailableError("the database does not answer")
    status, text = await stage.get("/readyz")
    assert status == 503
    assert text.splitlines() == [
        "the gateway has not started yet",
        "signing keys: none",
        "vdisessions: the first list is not complete yet",
        "database: the database does not answer",
    ]
    assert await stage.get("/healthz") == (
        200,
        "ok\n",
    ), "a process that waits is not restarted, and names no version"


async def test_a_database_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.02)
    stage = HealthStage()
    stage.fake_database.silent = True
    assert await stage.get("/readyz") == (200, "ok\nbut database: no response within 0.02 s\n")


async def test_a_server_s_message_is_one_line_of_bounded_length() -> None:
    stage = HealthStage()
    stage.fake_database.error = DatabaseUnavailableError("disk full\nHINT:  free it\n" + 9999 * "x")
    _, text = await stage.get("/readyz")
    assert text.startswith("ok\nbut database: disk full HINT: free it xxx")
    assert (len(text.splitlines()), len(text)) == (2, len("ok\nbut database: \n") + 300)


async def test_a_shared_dependency_that_is_down_keeps_replicas_ready() -> None:
    """Without a replica that is ready no one's token could be checked, and open desktops need
    nothing but that.
    """
    stage = HealthStage()
    stage.fake_database.error = DatabaseUnavailableError("the database does not answer")
    stage.lost = ["vdisessions: no connection"]
    status, text = await stage.get("/readyz")
    assert (status, text.splitlines()) == (
        200,
        ["ok", "but vdisessions: no connection", "but database: the database does not answer"],
    )
    stage.health.begun = False
    assert (await stage.get("/readyz"))[0] == 503


@pytest.mark.parametrize(("seconds", "words"), [(300, "300 s ahead of"), (-300, "300 s behind")])
async def test_a_wrong_clock_is_reported_and_the_replica_stays_ready(
    seconds: int, words: str
) -> None:
    stage = HealthStage()
    stage.server_time = NOW - timedelta(seconds=seconds)
    status, text = await stage.get("/readyz")
    assert (status, text.splitlines()[0]) == (200, "ok")
    assert f"but clock: it is {words} the API server's clock. " in text
    assert await stage.health.all_troubles() != []
    stage.server_time = NOW - timedelta(seconds=seconds / 10)
    assert await stage.get("/readyz") == (200, "ok\n")


async def test_a_watch_that_is_stuck_is_this_replicas_own_fault() -> None:
    stage = HealthStage()
    stage.stuck = ["vdisessions: no message from the API server for 200 s"]
    assert (await stage.get("/readyz"))[0] == 503


async def test_a_gateway_that_stops_takes_no_one_new() -> None:
    stage = HealthStage()
    stage.context.stopping.set()
    assert await stage.get("/readyz") == (503, "the gateway is stopping\n")


async def test_metrics_are_served_to_whoever_has_the_token(tmp_path: Path) -> None:
    stage = HealthStage(token_file(tmp_path))
    stage.context.metrics.logins.labels("local", "in").inc()
    answer = await stage.ask("/metrics", f"Bearer {TOKEN}")
    assert 'vdi_gateway_logins_total{outcome="in",source="local"} 1.0' in answer.text


@pytest.mark.parametrize(
    "authorization", ["", TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x"]
)
async def test_metrics_need_the_token_and_probes_need_none(
    tmp_path: Path, authorization: str
) -> None:
    stage = HealthStage(token_file(tmp_path))
    answer = await stage.ask("/metrics", authorization)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="vdi"')
    assert "vdi_" not in answer.text
    for path in ("/healthz", "/readyz"):
        assert (await stage.ask(path, authorization)).status_code == 200


async def test_without_a_token_of_its_own_no_one_reads_metrics(tmp_path: Path) -> None:
    assert (
        await HealthStage(tmp_path / "none").ask("/metrics", f"Bearer {TOKEN}")
    ).status_code == 503


async def test_the_log_repeats_a_problem_and_reports_its_end_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there at the second look is no trouble: a gateway that starts lacks its keys for a
    moment.
    """
    stage, looks = HealthStage(), 0
    stage.fake_database.error = DatabaseUnavailableError("the database does not answer")
    stage.trouble = "signing keys: not read yet"

    async def pause(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        stage.trouble = ""
        if looks == 14:
            stage.fake_database.error = None
        if looks == 16:
            raise asyncio.CancelledError

    replace_sleep(monkeypatch, pause)
    with pytest.raises(asyncio.CancelledError):
        await stage.health.run()
    # Servers that other tests run in threads may log, too.
    said = [record.message for record in caplog.records if record.name == module.log.name]
    scraped = generate_latest(stage.context.metrics.registry).decode()
    for name in ("database", "redis", "oidc"):
        assert f'vdi_gateway_dependency_up{{dependency="{name}"}} 1.0' in scraped.splitlines()
    trouble = "trouble: database: the database does not answer"
    assert said == [trouble, trouble, "no trouble any more: database"]


async def test_a_provider_that_is_down_is_reported_outside_of_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a trouble and as a metric: it keeps no replica from being ready."""
    stage = HealthStage()
    stage.external = ["single sign-on: https://id.example.com: no answer"]
    assert await stage.health.all_troubles() == stage.external
    assert await stage.get("/readyz") == (200, "ok\n")

    async def pause(_seconds: float) -> None:
        raise asyncio.CancelledError

    replace_sleep(monkeypatch, pause)
    with pytest.raises(asyncio.CancelledError):
        await stage.health.run()
    scraped = generate_latest(stage.context.metrics.registry).decode()
    assert 'vdi_gateway_dependency_up{dependency="oidc"} 0.0' in scraped
