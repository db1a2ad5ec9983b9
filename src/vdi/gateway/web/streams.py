"""Server-sent events: responses that end at shutdown, send heartbeats through proxies, and are
limited per user.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from vdi.gateway.component import GatewayContext

# Streams that one user may have open at one replica, for each StreamLimit.
MOST_PER_USER = 20

# Seconds without an event after which a comment is sent: proxies cut silent connections, and a dead
# browser is noticed.
HEARTBEAT = 20.0

_EVENT_STREAM = "text/event-stream"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def sse_event(data: str, *, event: str = "", id: str = "") -> bytes:
    """One event as it goes over the wire; `data` may have several lines."""
    head = "".join(f"{name}: {value}\n" for name, value in (("id", id), ("event", event)) if value)
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"{head}{lines}\n".encode()


def sse_response(context: GatewayContext, events: AsyncIterator[bytes]) -> StreamingResponse:
    """Streams `events` (made by `sse_event`) until they end, the browser leaves, or the gateway
    stops.
    """
    return StreamingResponse(_paced(context, events), media_type=_EVENT_STREAM, headers=_HEADERS)


class StreamLimit:
    """Limits the open streams of each user: each holds one of the listener's connections."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def response(
        self,
        context: GatewayContext,
        user: str,
        events: AsyncIterator[bytes],
        headers: Mapping[str, str] | None = None,
    ) -> StreamingResponse:
        """As `sse_response`, for a stream that counts for this user. Raises HTTPException."""
        if self._open[user] >= MOST_PER_USER:
            message = (
                f"{user} already has {MOST_PER_USER} event streams open at this gateway. Close one"
                " first."
            )
            raise HTTPException(429, message, {"Retry-After": "60"})
        return _CountedResponse(
            self._open, user, _paced(context, events), {**_HEADERS, **(headers or {})}
        )

    def __len__(self) -> int:
        return self._open.total()


class _CountedResponse(StreamingResponse):
    """Counts from when it is called until it ends in whatever way.

    It is called right after the handler has returned it, without an await in between: no other
    stream can open after the limit was checked and before this one counts.
    """

    def __init__(
        self,
        open_now: Counter[str],
        user: str,
        content: AsyncIterator[bytes],
        headers: dict[str, str],
    ) -> None:
        super().__init__(content, media_type=_EVENT_STREAM, headers=headers)
        self._open = open_now
        self._user = user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._open[self._user] += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._open[self._user] -= 1
            if not self._open[self._user]:
                del self._open[self._user]


async def _paced(context: GatewayContext, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # The next event is awaited in a task of its own, which outlives a heartbeat: cancelling `anext`
    # of a generator at each heartbeat would end the generator.
    stopping = asyncio.ensure_future(context.stopping.wait())
    news: asyncio.Future[Any] | None = None
    with context.metrics.sse_streams.track_inprogress():
        try:
            yield b"retry: 2000\n\n"
            while not context.stopping.is_set():
                if news is None:
                    news = asyncio.ensure_future(anext(events))
                await asyncio.wait(
                    (news, stopping), timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED
                )
                if not news.done():
                    if not stopping.done():
                        yield b": still here\n\n"
                    continue
                done, news = news, None
                try:
                    yield done.result()
                except StopAsyncIteration:
                    return
        finally:
            stopping.cancel()
            if news is not None:
                news.cancel()
                with suppress(asyncio.CancelledError, StopAsyncIteration):
                    await news
            aclose = getattr(events, "aclose", None)
            if aclose is not None:
                await aclose()
