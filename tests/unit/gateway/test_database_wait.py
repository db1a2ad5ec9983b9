"""A replica that waits for its database is ready for its page only where no other replica has
started.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.responses import Response

from unit.gateway.edge_stage import HOST, EdgeStage
from unit.gateway.gateway_stage import NAVIGATION, NOW
from unit.gateway.test_gateway_health import HealthStage
from vdi.gateway import database_wait as module
from vdi.gateway.database_wait import WAITING, DatabaseWait

SINCE = "has not responded since 2026-11-20 12:00:00 UTC"


@asynccontextmanager
async def service(body: str | None, status: int = 200) -> AsyncIterator[str]:
    """URL of a server with this response to everything; None: it is silent."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body is not None:
            head = (
                f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write((head + body).encode())
        else:
            await reader.read()  # until the client gives up
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def looks(url: str, times: int = 20) -> bool:
    """Whether a replica shows its page after so many looks at the Service."""
    wait = DatabaseWait()
    for _ in range(times):
        await wait.look(url)
    return wait.shows_page


async def refusing() -> str:
    async with service("") as url:
        return url


@pytest.mark.parametrize(
    ("body", "status", "shows"),
    [
        ("ok\n", 200, False),
        ("ok\nbut database: down\n", 200, False),
        (f"{WAITING}\nthe gateway has not started yet\n", 200, True),
        ("no such page", 404, False),
        (None, 200, False),
    ],
    ids=["started", "troubled", "waits", "foreign", "silent"],
)
async def test_page_is_shown_only_without_a_started_replica(
    monkeypatch: pytest.MonkeyPatch, body: str | None, status: int, shows: bool
) -> None:
    """A rollout to a wrong database URL must not replace replicas that work."""
    monkeypatch.setattr(module, "_SECONDS", 0.05 if body is None else 2.0)
    async with service(body, status) as url:
        assert await looks(url, 6) == shows


async def test_page_is_shown_where_the_service_has_no_replica() -> None:
    url = await refusing()
    assert await looks(url)
    assert not await looks(url, 4), "a replica that restarts is back within a few looks"
    assert not await looks("http://nobody.invalid:8081"), "unknown: cluster DNS is down"
    assert not await looks(""), "there is no Service"


async def test_started_replica_ends_the_page() -> None:
    wait, url = DatabaseWait(), await refusing()
    for _ in range(9):
        await wait.look(url)
    async with service("ok\n") as started:
        await wait.look(started)
    assert not wait.shows_page


async def test_waiting_replica_is_ready_for_its_page_until_it_stops() -> None:
    stage = HealthStage()
    stage.health.begun = False
    wait = stage.context.database_wait
    assert (await stage.get("/readyz"))[0] == 503
    wait.looks = 99
    assert await stage.get("/readyz") == (200, f"{WAITING}\nthe gateway has not started yet\n")
    stage.context.stopping.set()
    assert (await stage.get("/readyz"))[0] == 503


async def page_of(wait: DatabaseWait, accept: str) -> Response:
    parts: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        parts.append(message)

    scope = {
        "type": "http",
        "headers": [(b"accept", accept.encode())],
        "method": "GET",
        "path": "/",
    }
    await wait(scope, None, send)  # type: ignore[arg-type]
    response = Response(parts[1]["body"], parts[0]["status"])  # type: ignore[arg-type]
    response.raw_headers = parts[0]["headers"]  # type: ignore[assignment]
    return response


async def test_page_names_the_database_and_reloads_itself() -> None:
    wait = DatabaseWait(since=NOW)
    page = await page_of(wait, "text/html,*/*")
    assert (page.status_code, page.headers["retry-after"]) == (503, "5")
    assert page.headers["content-type"].startswith("text/html")
    text = bytes(page.body).decode()
    assert SINCE in text and '<meta http-equiv="refresh" content="5">' in text
    plain = await page_of(wait, "application/json")
    assert (
        plain.headers["content-type"].startswith("text/plain")
        and SINCE in bytes(plain.body).decode()
    )
    wait.end()
    assert b"The gateway is starting." in (await page_of(wait, "text/html")).body


async def test_desktop_s_host_leads_to_the_page_and_its_scripts_get_the_reason() -> None:
    async with EdgeStage() as stage:
        stage.edge.revoker.primed = False
        stage.context.database_wait.since = NOW
        opened = await stage.verify(HOST, "/", **NAVIGATION)
        assert opened.status_code == 302
        assert opened.headers["location"] == f"{stage.settings.url(HOST)}/.vdi/start?next=/"
        script = await stage.verify(HOST, "/x.js")
        assert (script.status_code, script.headers["retry-after"]) == (503, "2")
        assert SINCE in script.text
        stage.context.database_wait.end()
        assert (await stage.verify(HOST, "/", **NAVIGATION)).status_code == 503
