"""Requests to an agent: with its token, whole within their time, and cut at their size."""

import asyncio
import base64
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from support.builders import a_session
from support.hostile_server import DEEP, HOSTILE, serve_answer
from support.web_server import serve_app
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import DesktopAgent
from vdi.http_client import Response
from vdi.kube.errors import NotFound

SESSION = a_session()


@dataclass
class Secrets:
    """As much of kube.Client as is used."""

    token: str | None = "agents-token"
    read: int = 0

    async def get(self, resource: Any, name: str, *, namespace: str, into: Any) -> Any:
        self.read += 1
        if self.token is None:
            raise NotFound(404, "NotFound", "not found")
        return msgspec.convert({"data": {"agentToken": base64.b64encode(self.token.encode()).decode()}}, into)


@dataclass
class Stand:
    """An agent that answers as the test says."""

    secrets: Secrets = field(default_factory=Secrets)
    agent: DesktopAgent = field(init=False)
    status: int = 200
    asked: list[tuple[str, str]] = field(default_factory=list)
    hold: asyncio.Event | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((f"{request.method} {request.path}", request.headers["Authorization"]))
        if self.hold is None:
            return web.Response(body=b"x" * 100, status=self.status)
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"x")
        await self.hold.wait()
        return answer

    async def ask(self, *, seconds: float = 5.0, max_bytes: int = 100) -> Response:
        return await self.agent.ask(SESSION, "GET", "/thumbnail", seconds=seconds, max_bytes=max_bytes)


@pytest.fixture
async def stand() -> AsyncIterator[Stand]:
    async with standing(Stand()) as stand:
        yield stand


@asynccontextmanager
async def standing(stand: Stand) -> AsyncIterator[Stand]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stand.serve)
    async with serve_app(app) as port:
        stand.agent = DesktopAgent(cast(Any, stand.secrets), lambda _: f"http://127.0.0.1:{port}")
        yield stand


async def test_the_token_goes_along_and_is_read_once(stand: Stand) -> None:
    for _ in range(2):
        assert await stand.ask() == Response(200, b"x" * 100)
    assert stand.asked == [("GET /thumbnail", "Bearer agents-token")] * 2
    assert stand.secrets.read == 1


async def test_a_token_that_is_refused_is_read_again(stand: Stand) -> None:
    stand.status = 401
    assert (await stand.ask()).status == 401
    stand.secrets.token = "another"
    await stand.ask()
    assert stand.asked[1][1] == "Bearer another"


async def test_an_answer_has_a_largest_size(stand: Stand) -> None:
    with pytest.raises(ActionDenied, match="is too large"):
        await stand.ask(max_bytes=99)


@pytest.mark.parametrize("name", HOSTILE)
async def test_no_answer_takes_more_memory_than_its_size(name: str) -> None:
    async with serve_answer(HOSTILE[name]) as server:
        agent = DesktopAgent(cast(Any, Secrets()), lambda _: server.url)
        tracemalloc.start()
        try:
            if name == "deep JSON":
                assert (await agent.ask(SESSION, "GET", "/", seconds=5, max_bytes=2**16)).body == DEEP
            else:
                with pytest.raises(ActionDenied, match=r"is refused|does not respond"):
                    await agent.ask(SESSION, "GET", "/", seconds=5, max_bytes=2**16)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 4 * 2**20


async def test_an_answer_that_drips_ends_in_time(stand: Stand) -> None:
    stand.hold = asyncio.Event()
    with pytest.raises(ActionDenied, match="does not respond"):
        await stand.ask(seconds=0.2)
    stand.hold.set()


@pytest.mark.parametrize(
    ("token", "words"), [(None, "is not known right now"), ("", "has no agent"), ("a\nb", "has no agent")]
)
async def test_without_a_token_no_one_is_asked(stand: Stand, token: str | None, words: str) -> None:
    stand.secrets.token = token
    with pytest.raises(ActionDenied, match=words):
        await stand.ask()
    assert stand.asked == []
