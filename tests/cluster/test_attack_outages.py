"""Redis or PostgreSQL goes while desktops are open: killed, or frozen, which leaves its connections
open and silent.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from cluster.edge_traefik import TraefikStage, open_edge
from cluster.redis_stage import RedisServer, redis
from cluster.test_gateway_edge import PROGRAM, alice, connect
from support.postgres import Postgres, postgres_server, postgres_url
from support.waiting import eventually
from unit.gateway.edge_stage import GUEST, shared_with
from vdi.gateway.shared_state import RedisSharedState

__all__ = ["alice", "postgres_server", "postgres_url", "redis"]

# Seconds after which a person who waits for a page has long gone; Traefik's own end of patience is
# 30.
PATIENCE = 20.0


@pytest.fixture
async def edge(
    traefik: Path, tmp_path: Path, redis: RedisServer, postgres_url: str
) -> AsyncIterator[TraefikStage]:
    async with AsyncExitStack() as stack:
        shared = RedisSharedState(redis.url)
        stack.push_async_callback(shared.close)
        edge = await stack.enter_async_context(
            open_edge(traefik, tmp_path, shared=shared, database_url=postgres_url)
        )
        edge.stage.change(spec=shared_with(GUEST, "viewer"))
        # Others overwrite the visitor's token.
        edge.desktop.pages |= {
            "/": ("desktop /", {}),
            "/x": ("x", {}),
        }
        yield edge


async def echoes(socket: aiohttp.ClientWebSocketResponse, text: str) -> None:
    """The desktop's connection is alive."""
    await socket.send_str(text)
    assert await socket.receive_str(timeout=PATIENCE) == text


async def loads(
    edge: TraefikStage, browser: aiohttp.ClientSession, path: str = "/x"
) -> tuple[int, str]:
    """The response to a script of the desktop's page."""
    async with (
        asyncio.timeout(PATIENCE),
        browser.get(edge.url(path=path), headers=PROGRAM) as answer,
    ):
        return answer.status, await answer.text()


async def opens(edge: TraefikStage, browser: aiohttp.ClientSession) -> tuple[int, str]:
    """The response to a person who opens the desktop."""
    async with asyncio.timeout(PATIENCE), browser.get(edge.url()) as answer:
        return answer.status, await answer.text()


@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_redis_outage_keeps_desktops_and_refuses_entries(
    edge: TraefikStage, alice: aiohttp.ClientSession, redis: RedisServer, how: str
) -> None:
    socket = await connect(edge, alice)
    assert await socket.receive_str() == "AUTH_SUCCESS,controller"
    async with await edge.browser(GUEST) as guest:
        if how == "frozen":
            redis.send(signal.SIGSTOP)
        else:
            await redis.kill()
        try:
            for _ in range(4):  # past the end of a token: the database alone renews it
                edge.stage.clock.forward(seconds=100)
                await echoes(socket, f"kd,{how}")
                assert (await loads(edge, alice))[0] == 200
            status, text = await opens(edge, guest)
            assert (
                status,
                "Signing in and new connections are not possible right now." in text,
            ) == (503, True), text
        finally:
            if how == "frozen":
                redis.send(signal.SIGCONT)
            else:
                await redis.start()

        async def is_in() -> bool:
            return (await opens(edge, guest))[0] == 200

        await eventually(is_in, "the guest comes in again")
    await echoes(socket, "kd,after")
    await socket.close()


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("how", ["frozen", "killed"])
async def test_database_outage_keeps_tokens_until_they_expire(
    edge: TraefikStage, alice: aiohttp.ClientSession, postgres_server: Postgres, how: str
) -> None:
    socket = await connect(edge, alice)
    assert await socket.receive_str() == "AUTH_SUCCESS,controller"
    async with await edge.browser(GUEST) as guest:
        if how == "frozen":
            postgres_server.send(signal.SIGSTOP)
        else:
            await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)
        try:
            # 240 s of the token's 300: the last ones want to renew it, and go on without.
            for _ in range(4):
                edge.stage.clock.forward(seconds=60)
                await echoes(socket, f"kd,{how}")
                assert (await loads(edge, alice))[0] == 200, (
                    "a token that holds does not wait for the database"
                )
            second = await connect(edge, alice)
            assert await second.receive_str() == "AUTH_SUCCESS,controller", (
                "a page may be loaded again"
            )
            await second.close()
            edge.stage.clock.forward(seconds=60)
            assert await loads(edge, alice) == (503, "The gateway's database does not respond.\n")
            status, text = await opens(edge, guest)
            assert (status, "The portal cannot reach its database right now." in text) == (
                503,
                True,
            ), text
            await echoes(socket, "kd,still")
        finally:
            if how == "frozen":
                postgres_server.send(signal.SIGCONT)
            else:
                await asyncio.to_thread(postgres_server.start)

        async def all_is_well() -> bool:
            return (await loads(edge, alice))[0] == 200 and (await opens(edge, guest))[0] == 200

        await eventually(all_is_well, "both are in again", 60)
    await echoes(socket, "kd,after")
    await socket.close()
