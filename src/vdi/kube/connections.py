"""Connections to one server: opened when needed, straight or through a proxy, and kept for the next request."""

import asyncio
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from vdi.kube.http import BUFFER, Connection, HttpError, Response, url_host

CONNECT_SECONDS = 10.0
# A connection unused for longer is closed, which API servers do after 90: each takes memory while it is kept.
IDLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """The server, and the way there. Raises ValueError where the URL or the proxy's URL cannot be used."""

    url: str
    tls: ssl.SSLContext | None = None
    # Name to be found in the server's certificate, where it is not the URL's host.
    tls_name: str | None = None

    proxy: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server {self.url!r}: must be http://HOST or https://HOST")
        if self.proxy and (urlsplit(self.proxy).scheme != "http" or not urlsplit(self.proxy).hostname):
            raise ValueError(f"proxy {self.proxy!r}: only http://HOST:PORT is supported")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the server."""
        return _address(self.url)

    @property
    def prefix(self) -> str:
        """What stands before each path in a request line."""
        parts = urlsplit(self.url)
        plain_proxy = f"http://{parts.netloc}" if self.proxy and self.tls is None else ""
        return plain_proxy + parts.path.rstrip("/")

    async def connect(self, buffer: memoryview) -> Connection:
        """Open a connection that reads by way of `buffer`. Raises OSError, HttpError, TimeoutError."""
        loop = asyncio.get_running_loop()
        host, port = self.address
        connection = Connection(buffer)
        async with asyncio.timeout(CONNECT_SECONDS):
            try:
                if self.proxy is None:
                    name = (self.tls_name or host) if self.tls else None
                    await loop.create_connection(lambda: connection, host, port, ssl=self.tls, server_hostname=name)
                else:
                    await loop.create_connection(lambda: connection, *_address(self.proxy))
                    if self.tls:
                        await self._through_tunnel(connection, self.tls)
            except BaseException:
                # When the handshake has just ended, asyncio itself waits for the server's farewell, up to 30 s.
                connection.abort()
                raise
            return connection

    async def _through_tunnel(self, connection: Connection, tls: ssl.SSLContext) -> None:
        host, port = self.address
        there = f"{url_host(host)}:{port}"
        proxy = urlsplit(self.proxy or "")
        secret = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
        who = f"Proxy-Authorization: Basic {b64encode(secret).decode()}\r\n" if proxy.username else ""
        connection.send(f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n{who}\r\n".encode(), tunnel=True)
        response = await connection.response()
        if response.status != 200:
            raise HttpError(
                f"the proxy {proxy.hostname}:{proxy.port or 80} responds with {response.status} to CONNECT {there}"
            )
        loop = asyncio.get_running_loop()
        inner = await loop.start_tls(connection.transport, connection, tls, server_hostname=self.tls_name or host)
        if inner is None:
            raise HttpError("the connection was lost during the TLS handshake")
        connection.connection_made(inner)


class HttpClient:
    """One server: at most `limit` requests at a time on kept connections, and streams on connections of their own."""

    def __init__(self, target: Target, *, limit: int) -> None:
        self._target = target
        self._turns = _Turns(limit)
        # Not one each, and not the loop's: it would allocate 256 KiB for every piece of an answer that comes over TLS.
        self._buffer = memoryview(bytearray(BUFFER))
        self._idle: deque[Connection] = deque()  # the one used last at the end
        self._closer: asyncio.TimerHandle | None = None
        self._busy: set[Connection] = set()

    async def request(
        self, request: bytes, deadline: float, before_send: Callable[[], object] | None = None
    ) -> Response:
        """Send a request and read its answer whole.

        Raises OSError, HttpError, TimeoutError at `deadline` on the event loop's clock. `before_send` is called at the
        last moment, when there is a connection; what it raises is raised.
        """
        await self._turns.take(deadline)
        try:
            connection = self._kept() or await self._dial(deadline)
            self._busy.add(connection)
            try:
                if before_send is not None:
                    before_send()
                connection.send(request)
                response = await connection.response(deadline)
            except BaseException:
                connection.abort()
                raise
            finally:
                self._busy.discard(connection)
        finally:
            self._turns.give_back()
        if connection.reusable:
            self._keep(connection)
        else:
            connection.abort()
        return response

    @asynccontextmanager
    async def stream(self, request: bytes) -> AsyncIterator[Connection]:
        """Send a request on a connection of its own, from which its answer is read while the context lasts."""
        connection = await self._target.connect(self._buffer)
        self._busy.add(connection)
        try:
            connection.send(request)
            yield connection
        finally:
            self._busy.discard(connection)
            connection.abort()

    async def close(self) -> None:
        """Close all connections."""
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
        if self._closer is not None:
            self._closer.cancel()
        await asyncio.sleep(0)  # the transports learn that they are closed in the loop's next turn

    async def _dial(self, deadline: float) -> Connection:
        async with asyncio.timeout_at(deadline):
            return await self._target.connect(self._buffer)

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                return connection
        return None

    def _keep(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.last_used = loop.time()
        self._idle.append(connection)
        if self._closer is None:
            self._closer = loop.call_later(IDLE_SECONDS, self._close_unused)

    def _close_unused(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].last_used <= loop.time() - IDLE_SECONDS:
            self._idle.popleft().abort()
        due = self._idle[0].last_used + IDLE_SECONDS if self._idle else None
        self._closer = None if due is None else loop.call_at(due, self._close_unused)


class _Turns:
    """So many at a time, the others in the order in which they came, each until its deadline.

    asyncio's semaphore within its timeout takes four times as long, and in a crowd nearly every request waits here.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._queue: deque[asyncio.Future[None]] = deque()

    async def take(self, deadline: float) -> None:
        """Return when it is our turn; raises TimeoutError at `deadline` on the event loop's clock."""
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue.append(turn)
        timer = loop.call_at(deadline, _time_out, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                self.give_back()  # it was our turn already
            raise
        finally:
            timer.cancel()

    def give_back(self) -> None:
        """Whoever has waited longest may go."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _time_out(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())


async def ask_once(url: str, request: bytes, most: int) -> tuple[int, bytes]:
    """Send a request on a connection of its own; status and body of its answer, of which no more than `most` bytes.

    Raises OSError, HttpError, TimeoutError.
    """
    connection = await Target(url).connect(memoryview(bytearray(most)))
    try:
        connection.send(request)
        response = await connection.head()
        body = b""
        async for chunk in connection.chunks():
            body += chunk
            if len(body) >= most:
                break
        return response.status, body[:most]
    finally:
        connection.abort()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
