"""uvicorn's HTTP/1.1 protocol with limits that uvicorn lacks: time and size of a request's head, time of a response.

uvicorn's options limit connections and the time between two requests. Traefik's timeouts are the cluster's to set, and
limit its own clients: not a pod that connects here directly, and not a browser that reads no response. Bodies are
limited in `middleware`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
# Traefik's own limit is 1 MiB; cookies of ours and the longest URL that browsers send are a quarter of this.
HEAD_BYTES = 32 * 1024

# How long the rest of a head that is too large is read and dropped. Closing a socket with unread bytes resets the
# connection, and the client may lose the response that was sent before: Traefik then answers 502.
LINGER_SECONDS = 2.0
# How long a response's bytes may wait for a browser that reads none.
WRITE_SECONDS = 30.0

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
# Any desktop may set cookies for the whole domain. Without Clear-Site-Data the portal would be out of reach until they
# expire, in up to 400 days. The browser loses its login with them; as many small cookies could have removed it, too.
_TOO_MANY_COOKIES = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b'cache-control: no-store\r\nclear-site-data: "cookies"\r\ncontent-length: 148\r\n\r\n'
    b"Your browser has too many cookies for this domain: a desktop that you opened set them. Open the portal, which "
    b"deletes them all, then sign in again.\n"
)
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._head: list[bytes] = []
        self._in_head = True
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timer of the first head."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, which must not outlive the connection."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count bytes that may belong to a head; the first bytes of a next request start its timer."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
            self._head.append(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_TOO_MANY_COOKIES if self._is_mostly_cookies() else _TOO_LARGE, LINGER_SECONDS)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head.clear()
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        self.headers = []  # the request's scope has them, and lets go of them while it waits

    def on_message_complete(self) -> None:
        """The bytes that follow belong to the next head."""
        self._in_head, self._head_bytes = True, 0
        self._head.clear()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Close a connection that was answered before its body was complete (a refusal), without waiting for it."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self.transport.close()

    def pause_writing(self) -> None:
        """The browser does not read: give up after WRITE_SECONDS."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: WebSockets of desktops that no longer exist arrive all the time, and get a normal response."""

    def _is_mostly_cookies(self) -> bool:
        """Whether cookies make the head too large, as far as it has arrived.

        Only then are cookies cleared: any page on the internet can send a browser here with a long address.
        """
        head = b"".join(self._head).lower()
        begin = head.find(b"\r\ncookie:")
        end = head.find(b"\r\n", begin + 2)
        return begin >= 0 and (end if end >= 0 else len(head)) - begin > HEAD_BYTES // 2

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(_TOO_SLOW)

    def _refuse(self, answer: bytes, linger: float = 0.0) -> None:
        """Respond and close. Nothing is written into the middle of another response."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
        self._refused = True
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(linger, self.transport.close)
