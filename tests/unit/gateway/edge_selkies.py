"""Selkies as far as the edge knows it: takes token tables, lets in by them, cuts off who is in no
table any more.

The rules are those of Selkies 2.1 in secure mode: until there is a table, connections wait; a table
replaces the one before; who is not in it, or in it with another role, is disconnected (4002); who
comes with no token of it, too (4001).
"""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from support.waiting import eventually
from support.web_server import serve_app
from vdi.session.credentials import direct_token


@dataclass
class FakeSelkies:
    """One desktop."""

    master: str
    url: str = ""
    tables: list[dict[str, Any]] = field(default_factory=list)
    # With this status, instead of taking a table.
    refuse: int = 0
    # How often it has.
    refused: int = 0
    # Take no table, and never say so.
    hangs: bool = False
    mode: str = "websockets"
    # Text and headers by path, in place of what it answers to everything.
    pages: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    seen: list[web.Request] = field(default_factory=list)
    sockets: dict[web.WebSocketResponse, tuple[str, str]] = field(default_factory=dict)

    @property
    def table(self) -> dict[str, Any]:
        """The one that holds."""
        return self.tables[-1] if self.tables else {}

    async def posted(self, number: int, seconds: float = 5.0) -> None:
        """Return when there have been so many tables."""
        await eventually(lambda: len(self.tables) >= number, f"{number} tables", seconds)

    async def _take(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.master}":
            return web.Response(status=401)
        if self.hangs:
            await asyncio.Event().wait()
        if self.refuse:
            self.refused += 1
            return web.Response(status=self.refuse)
        table = await request.json()
        if table:  # all but an empty one have it, so tests speak of the grants alone
            del table[direct_token(self.master)]
        self.tables.append(table)
        for socket, (token, role) in list(self.sockets.items()):
            if self.table.get(token, {}).get("role") != role:
                await socket.close(code=4002, message=b"Token revoked")
        return web.Response(text="OK")

    async def _status(self, _request: web.Request) -> web.Response:
        return web.json_response({"current_mode": self.mode, "enable_dual_mode": True})

    async def _switch(self, request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.table.get(token, {}).get("role") != "controller":
            return web.Response(status=401)
        self.mode = (await request.json())["mode"]
        return web.json_response({"status": "success"})

    async def _sessions(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"sessions": [{"role": role} for _, role in self.sockets.values()]}
        )

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        token = _token_of(request)
        if not token:
            return web.Response(status=401, text="Token missing in secure mode")
        socket = web.WebSocketResponse(protocols=("selkies",))
        await socket.prepare(request)
        await self.posted(1)
        if token not in self.table:
            await socket.close(code=4001, message=b"Invalid authentication token")
            return socket
        role = self.table[token]["role"]
        self.sockets[socket] = (token, role)
        await socket.send_str(f"AUTH_SUCCESS,{role}")
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT:
                    await socket.send_str(message.data if role == "controller" else "MK_ACCESS,0")
        finally:
            self.sockets.pop(socket, None)
        return socket

    async def _page(self, request: web.Request) -> web.Response:
        self.seen.append(request)
        if request.path in self.pages:
            text, headers = self.pages[request.path]
            return web.Response(text=text, headers=headers)
        # A desktop may say what it wants: also cookies named like ours, and our mark.
        return web.Response(
            text=f"desktop {request.path}",
            headers={"Set-Cookie": "__Host-vdi-desktop=evil; Path=/; Secure"},
        )


def _token_of(request: web.Request) -> str:
    offered = [
        part.strip() for part in request.headers.get("Sec-WebSocket-Protocol", "").split(",")
    ]
    carried = [
        one.removeprefix("selkies.token.") for one in offered if one.startswith("selkies.token.")
    ]
    if not carried:
        return request.query.get("token", "")
    return base64.urlsafe_b64decode(carried[0] + "=" * (-len(carried[0]) % 4)).decode()


@asynccontextmanager
async def run_selkies(master: str) -> AsyncIterator[FakeSelkies]:
    """One desktop on a loopback port."""
    desktop = FakeSelkies(master)
    app = web.Application()
    app.router.add_post("/api/tokens", desktop._take)
    app.router.add_get("/api/websockets", desktop._connect)
    app.router.add_get("/api/status", desktop._status)
    app.router.add_post("/api/switch", desktop._switch)
    app.router.add_get("/api/sessions", desktop._sessions)
    app.router.add_route("*", "/{path:.*}", desktop._page)
    async with serve_app(app) as port:
        desktop.url = f"http://127.0.0.1:{port}"
        yield desktop
