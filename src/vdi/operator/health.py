"""The operator's HTTP server with /healthz, /readyz and /metrics. Ready means that its caches are
up to date.

Pages are rendered from memory. A web framework for three pages was measured to cost 11 MiB and half
a second at start.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from typing import cast

from prometheus_client import generate_latest

from vdi.kube.clock import Clock
from vdi.kube.lease import Elector
from vdi.operator.caches import Caches
from vdi.operator.metrics import Metrics
from vdi.operator.release_keys import ReleaseKey
from vdi.process import CHALLENGE, MetricsToken

# Renders a response (status, content type, body) to a request with this Authorization header, ""
# without one.
Page = Callable[[str], tuple[int, str, bytes]]

TEXT = "text/plain; charset=utf-8"
# Seconds for a client to send its whole request.
REQUEST_TIMEOUT = 5.0

# Bytes of a request's head; no body is expected.
LONGEST_REQUEST = 16 * 1024
# Turns of asyncio's loop between the acceptance of a connection and its `connection_made`, and one
# more.
_ACCEPT_TURNS = 4
# Seconds without data from the API server after which a cache counts as stale; a silent watch is
# reopened after 90.
STALE = 150.0


@asynccontextmanager
async def serve_pages(pages: Mapping[str, Page], host: str, port: int) -> AsyncIterator[int]:
    """Serve while the context lasts, on a free port when `port` is 0; yields the port. Raises
    OSError.

    Open connections are cut when the context ends.
    """
    loop = asyncio.get_running_loop()
    connections: set[_Connection] = set()
    server = await loop.create_server(lambda: _Connection(pages, connections), host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        # asyncio (3.11) leaks a connection that was accepted just before `close`, as it is made in
        # a later turn.
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
        for _ in range(_ACCEPT_TURNS):
            await asyncio.sleep(0)
        server.close()
        for connection in list(connections):
            connection.cut()
        await asyncio.sleep(0)  # the transports learn that they are closed in the loop's next turn


class _Connection(asyncio.Protocol):
    """One connection with one request and its response."""

    def __init__(self, pages: Mapping[str, Page], connections: "set[_Connection]") -> None:
        self._pages = pages
        self._connections = connections
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._timeout = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT, self.cut)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        self._timeout.cancel()
        self._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._request += data
        if b"\r\n\r\n" in self._request:
            self._answer()
        elif len(self._request) > LONGEST_REQUEST:
            self._send(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, TEXT, b"the request is too long\n"
            )

    def cut(self) -> None:
        self._transport.abort()

    def _answer(self) -> None:
        first, *headers = self._request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
        method, _, rest = first.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        page = self._pages.get(path)
        if page is None:
            self._send(HTTPStatus.NOT_FOUND, TEXT, f"there are: {' '.join(self._pages)}\n".encode())
        elif method not in ("GET", "HEAD"):
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"allowed: GET and HEAD\n")
        else:
            self._send(*page(_authorization(headers)), with_body=method == "GET")

    def _send(self, status: int, kind: str, body: bytes, *, with_body: bool = True) -> None:
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        )
        if status == HTTPStatus.UNAUTHORIZED:
            head += f"WWW-Authenticate: {CHALLENGE}\r\n"
        self._transport.write(f"{head}\r\n".encode() + (body if with_body else b""))
        self._transport.close()


def _authorization(headers: list[str]) -> str:
    given = (
        line.partition(":")[2].strip()
        for line in headers
        if line.lower().startswith("authorization:")
    )
    return next(given, "")


class Health:
    """Pages for probes and Prometheus."""

    def __init__(self, metrics: Metrics, clock: Clock, token: MetricsToken) -> None:
        self._metrics = metrics
        self._token = token
        self._clock = clock
        self._caches: Caches | None = None
        self._elector: Elector | None = None
        self._keys: Sequence[ReleaseKey] = ()

    def watch(self, caches: Caches, elector: Elector, keys: Sequence[ReleaseKey]) -> None:
        """Report the state of these from now on."""
        self._caches, self._elector, self._keys = caches, elector, keys

    def troubles(self) -> Iterator[str]:
        """Reasons why the operator is not ready, one line each. A standby that could take over at
        once is ready.
        """
        if self._caches is None or self._elector is None:
            yield "the operator has not started yet"
            return
        yield from self._caches.troubles()
        for reflector in self._caches.reflectors:
            contact = reflector.last_contact
            if contact is not None and (silence := self._clock.monotonic() - contact) > STALE:
                yield (
                    f"{reflector.resource.plural}: no message from the API server for"
                    f" {silence:.0f} s"
                )
        if self._elector.last_error is not None:
            yield f"leases: {self._elector.last_error}"
        yield from (f"keys: {key.problem}" for key in self._keys if key.problem)

    def serve(self, host: str, port: int) -> AbstractAsyncContextManager[int]:
        """Serve while the context lasts; see `serve_pages`."""
        pages = {"/healthz": self._alive, "/readyz": self._ready, "/metrics": self._scrape}
        return serve_pages(pages, host, port)

    def _alive(self, _authorization: str) -> tuple[int, str, bytes]:
        # The response proves that the event loop turns. A task that fails ends the process.
        return 200, TEXT, b"ok\n"

    def _ready(self, _authorization: str) -> tuple[int, str, bytes]:
        troubles = list(self.troubles())
        return 503 if troubles else 200, TEXT, ("\n".join(troubles or ["ok"]) + "\n").encode()

    def _scrape(self, authorization: str) -> tuple[int, str, bytes]:
        if refused := self._token.refusal(authorization):
            status, sentence = refused
            return status, TEXT, f"{sentence}\n".encode()
        return (
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            generate_latest(self._metrics.registry),
        )
