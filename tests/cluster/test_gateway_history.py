"""History as it is made: a real API server, the real operator, a real gateway; on SQLite and on
PostgreSQL.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cluster.control_plane import SERVICE_ACCOUNTS
from cluster.edge_traefik import free_port
from cluster.gateway_stage import GatewayStage, add_people, gateway_process, open_gateway_stage
from cluster.operator_stage import Stage
from support.postgres import Postgres, postgres_server, postgres_url
from support.variants import first_of
from support.waiting import eventually
from unit.gateway.history_stage import rows_of
from vdi.cluster.units import parse_time
from vdi.gateway.store.database import Database
from vdi.gateway.store.history import RunRow, SessionRow
from vdi.gateway.token_review import AUDIENCE
from vdi.kinds import SESSIONS
from vdi.kube.resource import EVENTS, PODS, Resource

__all__ = ["postgres_server", "postgres_url"]
NAME = "alice-desktop"


@pytest.fixture(params=first_of(["postgresql", "sqlite"]))
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/history.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


class HistoryStage:
    """An operator's account with its token, where the gateway is to listen, and what is in the
    database.
    """

    def __init__(self, stage: Stage, database_url: str) -> None:
        self.stage = stage
        self.database = Database(database_url)
        self.token_file = stage.folder / "gateway-token"
        self.port = free_port()

    @property
    def account(self) -> str:
        return f"system:serviceaccount:{self.stage.namespace}:vdi-operator"

    async def token(self, account: str, audience: str = AUDIENCE) -> str:
        """A token as the kubelet projects it into a pod of that account."""
        resource = Resource("", "v1", f"serviceaccounts/{account}/token", "TokenRequest")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600},
        }
        made = await self.stage.api.create(
            resource, body, namespace=self.stage.namespace, into=dict
        )
        token: str = made["status"]["token"]
        return token

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[GatewayStage]:
        settings: dict[str, Any] = {
            "database_url": self.database.url.render_as_string(hide_password=False),
            "operator_account": self.account,
            "internal_addr": ("127.0.0.1", self.port),
        }
        async with open_gateway_stage(self.stage, self.stage.folder, **settings) as gateway:
            yield gateway

    def operator(self, **more: Any) -> Any:
        url = f"http://127.0.0.1:{self.port}"
        return self.stage.operator(gateway_url=url, gateway_token_file=self.token_file, **more)

    async def rows(self) -> tuple[list[SessionRow], list[RunRow]]:
        return await rows_of(self.database)

    async def reach(
        self, what: str, *, sessions: int, runs: int, open_runs: int
    ) -> tuple[list[SessionRow], list[RunRow]]:
        """Wait until there are so many."""

        async def look() -> tuple[list[SessionRow], list[RunRow]] | None:
            found = await self.rows()
            still_open = [one for one in found[1] if one.ended is None]
            counts = len(found[0]), len(found[1]), len(still_open)
            return (
                found
                if counts == (sessions, runs, open_runs) and all(one.ready for one in still_open)
                else None
            )

        try:
            return await eventually(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {await self.rows()}") from None

    async def suspend(self) -> None:
        begun = await self.stage.get(SESSIONS, NAME)
        assert begun
        await self.stage.suspend(NAME)
        await self.stage.reach(NAME, "Suspended")
        await self.stage.podless(begun)
        # Kubernetes counts whole seconds: a run that began in the same one as the run before would
        # be that run.
        start = parse_time(begun["status"]["startTime"]) + timedelta(seconds=1)
        await eventually(lambda: datetime.now(UTC) >= start, "the next second")

    async def resume(self) -> None:
        await self.stage.suspend(NAME, suspended=False)
        await self.stage.run(NAME)

    async def said(self) -> set[str]:
        return {one["reason"] for one in await self.stage.all(EVENTS)}


@pytest.fixture
async def history(stage: Stage, database_url: str) -> AsyncIterator[HistoryStage]:
    history = HistoryStage(stage, database_url)
    for name in ("vdi-operator", "somebody"):
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        await stage.api.create(SERVICE_ACCOUNTS, body, namespace=stage.namespace, into=msgspec.Raw)
    history.token_file.write_text(await history.token("vdi-operator"))
    await add_people(stage)
    yield history
    await history.database.close()


async def test_session_with_two_runs_is_recorded(history: HistoryStage) -> None:
    stage = history.stage
    node = await stage.node("here")
    template = await stage.template(
        resources={"defaultGPU": 1}, placement={"nodeSelector": stage.here}
    )
    async with history.gateway() as gateway, history.operator():
        session = await stage.session(NAME, template)
        await stage.bind(await stage.pod_of(session), node)
        running = await stage.run(NAME)
        await history.reach("the first run is written", sessions=1, runs=1, open_runs=1)
        await history.suspend()
        await history.reach("its end is written", sessions=1, runs=1, open_runs=0)
        await history.resume()
        await history.reach("the second run is written", sessions=1, runs=2, open_runs=1)

        alice = await gateway.log_in("alice@example.com")
        csrf = (await alice.get("/api/v1/me")).json()["csrfToken"]
        headers = {"X-CSRF-Token": csrf, "Origin": gateway.portal, "Sec-Fetch-Site": "same-origin"}
        answer = await alice.delete(f"/api/v1/sessions/{NAME}", headers=headers)
        assert answer.status_code in (200, 202, 204), answer.text
        await stage.gone(SESSIONS, NAME)
        (row,), (first, second) = await history.reach(
            "the end is written", sessions=1, runs=2, open_runs=0
        )
    assert (row.name, row.owner, row.template) == (NAME, "alice@example.com", template)
    assert row.uid == session["metadata"]["uid"]
    assert (row.end_reason, row.ended_by) == ("user", "alice@example.com")
    assert (first.end_reason, second.end_reason) == ("suspended", "user")
    assert (first.node, first.pod, first.gpus) == (node, running["status"]["podName"], 1)
    assert first.startup_seconds is not None and first.startup_seconds >= 0
    assert first.ended and first.start <= first.ended <= second.start
    assert second.ended == row.ended
    assert "HistoryNotRecorded" not in await history.said()


@pytest.mark.long
async def test_ended_session_waits_for_the_gateway_to_record_it(history: HistoryStage) -> None:
    stage = history.stage
    template = await stage.template()
    async with history.operator():
        async with history.gateway():
            session = await stage.session(NAME, template)
            await stage.run(NAME)
            await history.reach("it runs", sessions=1, runs=1, open_runs=1)
        await stage.delete(SESSIONS, NAME)
        await stage.gone(PODS, (await stage.get(SESSIONS, NAME) or {})["status"]["podName"])
        other = await stage.session("bob-desktop", template)  # meanwhile others are served
        await stage.run("bob-desktop")
        await stage.childless(session)
        waiting = await stage.get(SESSIONS, NAME)
        assert waiting, "it has gone before anybody took note of its end"
        async with history.gateway():
            await stage.gone(SESSIONS, NAME)
            (row, another), _ = await history.reach(
                "all is written", sessions=2, runs=2, open_runs=1
            )
    if row.uid == other["metadata"]["uid"]:
        row, another = another, row
    assert row.end_reason == "deleted" and row.ended
    assert row.ended.strftime("%Y-%m-%dT%H:%M:%SZ") == waiting["metadata"]["deletionTimestamp"]
    assert another.ended is None
    assert "HistoryNotRecorded" not in await history.said()


async def test_only_the_operator_token_is_accepted(history: HistoryStage) -> None:
    body = msgspec.json.encode({"metadata": {"name": "x", "namespace": history.stage.namespace}})
    tokens = {
        await history.token("vdi-operator"): 400,  # it is believed, and what it says is no end
        await history.token("somebody"): 403,
        await history.token("vdi-operator", "https://kubernetes.default.svc"): 403,
        "made-up": 403,
    }
    async with (
        history.gateway() as gateway,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.internal}") as client,
    ):
        for token, status in tokens.items():
            headers = {"Authorization": f"Bearer {token}"}
            answer = await client.post("/internal/ended", content=body, headers=headers)
            assert answer.status_code == status, answer.text
        browser = await gateway.browser()
        assert (await browser.post("/internal/ended", content=body)).status_code in (403, 404, 405)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_runs_during_a_database_outage_are_recorded_later(
    history: HistoryStage, postgres_server: Postgres
) -> None:
    stage = history.stage
    template = await stage.template()
    async with history.gateway() as gateway, history.operator():
        postgres_server.stop()
        try:
            await stage.session(NAME, template)
            await stage.run(NAME)
            await history.suspend()
            await history.resume()
            lag = re.search(
                r"^vdi_gateway_recorder_lag_seconds (\S+)$", await gateway.metrics(), re.MULTILINE
            )
            assert lag and float(lag[1]) > 0
        finally:
            postgres_server.start()
        _, runs = await history.reach("all is written", sessions=1, runs=2, open_runs=1)
    assert [run.end_reason for run in runs] == ["suspended", None]


@pytest.mark.long
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_killed_replicas_record_each_run_once(history: HistoryStage) -> None:
    """Two gateways watch and are killed in turn, the operator is restarted: each run is there once,
    with its facts.
    """
    stage = history.stage
    template = await stage.template()
    url = history.database.url.render_as_string(hide_password=False)
    environment = {"VDI_DATABASE_URL": url, "VDI_OPERATOR_ACCOUNT": history.account}

    def replica(port: int) -> Any:
        return gateway_process(stage, stage.folder, port, **environment)

    other_port = free_port()
    async with replica(history.port) as first:
        async with replica(other_port):
            async with history.operator():
                await stage.session(NAME, template)
                await stage.run(NAME)
            await history.reach("it runs", sessions=1, runs=1, open_runs=1)
            await first.kill()
            async with history.operator():
                await history.suspend()
                await history.reach("it is suspended", sessions=1, runs=1, open_runs=0)
        async with replica(history.port), replica(other_port), history.operator():
            await history.resume()
            await history.reach("it runs again", sessions=1, runs=2, open_runs=1)
            await asyncio.gather(stage.delete(SESSIONS, NAME), stage.gone(SESSIONS, NAME))
            (row,), runs = await history.reach("it has ended", sessions=1, runs=2, open_runs=0)
    assert [run.end_reason for run in runs] == ["suspended", "deleted"]
    assert row.end_reason == "deleted"
