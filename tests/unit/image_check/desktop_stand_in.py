"""A desktop's ports without a desktop: Selkies 2 with its token table, the agent, and a kubectl that leads there."""

import base64
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from aiohttp import web
from aiohttp.hdrs import AUTHORIZATION

from support.web_server import serve_app
from unit.latency_probe.selkies_stream import Encoder
from vdi.session.selkies_tokens import subprotocols

MARK = {"x": 0, "y": 0, "size": 48, "width": 128, "height": 64, "flip": 11, "play": 12, "playSeconds": 0.5}
KUBECTL = """#!/bin/sh
for word in "$@"; do last=$word; done
port=$(cat "{folder}/port$last")
echo "Forwarding from 127.0.0.1:$port -> $last"
exec sleep 60
"""

USER = "kasm_user"


def basic_auth(user: str, password: str) -> str:
    """The header's value (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def is_of(token: str, digest: str) -> bool:
    """Whether the token has this digest."""
    return sha256(token.encode()).hexdigest() == digest


@dataclass
class StandIn:
    """One image, as far as requests show it."""

    master_digest: str = ""
    """SHA-256 of the master token of Selkies 2; empty: the image has a page of its own."""
    agent_digest: str = ""
    """SHA-256 of the agent's token; empty: nothing listens on its port."""
    password: str = ""
    """Basic auth on every path."""
    health_path: str = "/api/health"
    lets_in_all: bool = False
    is_silent: bool = False
    """No picture."""
    is_still: bool = False
    """The picture follows no key."""
    tokens: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Everything on the desktop's port."""
        self.requests.append(f"{request.method} {request.path}")
        if self.password and request.headers.get(AUTHORIZATION) != basic_auth(USER, self.password):
            return web.Response(status=401)
        if request.path == self.health_path:
            return web.Response(text="OK")
        if not self.master_digest:
            return web.Response(status=404)
        if request.path == "/api/websockets":
            return await self._stream(request)
        token = request.headers.get(AUTHORIZATION, "").removeprefix("Bearer ")
        if request.path == "/api/tokens":
            if not is_of(token, self.master_digest):
                return web.Response(status=403)
            self.tokens = set(await request.json())
            return web.json_response({})
        known = token in self.tokens or self.lets_in_all
        return web.json_response({"sessions": []}, status=200 if known else 401)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        offered = request.headers["Sec-WebSocket-Protocol"]
        if offered not in map(subprotocols, self.tokens):
            return web.Response(status=401)
        socket = web.WebSocketResponse(protocols=("selkies",))
        await socket.prepare(request)
        await socket.send_str("MODE websockets")
        encoder, number, grey = Encoder(), 1, 0
        async for message in socket:
            text = str(message.data)
            if text.startswith("SETTINGS,") and not self.is_silent:
                await socket.send_bytes(encoder.message(grey, number))
            if text == "kd,11":
                grey, number = grey if self.is_still else 255 - grey, number + 1
                await socket.send_bytes(encoder.message(grey, number))
        return socket

    async def agent(self, request: web.Request) -> web.Response:
        """Everything on the agent's port."""
        token = request.headers.get(AUTHORIZATION, "").removeprefix("Bearer ")
        if not is_of(token, self.agent_digest):
            return web.Response(status=401)
        return web.json_response(MARK if request.path == "/photon" else {"idleSeconds": 1.0})

    @asynccontextmanager
    async def serve(
        self, folder: Path, port: int, agent_port: int, certificate: tuple[Path, Path] | None = None
    ) -> AsyncIterator[list[str]]:
        """Serve it; the kubectl that forwards these ports of its pod to where it listens."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if tls and certificate:
            tls.load_cert_chain(*certificate)
        async with AsyncExitStack() as servers:
            for handler, number, context in ((self.page, port, tls), (self.agent, agent_port, None)):
                app = web.Application()
                app.router.add_route("*", "/{path:.*}", handler)
                there = await servers.enter_async_context(serve_app(app, tls=context))
                (folder / f"port:{number}").write_text(str(there))
            if not self.agent_digest:
                with socket.create_server(("127.0.0.1", 0)) as closed:  # kubectl's own port takes the connection
                    (folder / f"port:{agent_port}").write_text(str(closed.getsockname()[1]))
            kubectl = folder / "kubectl"
            kubectl.write_text(KUBECTL.format(folder=folder))
            kubectl.chmod(0o755)
            yield [str(kubectl)]
