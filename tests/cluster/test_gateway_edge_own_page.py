"""The edge behind a real Traefik before images that serve a page of their own.

A stand-in for KasmVNC as it comes (TLS with a certificate of its own, basic auth on every path,
WebSocket subprotocol `binary`), made after its documentation: no image of it was to be had.
"""

import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from cluster.edge_traefik import TraefikStage, open_edge
from cluster.test_cli_session import untrusted_tls
from cluster.test_gateway_edge import PROGRAM
from support.waiting import eventually
from support.web_server import serve_app
from unit.gateway.edge_stage import OWNER
from vdi.api.meta import ObjectMeta
from vdi.api.template import LocalObjectReference, Protocol, Scheme, TemplateSpec, VDITemplate

BASIC = "Basic " + base64.b64encode(b"kasm_user:of-the-image").decode()


@dataclass
class KasmVNC:
    """The stand-in."""

    url: str = ""
    seen: list[web.Request] = field(default_factory=list)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Every path."""
        self.seen.append(request)
        if request.headers.get("Authorization") != BASIC:
            return web.Response(
                status=401, headers={"WWW-Authenticate": 'Basic realm="Websockify"'}
            )
        if "Sec-WebSocket-Key" not in request.headers:
            return web.Response(text="<title>KasmVNC</title>", content_type="text/html")
        socket = web.WebSocketResponse(protocols=("binary",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(b"RFB " + message.data)
        return socket


@asynccontextmanager
async def run_kasmvnc(tls: ssl.SSLContext) -> AsyncIterator[KasmVNC]:
    image = KasmVNC()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", image.serve)
    async with serve_app(app, tls=tls) as port:
        image.url = f"https://127.0.0.1:{port}"
        yield image


@pytest.fixture
async def image(tmp_path: Path) -> AsyncIterator[KasmVNC]:
    async with run_kasmvnc(untrusted_tls(tmp_path)) as image:
        yield image


@pytest.fixture
async def edge(traefik: Path, tmp_path: Path, image: KasmVNC) -> AsyncIterator[TraefikStage]:
    folder = tmp_path / "edge"
    folder.mkdir()
    async with open_edge(traefik, folder) as edge:
        spec = TemplateSpec(
            image="kasmweb/chrome:1",
            protocol=Protocol.WEB,
            scheme=Scheme.HTTPS,
            port=6901,
            basic_auth_secret=LocalObjectReference("kasmvnc"),
        )
        edge.stage.world.templates.observe(
            VDITemplate(ObjectMeta(name="office", resource_version="5"), spec)
        )
        edge.stage.cluster.put_secret("kasmvnc", username="kasm_user", password="of-the-image")
        edge.web = image.url
        edge.write_routes("alice-desktop")
        async with await edge.browser(OWNER) as browser:

            async def answers() -> bool:
                async with browser.get(edge.url()) as answer:
                    return "KasmVNC" in await answer.text()

            await eventually(answers, "Traefik has the route to the image")
        image.seen.clear()
        yield edge


@pytest.fixture
async def alice(edge: TraefikStage) -> AsyncIterator[aiohttp.ClientSession]:
    async with await edge.browser(OWNER) as browser:
        async with browser.get(edge.url()) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.url.query_string == "", "the address is the image's own"
        yield browser


async def test_the_browser_never_has_the_images_password(
    edge: TraefikStage, image: KasmVNC, alice: aiohttp.ClientSession
) -> None:
    own = {**PROGRAM, "Authorization": "Basic bWFsbG9yeTp4", "Selkies-Authorization": "Bearer m"}
    async with alice.get(edge.url(path="/vnc.html"), headers=own) as answer:
        assert answer.status == 200
        assert BASIC not in str(answer.headers) and "of-the-image" not in await answer.text()
    seen = image.seen[-1].headers
    assert seen["Authorization"] == BASIC, "in place of what the browser sent"
    assert "Selkies-Authorization" not in seen and "__Host-vdi" not in str(seen)


async def test_a_websocket_keeps_its_own_subprotocol(
    edge: TraefikStage, image: KasmVNC, alice: aiohttp.ClientSession
) -> None:
    origin = {**PROGRAM, "Origin": edge.url(path="")}
    socket = await alice.ws_connect(
        edge.url(path="/websockify"), protocols=("binary",), headers=origin
    )
    assert socket.protocol == "binary"
    await socket.send_bytes(b"003.008")
    assert await socket.receive_bytes() == b"RFB 003.008"
    await socket.close()
    assert image.seen[-1].headers["Sec-WebSocket-Protocol"] == "binary"
