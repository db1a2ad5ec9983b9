"""The agent of a desktop, as far as the gateway asks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from support.desktop_key import tokens_of
from support.web_server import serve_app
from unit.gateway.api_stage import ApiStage

STATE = "5e" * 32
MARK = {
    "x": 0, "y": 0, "size": 48, "width": 1280, "height": 720, "flip": 0x1008FF49, "play": 0x1008FF48, "playSeconds": 2.0
}  # fmt: skip
FIGURES: dict[str, Any] = {
    "firstPictureSeconds": 1.42, "framesPerSecond": 58.9, "inputToPhotonMs": [31.5, 38.5, 40.0, 56.6],
    "keysWithoutEffect": 0, "bitrateKbps": 812.0, "frames": 312, "framesDropped": 2,
}  # fmt: skip


@dataclass
class Agent:
    """What it answers, and what it was asked."""

    # The Authorization header that it takes.
    bearer: str
    status: int = 200
    body: Any = field(default_factory=lambda: dict(MARK))
    # Of a body of bytes.
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, Any]] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.Response:
        sent = await request.json() if request.can_read_body else None
        self.asked.append((request.path, request.headers.get("Authorization", ""), sent))
        if isinstance(self.body, bytes):
            return web.Response(body=self.body, headers=self.headers)
        if isinstance(self.body, str):
            return web.Response(text=self.body, status=self.status)
        return web.json_response(self.body, status=self.status)


@asynccontextmanager
async def agent(stage: ApiStage) -> AsyncIterator[Agent]:
    """Of alice-desktop."""
    uid = stage.cluster.objects["alice-desktop"]["metadata"]["uid"]
    one = Agent(f"Bearer {tokens_of(uid=uid).agent}")
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.serve)
    async with serve_app(app) as port:
        stage.agent_url = f"http://127.0.0.1:{port}"
        yield one
