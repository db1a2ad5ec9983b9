"""Sessions as they change, from a gateway's Server-Sent Events: what `kube_watch` is for a cluster."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from vdi.api.session import VDISession
from vdi.cli.errors import CliError
from vdi.cli.remote.client import GatewayClient, LoggedOutError, NoSuchThingError
from vdi.http_client import decode_json

T = TypeVar("T")
_RECONNECT_SECONDS = 1.0
"""Pause before a lost stream is reopened."""
_GIVE_UP_SECONDS = 60.0
"""Without an event for so long, a stream that cannot be reopened is given up."""


class _Gone(msgspec.Struct):
    name: str
    uid: str


class GatewayCache:
    """Sessions by name, which is unique over a gateway's namespaces."""

    def __init__(self) -> None:
        self.sessions: dict[str, VDISession] = {}

    def get(self, _namespace: str, name: str) -> VDISession | None:
        """See backend.SessionCache."""
        return self.sessions.get(name)

    def values(self) -> Sequence[VDISession]:
        """See backend.SessionCache."""
        return list(self.sessions.values())


class GatewayWatch:
    """See backend.SessionWatch. It reconnects, and catches up on what it missed."""

    def __init__(self, client: GatewayClient, name: str | None) -> None:
        self.store = GatewayCache()
        self._client = client
        self._query = {"session": name} if name else {}
        self._changes: asyncio.Queue[tuple[VDISession | None, VDISession | None]] = asyncio.Queue()
        self._synced = asyncio.Event()
        self._last_event = 0.0
        """Time of the last event, by the event loop's clock."""
        self._reading = asyncio.create_task(self._read())

    async def synced(self) -> None:
        """Return once all sessions have arrived."""
        await self._unless_it_breaks(self._synced.wait())

    async def change(self) -> tuple[VDISession | None, VDISession | None]:
        """See backend.SessionWatch."""
        return await self._unless_it_breaks(self._changes.get())

    def wake(self) -> None:
        """See backend.SessionWatch."""
        self._changes.put_nowait((None, None))

    async def stop(self) -> None:
        """Stop watching."""
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        """Read until cancelled. The first connection must succeed; a lost one is retried for `_GIVE_UP_SECONDS`."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._read_once()
            except NoSuchThingError:
                if not self._synced.is_set():
                    self._synced.set()  # the one session does not exist
                self._replace({})
            except LoggedOutError:
                raise
            except CliError:
                if not self._synced.is_set() or clock() - self._last_event > _GIVE_UP_SECONDS:
                    raise
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _read_once(self) -> None:
        listed: dict[str, VDISession] | None = {}
        async with self._client.events("/events", **self._query) as events:
            async for kind, data in events:
                self._last_event = asyncio.get_running_loop().time()
                if kind == "session":
                    session = decode_json(data.encode(), VDISession)
                    if listed is not None:
                        listed[session.metadata.name] = session
                    self._put(session)
                elif kind == "ready" and listed is not None:
                    self._replace(listed)
                    listed = None
                    self._synced.set()
                elif kind == "gone":
                    gone = decode_json(data.encode(), _Gone)
                    self._drop(gone.name)

    def _replace(self, listed: dict[str, VDISession]) -> None:
        """Drop the sessions that were not listed after a reconnection."""
        for name in [session for session in self.store.sessions if session not in listed]:
            self._drop(name)

    def _put(self, session: VDISession) -> None:
        name = session.metadata.name
        old = self.store.sessions.get(name)
        if old != session:
            self.store.sessions[name] = session
            self._changes.put_nowait((old, session))

    def _drop(self, name: str) -> None:
        if (old := self.store.sessions.pop(name, None)) is not None:
            self._changes.put_nowait((old, None))

    async def _unless_it_breaks(self, work: Coroutine[Any, Any, T]) -> T:
        """The result; the error of a reader that failed is raised here instead of waiting for ever."""
        waiting = asyncio.create_task(work)
        try:
            await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._reading.result()
            return await waiting
        finally:
            waiting.cancel()


@asynccontextmanager
async def watch_gateway(client: GatewayClient, name: str | None) -> AsyncIterator[GatewayWatch]:
    """Watch one session or all visible ones until the context ends."""
    sessions = GatewayWatch(client, name)
    try:
        await sessions.synced()
        yield sessions
    finally:
        await sessions.stop()
