"""A way to the API server that counts what passes, and can cut the line at the n-th write. On
loopback, plain HTTP.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import aiohttp
from aiohttp import AddrInfoType, ClientConnectionResetError, web

from support.waiting import eventually
from support.web_server import serve_app
from vdi.kube.config import ClusterConfig
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HOP_BY_HOP = {
    "connection",
    "transfer-encoding",
    "content-length",
    "host",
    "keep-alive",
    "content-encoding",
}


@dataclass(frozen=True)
class Request:
    """One request that passed."""

    method: str
    path: str
    watch: bool
    body: bytes = b""

    @property
    def is_event(self) -> bool:
        """Events are counted apart: they are no one's budget."""
        return "/events.k8s.io/" in self.path

    @property
    def is_lease(self) -> bool:
        """So are the lease's renewals: they come by the clock, not by the work."""
        return "/coordination.k8s.io/" in self.path

    @property
    def is_release_key(self) -> bool:
        """So are the keys of the release, which are read once when an operator begins to lead."""
        return self.path.endswith((f"/secrets/{HOST_KEY}", f"/secrets/{DESKTOP_KEY}"))

    @property
    def is_write(self) -> bool:
        """A write that counts."""
        return self.method in WRITES and not self.is_event and not self.is_lease


class Proxy:
    """Passes requests on to the API server; `cut_at(n, ...)` makes it drop the line at the n-th
    write from then on.
    """

    def __init__(self, upstream: ClusterConfig) -> None:
        self.passed: list[Request] = []
        self.url = ""
        # Who the server is to take the caller for (impersonation); empty: the administrator.
        self.user = ""
        # Plurals of kinds that the server is to seem not to know.
        self.missing: set[str] = set()
        self.cut = asyncio.Event()
        # While it is not set, watches tell nothing.
        self.reported = asyncio.Event()
        self.reported.set()
        # What happens before the server sees a write.
        self.meanwhile: Callable[[Request], Awaitable[None]] | None = None
        self._upstream = upstream
        self._writes_left: int | None = None
        self._moment: Literal["before", "after"] = "before"

    def cut_at(self, write: int, moment: Literal["before", "after"]) -> None:
        """Lose the `write`-th write from now `before` the server sees it, or its answer `after` it
        was done.
        """
        self._writes_left, self._moment = write, moment

    def repair(self) -> None:
        """Let everything pass again."""
        self._writes_left = None
        self.cut.clear()

    def writes(self) -> list[Request]:
        """Writes that passed, Events and the lease left out."""
        return [one for one in self.passed if one.is_write]

    def reads(self) -> list[Request]:
        """Reads that are not watches. First lists are reads too: clear `passed` after the start."""
        gets = [one for one in self.passed if one.method == "GET" and not one.watch]
        return [one for one in gets if not one.is_lease and not one.is_release_key]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Proxy"]:
        """Listen while the context lasts."""
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._pass)
        sockets: list[socket.socket] = []

        def open_socket(address: AddrInfoType) -> socket.socket:
            sockets.append(socket.socket(*address[:3]))
            return sockets[-1]

        context = self._upstream.ssl_context() or True
        connector = aiohttp.TCPConnector(ssl=context, limit=0, socket_factory=open_socket)
        timeout = aiohttp.ClientTimeout(total=None)
        session = aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=timeout)
        try:
            async with session as self._session, serve_app(app) as port:
                self.url = f"http://127.0.0.1:{port}"
                yield self
        finally:
            await _hang_up_upstream(sockets)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        seen = Request(request.method, request.path, request.query.get("watch") == "true", body)
        if self.cut.is_set():
            raise _hang_up(request)
        drop_answer = False
        if seen.is_write and self._writes_left is not None:
            self._writes_left -= 1
            if self._writes_left == 0:
                if self._moment == "before":
                    self.cut.set()
                    raise _hang_up(request)
                drop_answer = True
        if seen.method in WRITES and self.meanwhile is not None:
            await self.meanwhile(seen)
        self.passed.append(seen)
        if any(f"/{plural}" in seen.path for plural in self.missing):
            return web.Response(status=404, text="404 page not found\n")
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        if self.user:
            headers["Impersonate-User"] = self.user
        url = f"{self._upstream.server}{request.raw_path}"
        async with self._session.request(
            request.method, url, data=body or None, headers=headers
        ) as answer:
            if drop_answer:
                await answer.read()
                self.cut.set()
                raise _hang_up(request)
            response = web.StreamResponse(status=answer.status)
            response.headers.update(
                {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            )
            # The client has gone: no one is left to tell.
            with suppress(ClientConnectionResetError):
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    if self.cut.is_set():
                        raise _hang_up(request)
                    if seen.watch:
                        await self.reported.wait()
                    await response.write(chunk)
                await response.write_eof()
            return response


async def _hang_up_upstream(sockets: list[socket.socket]) -> None:
    """Return when all are closed.

    aiohttp leaves the connection of an answer that is not read to its end to asyncio, which waits
    for the server's farewell. Open when the test's loop is closed, it would fail whatever test is
    running when it is collected.
    """
    for one in sockets:
        with suppress(OSError):  # closed, or never connected
            one.shutdown(socket.SHUT_RDWR)
    await eventually(
        lambda: all(one.fileno() < 0 for one in sockets),
        "the connections to the API server are closed",
    )


def _hang_up(request: web.Request) -> Exception:
    """Close the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return asyncio.CancelledError()  # type: ignore[return-value]
