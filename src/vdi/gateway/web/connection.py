"""uvicorn's HTTP/1.1 protocol with limits that uvicorn lacks: bytes and time of heads, bodies and
unread responses.

uvicorn's options limit connections and the time between two requests. Traefik's timeouts are the
cluster's to set, and limit its own clients: not a pod that connects here directly, and not a
browser that reads no response. The size of one body is limited in `middleware`.
`vdi.gateway.memory_budget` adds up all limits.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vdi.gateway.web.middleware import STREAMED

HEAD_SECONDS = 10.0
# Traefik's own limit is 1 MiB; cookies of ours and the longest URL that browsers send are a quarter
# of this.
HEAD_BYTES = 32 * 1024
# Browsers and Traefik send about 30. Each is three objects: as short ones, a head of 32 KiB would
# take 400 KiB.
HEADERS = 100

# Bytes of a request that every connection may hold beside the budget: what people send is smaller,
# and so goes through while others use up the budget.
FREE_BYTES = 4 * 1024
# Bytes of a response that every connection may hold until the browser reads them, beside that
# budget.
UNREAD_BYTES = 4 * 1024

# How long the rest of a request that is too large is read and dropped. Closing a socket with unread
# bytes resets the connection, and the client may lose the response that was sent before: Traefik
# then answers 502.
LINGER_SECONDS = 2.0
# How long a response's bytes may wait for a browser that reads none.
WRITE_SECONDS = 30.0

_BAD = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length:"
    b" 0\r\n\r\n"
)
# Any desktop may set cookies for the whole domain. Without Clear-Site-Data the portal would be out
# of reach until they expire, in up to 400 days. The browser loses its login with them; as many
# small cookies could have removed it, too.
_TOO_MANY_COOKIES = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type:"
    b" text/plain; charset=utf-8\r\ncache-control: no-store\r\nclear-site-data:"
    b' "cookies"\r\ncontent-length: 148\r\n\r\nYour browser has too many cookies for this domain: a'
    b" desktop that you opened set them. Open the portal, which deletes them all, then sign in"
    b" again.\n"
)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-type:"
    b" text/plain\r\ncontent-length: 74\r\n\r\nThe gateway is receiving too many large requests."
    b" Try again in a moment.\r\n"
)


class ByteBudget:
    """Bytes that all connections of a listener may hold together."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, more: int) -> bool:
        """Whether `more` bytes were left, which are then taken; a negative number gives back."""
        if more > max(self.left, 0):
            return False
        self.left -= more
        return True


