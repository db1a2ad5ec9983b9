"""Requests to an agent: with its token, whole within their time, and cut at their size."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from support.builders import a_session
from support.desktop_key import DATA, KEY, tokens_of
from support.web_server import serve_app
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import DesktopAgent, DesktopKey
from vdi.http_client import Response
from vdi.kube.errors import NotFound

SESSION = a_session()


@dataclass
class Secrets:
    """As much of kube.Client as is used."""

    data: dict[str, str] | None = field(default_factory=lambda: dict(DATA))
    read: int = 0

    async def get(self, resource: Any, name: str, *, namespace: str, into: Any) -> Any:
        self.read += 1
        if self.data is None:
            raise NotFound(404, "NotFound", "not found")
        return msgspec.convert({"data": self.data}, into)


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
    stand, app = Stand(), web.Application()
    app.router.add_route("*", "/{path:.*}", stand.serve)
    async with serve_app(app) as port:
        stand.agent = DesktopAgent(
            DesktopKey(cast(Any, stand.secrets), "vdi-system"), lambda _: f"http://127.0.0.1:{port}"
        )
        yield stand


async def test_the_token_goes_along_and_the_key_is_read_once(stand: Stand) -> None:
    for _ in range(2):
        assert await stand.ask() == Response(200, b"x" * 100)
    assert stand.asked == [("GET /thumbnail", f"Bearer {tokens_of().agent}")] * 2
    assert stand.secrets.read == 1


async def test_after_a_refusal_the_key_is_read_again(stand: Stand) -> None:
    await stand.ask()
    stand.status = 401
    stand.secrets.data = {"key": base64.b64encode(b"n" * 32).decode()}
    assert (await stand.ask()).status == 401
    await stand.agent.key.reread()
    await stand.ask()
    assert [token for _, token in stand.asked] == [
        f"Bearer {tokens_of(key=key).agent}" for key in (KEY, KEY, b"n" * 32)
    ]


@pytest.mark.parametrize("data", [None, {}])
async def test_a_key_that_cannot_be_read_again_still_counts(stand: Stand, data: dict[str, str] | None) -> None:
    stand.status = 401
    await stand.ask()
    stand.secrets.data = data
    await stand.agent.key.reread()
    assert (await stand.ask()).status == 401


async def test_an_answer_has_a_largest_size(stand: Stand) -> None:
    with pytest.raises(ActionDenied, match="is too large"):
        await stand.ask(max_bytes=99)


async def test_an_answer_that_drips_ends_in_time(stand: Stand) -> None:
    stand.hold = asyncio.Event()
    with pytest.raises(ActionDenied, match="does not respond"):
        await stand.ask(seconds=0.2)
    stand.hold.set()


@pytest.mark.parametrize("data", [None, {}, {"key": "c2hvcnQ="}])
async def test_without_a_key_no_one_is_asked(stand: Stand, data: dict[str, str] | None) -> None:
    stand.secrets.data = data
    with pytest.raises(ActionDenied, match="is not known right now"):
        await stand.ask()
    assert stand.asked == []
