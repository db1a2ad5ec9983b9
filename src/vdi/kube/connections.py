"""Connections to one HTTP server: opened when needed, directly or through a proxy, and kept for the
next request.
"""

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
# A connection that is unused for longer is closed: each costs memory. API servers close it after
# 90.
IDLE_SECONDS = 60.0
# Of all connections of `request_once`: a connection empties it at once.
_BUFFER = memoryview(bytearray(BUFFER))


@dataclass(frozen=True, slots=True)
class Target:
    """Address of a server, with TLS and proxy. Raises ValueError where the URL or the proxy's
    cannot be used.
    """

    url: str
    tls: ssl.SSLContext | None = None
    # Name in the server's certificate, where it is not the URL's host.
    tls_name: str | None = None
    proxy: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"server {self.url!r}: must be http://HOST or https://HOST")
        if self.proxy and (
            urlsplit(self.proxy).scheme != "http" or not urlsplit(self.proxy).hostname
        ):
            raise ValueError(f"proxy {self.proxy!r}: only http://HOST:PORT is supported")

    @property
    def address(self) -> tuple[str, int]:
        return _address(self.url)

    @property
    def prefix(self) -> str:
        """The part of a request line before each path."""
        parts = urlsplit(self.url)
        plain_proxy = ""
        if self.proxy and self.tls is None:
            plain_proxy = f"http://{parts.netloc}"
        return plain_proxy + parts.path.rstrip("/")

    async def connect(self, buffer: memoryview) -> Connection:
        """Open a connection that reads through `buffer`. Raises OSError, HttpError,
        TimeoutError.
        """
        loop = asyncio.get_running_loop()
        host, port = self.address
        connection = Connection(buffer)
        async with asyncio.timeout(CONNECT_SECONDS):
            try:
                if self.proxy is None:
                    name = (self.tls_name or host) if self.tls else None
                    await loop.create_connection(
                        lambda: connection, host, port, ssl=self.tls, server_hostname=name
                    )
                else:
                    await loop.create_connection(lambda: connection, *_address(self.proxy))
                    if self.tls:
                        await self._through_tunnel(connection, self.tls)
            except BaseException:
                # When the handshake has just ended, asyncio itself would wait for the server's
                # close_notify, up to 30 s.
                connection.abort()
                raise
            return connection

    async def _through_tunnel(self, connection: Connection, tls: ssl.SSLContext) -> None:
        host, port = self.address
        there = f"{url_host(host)}:{port}"
        proxy = urlsplit(self.proxy or "")
        secret = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
        who = ""
        if proxy.username:
            who = f"Proxy-Authorization: Basic {b64encode(secret).decode()}\r\n"
        connection.send(
            f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n{who}\r\n".encode(), tunnel=True
        )
        response = await connection.response()
        if response.status != 200:
            raise HttpError(
                f"the proxy {proxy.hostname}:{proxy.port or 80} responds with {response.status} to"
                f" CONNECT {there}"
            )
        loop = asyncio.get_running_loop()
        inner = await loop.start_tls(
            connection.transport, connection, tls, server_hostname=self.tls_name or host
        )
        if inner is None:
            raise HttpError("the connection was lost during the TLS handshake")
        connection.connection_made(inner)


class HttpClient:
    """One server: at most `limit` requests at a time on kept connections, and streams on
    connections of their own.
    """

    def __init__(self, target: Target, *, limit: int) -> None:
        self._target = target
        self._turns = _Turns(limit)
        # One for all connections. Without it the loop would allocate 256 KiB for each piece of a
        # response over TLS.
        self._buffer = memoryview(bytearray(BUFFER))
        self._idle: deque[Connection] = deque()  # the most recently used at the end
        self._closer: asyncio.TimerHandle | None = None
        self._busy: set[Connection] = set()

    async def request(
        self, request: bytes, deadline: float, before_send: Callable[[], object] | None = None
    ) -> Response:
        """Send a request and read its whole response.

        Raises OSError, HttpError, TimeoutError at `deadline` on the event loop's clock.
        `before_send` is called at the last moment, when there is a connection; what it raises is
        raised.
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
        """Send a request on a connection of its own; its response is read from that while the
        context lasts.
        """
        connection = await self._target.connect(self._buffer)
        self._busy.add(connection)
        try:
            connection.send(request)
            yield connection
        finally:
            self._busy.discard(connection)
            connection.abort()

    async def close(self) -> None:
        """Close all connections, those in use included."""
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
        if due is None:
            self._closer = None
        else:
            self._closer = loop.call_at(due, self._close_unused)


class _Turns:
    """A semaphore with deadlines, first come first served.

    asyncio's within its timeout takes four times as long, and in a burst nearly every request waits
    here.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._queue: deque[asyncio.Future[None]] = deque()

    async def take(self, deadline: float) -> None:
        """Take a place; raises TimeoutError at `deadline` on the event loop's clock."""
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
                self.give_back()  # the place was ours already
            raise
        finally:
            timer.cancel()

    def give_back(self) -> None:
        """Free a place, for the task that has waited longest."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


def _time_out(turn: "asyncio.Future[None]") -> None:
    if not turn.done():
        turn.set_exception(TimeoutError())


class AnswerError(Exception):
    """Raised for an answer that is missing or not as expected; the message is a sentence about the
    peer.
    """


@asynccontextmanager
async def request_once(
    method: str, url: str, *, bearer: str, body: bytes = b""
) -> AsyncIterator[tuple[Response, Connection]]:
    """Send one request with a bearer token on a connection of its own; redirects are not followed.

    Yields the head of the response, and the connection, from which no more than a buffer is read
    until the caller reads the body. Raises HttpError, OSError, TimeoutError.
    """
    parts = urlsplit(url)
    path = parts._replace(scheme="", netloc="").geturl() or "/"
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Connection: close",
        f"Authorization: Bearer {bearer}",
    ]
    if method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    if not all(line.isascii() and line.isprintable() for line in lines):
        raise HttpError("the token or address has characters that are not allowed in a request")
    try:
        target = Target(url)
    except ValueError as error:
        raise HttpError(str(error)) from error
    connection = await target.connect(_BUFFER)
    try:
        connection.send("\r\n".join([*lines, "\r\n"]).encode() + body)
        response = await connection.head()
        connection.pause()
        yield response, connection
    finally:
        connection.abort()


async def ask_once(
    peer: str,
    method: str,
    url: str,
    *,
    bearer: str,
    body: bytes = b"",
    expected: int = 200,
    most: int,
    seconds: float,
) -> bytes:
    """`request_once`, whole within `seconds`.

    Returns no more than `most` bytes of the body. Raises AnswerError, whose sentence begins with
    `peer`.
    """
    received = b""
    try:
        async with (
            asyncio.timeout(seconds),
            request_once(method, url, bearer=bearer, body=body) as (response, connection),
        ):
            async for chunk in connection.chunks():
                received += chunk
                if len(received) >= most:
                    break
    except (HttpError, TimeoutError, OSError) as error:
        raise AnswerError(
            f"{peer} does not respond ({str(error) or type(error).__name__})"
        ) from error
    if response.status != expected:
        raise AnswerError(
            f"{peer} responds with {response.status}"
            f" ({received[:200].decode(errors='replace').strip()})"
        )
    return received[:most]


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
