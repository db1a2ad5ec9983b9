"""Reads Server-Sent Events from an ASGI app as they come: httpx's transport waits for the end, and
these have none.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from starlette.types import ASGIApp, Message

from support.waiting import PATIENCE


class Events:
    """An open stream."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = asyncio.Event()
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._rest = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self.begun.set()
        else:
            self._pieces.put_nowait(message.get("body", b""))
            if not message.get("more_body"):
                self._pieces.put_nowait(None)

    async def next(self, seconds: float = 3.0) -> tuple[str, Any]:
        """The next event with its data; ("end", None) when the stream has ended."""
        async with asyncio.timeout(seconds):
            while True:
                if "\n\n" in self._rest:
                    block, self._rest = self._rest.split("\n\n", 1)
                    fields = dict(
                        line.split(": ", 1)
                        for line in block.splitlines()
                        if not line.startswith(":")
                    )
                    if "event" in fields:
                        return fields["event"], json.loads(fields["data"])
                    continue
                piece = await self._pieces.get()
                if piece is None:
                    return "end", None
                self._rest += piece.decode()


@asynccontextmanager
async def events_of(
    app: ASGIApp, address: str, headers: Mapping[str, str]
) -> AsyncIterator[Events]:
    """GET this address; the browser leaves at the end of the context."""
    parts = urlsplit(urljoin("https://portal.vdi.localhost", address))
    events = Events()
    left = asyncio.Event()
    sent = {"Host": parts.netloc, **headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        "server": ("portal.vdi.localhost", 443),
        "client": ("10.0.0.5", 1),
    }

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    serving = asyncio.ensure_future(app(scope, receive, events.send))
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait(
                [serving, begun := asyncio.ensure_future(events.begun.wait())],
                return_when="FIRST_COMPLETED",
            )
        begun.cancel()
        yield events
    finally:
        left.set()
        await asyncio.wait([serving], timeout=PATIENCE)
        assert serving.done(), "the stream goes on after the browser has left"
        serving.result()
