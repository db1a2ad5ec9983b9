"""A real gateway on a real API server: it starts, tells the truth about itself, serves, and ends on
SIGTERM.
"""

import asyncio
import signal
from pathlib import Path

import httpx

from cluster.edge_traefik import free_port
from cluster.gateway_stage import READY_SECONDS, GatewayStage, add_people, gateway_process
from cluster.operator_stage import Stage
from support.waiting import PATIENCE, eventually


async def test_started_gateway_serves_its_pages(gateway: GatewayStage, stage: Stage) -> None:
    assert (await gateway.inside("/healthz")).text == "ok\n"
    browser = await gateway.browser()
    login = await browser.get("/")
    assert (login.status_code, login.headers["location"]) == (303, "/login")
    page = await browser.get("/login")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    alice = await gateway.log_in("alice@example.com")
    portal = await alice.get("/")
    assert portal.status_code == 200, portal.text
    assert "Alice" in portal.text or "alice@example.com" in portal.text
    keys = (await browser.get("/.well-known/jwks.json")).json()
    assert keys["keys"]
    verify = await gateway.verify("alice-desktop")
    assert verify.status_code in (302, 401), verify.text
    assert (await gateway.inside("/metrics")).status_code == 401
    metrics = await gateway.metrics()
    assert 'vdi_gateway_requests_total{code="200",method="GET",route="public:/login"}' in metrics


async def test_sigterm_ends_the_gateway_with_open_streams(stage: Stage, tmp_path: Path) -> None:
    await add_people(stage)
    async with gateway_process(stage, tmp_path) as replica:
        alice = await replica.gateway.log_in("alice@example.com")
        async with alice.stream(
            "GET", "/events?view=desktops", headers={"Accept": "text/event-stream"}
        ) as stream:
            assert stream.status_code == 200
            lines = stream.aiter_lines()
            await anext(lines)
            replica.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await replica.process.wait() == 0, replica.log.read_text()
    log = replica.log.read_text()
    assert "Traceback" not in log
    assert "graceful shutdown exceeded" not in log, "uvicorn had to cut the stream off"


async def test_gateway_is_ready_once_its_database_is_reachable(
    stage: Stage, tmp_path: Path
) -> None:
    await add_people(stage)
    folder = tmp_path / "later"
    internal = free_port()
    starting = asyncio.ensure_future(_until_killed(stage, tmp_path, internal, folder))
    probe = GatewayStage(stage, None, 0, internal)  # type: ignore[arg-type]

    async def says_why() -> bool:
        if starting.done():
            starting.result()  # raises what it has ended with
        try:
            answer = await probe.inside("/readyz")
        except httpx.TransportError:
            return False
        return answer.status_code == 503 and "database" in answer.text

    try:
        await eventually(says_why, "it says that it has no database", READY_SECONDS)
        folder.mkdir()
        await starting
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def _until_killed(stage: Stage, tmp_path: Path, internal: int, folder: Path) -> None:
    url = f"sqlite+aiosqlite:///{folder}/x.db"
    async with gateway_process(stage, tmp_path, internal, VDI_DATABASE_URL=url) as replica:
        assert (await replica.gateway.inside("/readyz")).status_code == 200
