"""The way alone: what a WebSocket ping takes to the desktop's Selkies and back, with no picture,
encoder or browser.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from vdi.session.credentials import subprotocols

PAUSE_SECONDS = 0.01
LIMIT_SECONDS = 5.0
# Selkies refuses a connection, with this code, within half a second of another from the same
# address.
TRIES, TOO_SOON = 5, 4029
WARM_UP = 20


@dataclass(frozen=True)
class Socket:
    """A WebSocket that a browser had open, and where its host is."""

    way: str
    url: str
    address: str
    cookies: Mapping[str, str]


async def measure(sockets: Sequence[Socket], count: int) -> dict[str, list[float]]:
    """Milliseconds of `count` pings on each, in turns. Raises RuntimeError when one is closed,
    TimeoutError.
    """
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        opened = {socket.way: await _connect(http, socket) for socket in sockets}
        taken: dict[str, list[float]] = {way: [] for way in opened}
        for _ in range(WARM_UP + count):
            for way, connection in opened.items():
                taken[way].append(await _ping(way, connection))
                await asyncio.sleep(PAUSE_SECONDS)
        for connection in opened.values():
            await connection.close()
    return {way: milliseconds[WARM_UP:] for way, milliseconds in taken.items()}


async def _connect(http: aiohttp.ClientSession, socket: Socket) -> aiohttp.ClientWebSocketResponse:
    there = urlsplit(socket.url)
    scheme = "https" if there.scheme == "wss" else "http"
    headers = {"Host": there.netloc, "Origin": f"{scheme}://{there.netloc}"}
    if socket.cookies:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in socket.cookies.items())
    # By address: nothing but a browser resolves these names everywhere. Which token is offered does
    # not matter, ours is put in by the gateway, and plain Selkies asks for none.
    url = f"{there.scheme}://{socket.address}:{there.port}{there.path}{'?' + there.query if there.query else ''}"
    offered = subprotocols("none").split(", ")
    for _ in range(TRIES):
        connection = await http.ws_connect(
            url, headers=headers, protocols=offered, autoping=False, ssl=False
        )
        try:
            await _ping(socket.way, connection)
        except RuntimeError:
            if connection.close_code != TOO_SOON:
                raise
            await asyncio.sleep(1)
        else:
            break
    return connection


async def _ping(way: str, connection: aiohttp.ClientWebSocketResponse) -> float:
    begun = time.perf_counter()
    await connection.ping(b"vdi")
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            message = await connection.receive()
            if message.type is aiohttp.WSMsgType.PONG:
                return (time.perf_counter() - begun) * 1000
            if message.type is aiohttp.WSMsgType.PING:
                await connection.pong(message.data)
            elif message.type in (
                aiohttp.WSMsgType.CLOSE,
                aiohttp.WSMsgType.CLOSING,
                aiohttp.WSMsgType.CLOSED,
            ):
                raise RuntimeError(
                    f"{way}: the desktop closed the connection, code {connection.close_code}"
                )
