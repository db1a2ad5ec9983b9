"""HTTP/1.1 as API servers speak it: one request at a time on a connection, responses whole or
streamed.

Own code, because a general HTTP library was measured to cost the operator a third of its CPU time
and 13 MiB of memory. It leaves out what no API server does: redirects, cookies, compression,
pipelining, HTTP/2. https://www.rfc-editor.org/rfc/rfc9112
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

# Bytes that are read at a time.
BUFFER = 2**16

# Bytes of a stream that wait to be read, from which on the server is kept waiting.
BUFFERED = 2**20
_LONGEST_HEAD = 2**16
# Bytes of informational answers and of the trailer, of which nothing is kept: a server could send
# them without end.
_MOST_SKIPPED = 2**16
# Bytes of an answer that is read whole: a page has 200 objects, of which etcd takes 1.5 MiB each.
_LARGEST_BODY = 2**29


class HttpError(Exception):
    """Raised when a connection broke, or what came over it is not HTTP."""


def url_host(host: str) -> str:
    """A host as URLs and Host fields have it: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


@dataclass(slots=True)
class Response:
    """Status and header of an answer, and its body unless it is streamed."""

    status: int
    head: bytes
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The value of a header field; None when it is not there."""
        value = _field(self.head.lower(), b"\r\n" + name.lower().encode() + b":", self.head)
        if value is None:
            return None
        return value.decode("latin-1")


class Connection(asyncio.BufferedProtocol):
    """One connection. `send`, then either `response` (whole), or `head` and `chunks`."""

    def __init__(self, buffer: memoryview) -> None:
        self.transport: Any = None
        self._buffer = buffer
        self.lost = False
        self.last_used = 0.0
        self._why_lost: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._rest = b""  # of a head, or of a line between chunks, that is not complete yet
        # a plain function: a bound method is a reference cycle, which only the garbage collector
        # can free
        self._read: Callable[[Connection, bytes, int], int] = Connection._stray
        self._tunnel = False
        self._left = 0
        # Of the body, as the head announces it; None: its end is not known yet.
        self.length: int | None = None
        self._skipped = 0
        self._response: Response | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0  # bytes in `_pieces`
        self._ended = True
        self._keep = True
        self._whole = True
        self._to_the_end = False  # the reader needs it whole
        self._paused = False

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: the last answer is complete, and both sides keep the
        connection.
        """
        return self._ended and self._keep and not self.lost

    def send(self, request: bytes, *, tunnel: bool = False) -> None:
        self._read = Connection._read_head
        self._whole = True
        self._to_the_end = False
        self._tunnel = tunnel
        self._skipped = 0
        self._response = None
        self._ended = False
        self.transport.write(request)

    async def head(self) -> Response:
        """Status and header of the answer. Raises HttpError, OSError."""
        while self._response is None:
            await self._news()
        return self._response

    async def response(self, deadline: float | None = None) -> Response:
        """The answer with its whole body.

        Raises HttpError, OSError, TimeoutError at `deadline` on the event loop's clock.
        """
        self._whole = self._to_the_end = True
        self._resume()
        while not self._ended:
            await self._news(deadline)
        response, self._response = self._response, None  # a page of a list has megabytes
        assert response is not None  # noqa: S101 - an end without a beginning is raised by `_news`
        response.body = self._take()
        return response

    def pause(self) -> None:
        """Keep the server waiting until `response` or `chunks` reads on."""
        if not (self.lost or self._ended or self._paused):
            self._paused = True
            self.transport.pause_reading()

    async def chunks(self, patience: float | None = None) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises HttpError, OSError when it is cut short, TimeoutError when nothing came for
        `patience` seconds.
        """
        self._whole = False
        while True:
            if self._pieces:
                yield self._take()
                self._resume()
            elif self._paused and not self.lost:
                self._resume()
            elif self._ended:
                return
            else:
                await self._news(
                    None if patience is None else asyncio.get_running_loop().time() + patience
                )

    def abort(self) -> None:
        """Close at once. A polite TLS goodbye would outlive the client."""
        if self.transport is not None:
            self.transport.abort()

    def _take(self) -> bytes:
        if len(self._pieces) == 1:
            body = self._pieces[0]
        else:
            body = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        return body

    def _resume(self) -> None:
        if self._paused and not self.lost:
            self._paused = False
            self.transport.resume_reading()

    async def _news(self, deadline: float | None = None) -> None:
        if self.lost:
            raise self._why_lost or HttpError("the server closed the connection")
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        # A timer of its own: `asyncio.timeout` costs three times as much, and this is done for each
        # request and event.
        if deadline is None:
            timer = None
        else:
            timer = loop.call_at(deadline, self._give_up)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _give_up(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's name
        """The buffer for incoming bytes; `buffer_updated` empties it at once, so all connections
        can share it.
        """
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        if self._rest:
            data = self._rest + data
            self._rest = b""
        try:
            at = 0
            while at < len(data):
                at = self._read(self, data, at)
        except (HttpError, ValueError) as error:
            self._why_lost = HttpError(f"the response is not HTTP: {error}")
            self.transport.abort()
            return
        if self._waiting > BUFFERED:
            if not self._whole and not self._paused:
                self._paused = True
                self.transport.pause_reading()
            elif self._waiting > _LARGEST_BODY:
                self._why_lost = HttpError(f"the response is larger than {_LARGEST_BODY} bytes")
                self.transport.abort()
                return
        if self._ended or not self._to_the_end:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing more will come; an answer without a length ends thereby."""
        self.lost = True
        self._why_lost = self._why_lost or error
        if self._read == Connection._read_all and error is None:
            self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the parts of an answer: each reads from `at` on and gives where it stopped

    def _stray(self, data: bytes, at: int) -> int:
        raise HttpError(f"{data[at : at + 40]!r} without a request")

    def _read_head(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            return self._keep_for_later(data, at)
        head = data[at:end]
        if not head.startswith(b"HTTP/1."):
            raise HttpError(f"{head[:40]!r} is not a status line")
        status = _number(head[9:12])
        if status >= 200:
            self._response = Response(status, head)
            self._expect_body(status, head.lower())
        else:
            self._skip(end + 4 - at, "informational responses")
        return end + 4

    def _expect_body(self, status: int, head: bytes) -> None:
        self._keep = b"\r\nconnection: close" not in head and not head.startswith(b"http/1.0")
        length = _field(head, b"\r\ncontent-length:", head)
        self.length = 0
        if self._tunnel or status in (204, 304):
            self._finish()
        elif b"\r\ntransfer-encoding: chunked" in head:
            self.length = None
            self._read = Connection._read_size
        elif length is None:
            self.length = None
            self._keep = False
            self._read = Connection._read_all
        elif left := _number(length):
            self._left = self.length = left
            self._read = Connection._read_sized
        else:
            self._finish()

    def _read_sized(self, data: bytes, at: int) -> int:
        at = self._read_piece(data, at)
        if not self._left:
            self._finish()
        return at

    def _read_all(self, data: bytes, at: int) -> int:
        self._left = len(data)
        return self._read_piece(data, at)

    def _read_size(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return self._keep_for_later(data, at)
        self._left = _number(data[at:end].partition(b";")[0].strip(), 16)
        if self._left:
            self._read = Connection._read_chunk
        else:
            self._read = Connection._read_trailer
        return end + 2

    def _read_chunk(self, data: bytes, at: int) -> int:
        if self._left:
            return self._read_piece(data, at)
        if len(data) - at < 2:
            return self._keep_for_later(data, at)
        if data[at : at + 2] != b"\r\n":
            raise HttpError(f"{data[at : at + 2]!r} after a chunk")
        self._read = Connection._read_size
        return at + 2

    def _read_trailer(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at)
        if end < 0:
            return self._keep_for_later(data, at)
        if end == at:
            self._finish()
        else:
            self._skip(end + 2 - at, "trailer")
        return end + 2

    def _skip(self, nbytes: int, part: str) -> None:
        self._skipped += nbytes
        if self._skipped > _MOST_SKIPPED:
            raise HttpError(f"more than {_MOST_SKIPPED} bytes of {part}")

    def _read_piece(self, data: bytes, at: int) -> int:
        end = min(len(data), at + self._left)
        self._pieces.append(data[at:end] if end - at < len(data) else data)
        self._left -= end - at
        self._waiting += end - at
        return end

    def _keep_for_later(self, data: bytes, at: int) -> int:
        if len(data) - at > _LONGEST_HEAD:
            raise HttpError(f"{data[at : at + 40]!r} without an end")
        self._rest = data[at:]
        return len(data)

    def _finish(self) -> None:
        self._ended = True
        self._read = Connection._stray


def _number(digits: bytes, base: int = 10) -> int:
    if not digits.isalnum():  # int() takes a sign, and a length below zero would be read for ever
        raise HttpError(f"{digits[:40]!r} is not a number")
    return int(digits, base)


def _field(lowered: bytes, name: bytes, head: bytes) -> bytes | None:
    """The value of a header field: `name` is looked for in `lowered`, the value taken from
    `head`.
    """
    at = lowered.find(name)
    if at < 0:
        return None
    at += len(name)
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else len(head)].strip()
