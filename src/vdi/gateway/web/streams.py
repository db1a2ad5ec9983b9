"""Server-sent events: one way to stream them, which ends at shutdown, keeps proxies awake, and is counted."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse

from vdi.gateway.context import GatewayContext

HEARTBEAT = 20.0
"""Seconds without news after which a comment is sent: proxies cut what is silent, and a dead browser is noticed."""


def sse_event(data: str, *, event: str = "", id: str = "") -> bytes:
    """One event as it goes over the wire; `data` may have several lines."""
    head = "".join(f"{name}: {value}\n" for name, value in (("id", id), ("event", event)) if value)
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"{head}{lines}\n".encode()


def sse_response(
    context: GatewayContext, events: AsyncIterator[bytes], headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """Stream what `events` yields (made by `sse_event`) until it ends, the browser leaves, or the gateway stops."""
    all_headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})}
    return StreamingResponse(_paced(context, events), media_type="text/event-stream", headers=all_headers)


async def _paced(context: GatewayContext, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    stopping = asyncio.ensure_future(context.stopping.wait())
    news: asyncio.Future[Any] | None = None
    with context.metrics.sse_streams.track_inprogress():
        try:
            yield b"retry: 2000\n\n"
            while not context.stopping.is_set():
                if news is None:
                    news = asyncio.ensure_future(anext(events))
                await asyncio.wait((news, stopping), timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED)
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