class _StopParsingError(Exception):
    """Raised in the parser's callbacks: it parses no further byte of what has arrived."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self.answer = answer


class Connection(HttpToolsProtocol):
    """One connection of a client.

    `received` and `unread` are the budgets of requests and responses; `is_refused` says which peers
    are turned away.
    """

    def __init__(
        self,
        *args: Any,
        received: ByteBudget,
        unread: ByteBudget,
        is_refused: Callable[[str], bool],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._received_budget = received
        self._unread_budget = unread
        self._is_refused = is_refused
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        # The head as far as it has arrived, at most one byte more than allowed.
        self._head = bytearray()
        self._head_size = 0
        # Bytes of the request that are in memory, and of the response.
        self._received = 0
        self._unread = 0
        self._in_head = True
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head, unless the connection is turned away."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(UNREAD_BYTES)
        # uvicorn refuses requests beyond its limit, not the connections on which none has arrived.
        is_full = len(self.connections) > (self.limit_concurrency or len(self.connections))
        if is_full or (self.client is not None and self._is_refused(self.client[0])):
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, which must not outlive the connection, and give back its bytes."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._hold(0)
        self._unread_budget.take(-self._unread)
        self._unread = 0
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived. The parser gets one byte more than a head may have, and no more:
        it keeps them.
        """
        room = HEAD_BYTES + 1 - len(self._head)
        if self._in_head and len(data) > room:
            self._parse(data[:room])
            data = data[room:]
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        if self._in_head:
            if self.cycle is not None:
                self._refuse(_BAD)  # before the last request is answered
                return
            self._head += data
            if self._head_timer is None:
                self._await_head()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # WebSockets of desktops that no longer exist arrive all the time, and get a normal
            # response.
            pass
        except httptools.HttpParserError as error:
            why = error.__context__
            if isinstance(why, _StopParsingError):
                self._refuse(why.answer, LINGER_SECONDS)
            else:
                self._refuse(_BAD)
        if self._refused or self.cycle is not None:
            return
        if len(self._head) > HEAD_BYTES:
            self._refuse(self._too_large(), LINGER_SECONDS)
        elif not self._hold(2 * len(self._head)):  # the parser has its part, too
            self._refuse(_BUSY, LINGER_SECONDS)

    def on_message_begin(self) -> None:
        """Take no request before the last one is answered: Traefik sends none, and each would be
        held.
        """
        if self.cycle is not None:
            raise _StopParsingError(_BAD)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(self.headers) >= HEADERS:
            raise _StopParsingError(self._too_large())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        fields = sum(len(name) + len(value) for name, value in self.headers)
        self._head_size = len(self.url) + fields
        if self._head_size > HEAD_BYTES:
            raise _StopParsingError(self._too_large())
        if not self._hold(self._head_size):
            raise _StopParsingError(_BUSY)
        self._in_head = False
        self._head.clear()
        self._cancel_head_timer()
        super().on_headers_complete()
        self.headers = []  # the request's scope has them, and lets go of them while it waits
        # Traefik keeps a connection also while its own client does not read the response. When half
        # of all are taken, such ones must not take the rest.
        if len(self.connections) > (self.limit_concurrency or 0) // 2:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Reserve a piece's bytes before it is kept. What a route has passed on already is not held
        any more.
        """
        held = self._received
        if self.scope.get(STREAMED):
            held = self._head_size + len(self.cycle.body)
        if not self._hold(held + len(body)):
            raise _StopParsingError(_BUSY)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The bytes that follow belong to the next head."""
        self._in_head = True
        self._head.clear()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Close a connection that was answered before its body was complete (a refusal), without
        waiting for it.
        """
        super().on_response_complete()
        self._hold(0)
        if self.cycle.more_body:
            self.transport.close()
        else:
            # A connection is idle for minutes: it keeps nothing of its last request.
            self.cycle = self.scope = self.headers = None  # type: ignore[assignment]
            self.url = b""

    def pause_writing(self) -> None:
        """The browser does not read: give up after WRITE_SECONDS, or at once if too many do not."""
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        if not self._unread_budget.take(self._unread):
            self._unread = 0
            self.transport.abort()
            return
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread_budget.take(-self._unread)
        self._unread = 0
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _hold(self, size: int) -> bool:
        """Whether the budget allows this connection to hold `size` bytes of a request; it then
        does.
        """
        more = max(0, size - FREE_BYTES) - max(0, self._received - FREE_BYTES)
        if not self._received_budget.take(more):
            return False
        self._received = size
        return True

    def _too_large(self) -> bytes:
        if self._is_mostly_cookies():
            return _TOO_MANY_COOKIES
        return _TOO_LARGE

    def _is_mostly_cookies(self) -> bool:
        """Whether cookies make the head too large, as far as it has arrived.

        Only then are cookies cleared: any page on the internet can send a browser here with a long
        address.
        """
        head = self._head.lower()
        begin = head.find(b"\r\ncookie:")
        end = head.find(b"\r\n", begin + 2)
        return begin >= 0 and (end if end >= 0 else len(head)) - begin > HEAD_BYTES // 2

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(_TOO_SLOW)

    def _refuse(self, answer: bytes, linger: float = 0.0) -> None:
        """Respond, keep nothing of what has arrived, and close. Nothing is written into the middle
        of a response.
        """
        self._refused = True
        self._cancel_head_timer()
        cycle = self.cycle
        if cycle is not None and not cycle.more_body:  # the request before, which gets its response
            cycle.keep_alive = False
            return
        if cycle is not None:
            cycle.disconnected = True
            cycle.body.clear()
            cycle.message_event.set()
        self._head = bytearray()
        self.parser = None  # type: ignore[assignment]  # it has a part of the head
        self._hold(0)
        if cycle is None or not cycle.response_started:
            self.transport.write(answer)
        self._head_timer = self.loop.call_later(linger, self.transport.close)
