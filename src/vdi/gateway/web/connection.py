"""uvicorn's HTTP/1.1 protocol with what it lacks: an end to patience with slow clients, and to headers.

uvicorn's options bound connections and the time between two requests. Traefik's timeouts are the cluster's to set, and
bound its own clients: not a pod that connects here directly, and not a browser that reads no answer. Here a request's
head must be complete within `HEAD_SECONDS` and `HEAD_BYTES`, and a response that the client does not read is given up.
Bodies are for `middleware`.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
# Traefik's own limit is 1 MiB; cookies of ours and the longest URL that browsers send are a quarter of this.
HEAD_BYTES = 32 * 1024

# How long the rest of a head that is too large is still read, and dropped. Closing with bytes unread resets the
# connection, and whoever sends those bytes may never read the answer: Traefik then makes a 502 of it.
LINGER_SECONDS = 2.0
# How long an answer's bytes may wait for a browser that takes none.
WRITE_SECONDS = 30.0

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
# Any desktop may set cookies for the whole domain. Nothing of ours would answer until they expire, in up to 400 days.
# Browsers forget the login with them: it is of no use here, and could have been pushed out by as many small ones.
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
        """The clock of the first head runs from here."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock outlives the connection."""
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what may belong to a head; the first bytes of a next request start its clock."""
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

    def on_message_complete(self) -> None:
        """What comes now is the next head."""
        self._in_head, self._head_bytes = True, 0
        self._head.clear()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Answered before the body was here (a refusal): the rest of it is not waited for."""
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self.transport.close()

    def pause_writing(self) -> None:
        """The browser does not read: give it some time."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _unsupported_upgrade_warning(self) -> None:
        """WebSockets of desktops that are not there come here every time: no news, and answered like any request."""

    def _is_mostly_cookies(self) -> bool:
        """Whether the head that is too large would not be without its cookies, as far as it has come.

        Not for whatever is too large: every page on the internet can send a browser here with a long address.
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
        """Nothing was answered yet, or all of it: this can be written in between."""
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(answer)
        self._refused = True
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = self.loop.call_later(linger, self.transport.close)
