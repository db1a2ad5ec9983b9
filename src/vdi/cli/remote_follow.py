"""Sessions as they change, from a gateway's Server-Sent Events: what `following` is for a cluster."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from vdi.api.session import VDISession
from vdi.cli.failures import CommandFailedError
from vdi.cli.remote_client import GatewayClient, LoggedOutError, NoSuchThingError

T = TypeVar("T")
_PAUSE = 1.0
"""Seconds before a stream that was cut is opened again."""
_PATIENCE = 60.0
"""Seconds without a word from the gateway after which a stream that cannot be opened again is given up."""


class _Gone(msgspec.Struct):
    name: str
    uid: str


class RemoteShelf:
    """Sessions by name: a gateway has one namespace."""

    def __init__(self) -> None:
        self.sessions: dict[str, VDISession] = {}

    def get(self, _namespace: str, name: str) -> VDISession | None:
        """See session_way.Shelf."""
        return self.sessions.get(name)

    def values(self) -> Sequence[VDISession]:
        """See session_way.Shelf."""
        return list(self.sessions.values())


class RemoteFollowing:
    """See session_way.Followed. A connection that is lost is opened again, and what was missed is made up for."""

    def __init__(self, client: GatewayClient, name: str | None) -> None:
        self.store = RemoteShelf()
        self._client = client
        self._query = {"session": name} if name else {}
        self._changes: asyncio.Queue[tuple[VDISession | None, VDISession | None]] = asyncio.Queue()
        self._synced = asyncio.Event()
        self._heard = 0.0
        """When the gateway was last heard, by the event loop's clock."""
        self._reading = asyncio.create_task(self._read())

    async def synced(self) -> None:
        """Return once all that are there have been told."""
        await self._unless_it_breaks(self._synced.wait())

    async def change(self) -> tuple[VDISession | None, VDISession | None]:
        """See session_way.Followed."""
        return await self._unless_it_breaks(self._changes.get())

    def wake(self) -> None:
        """See session_way.Followed."""
        self._changes.put_nowait((None, None))

    async def stop(self) -> None:
        """Follow no longer."""
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _read(self) -> None:
        """Read until cancelled. The first connection must succeed; one that is lost is tried again for `_PATIENCE`."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._read_once()
            except NoSuchThingError:
                if not self._synced.is_set():
                    self._synced.set()  # asked for one that is not there: it is gone
                self._replace({})
            except LoggedOutError:
                raise
            except CommandFailedError:
                if not self._synced.is_set() or clock() - self._heard > _PATIENCE:
                    raise
            await asyncio.sleep(_PAUSE)

    async def _read_once(self) -> None:
        told: dict[str, VDISession] | None = {}
        async with self._client.events("/events", **self._query) as events:
            async for kind, data in events:
                self._heard = asyncio.get_running_loop().time()
                if kind == "session":
                    session = msgspec.json.decode(data, type=VDISession)
                    if told is not None:
                        told[session.metadata.name] = session
                    self._put(session)
                elif kind == "ready" and told is not None:
                    self._replace(told)
                    told = None
                    self._synced.set()
                elif kind == "gone":
                    gone = msgspec.json.decode(data, type=_Gone)
                    self._drop(gone.name)

    def _replace(self, told: dict[str, VDISession]) -> None:
        """Forget what was not told of after a reconnection."""
        for name in [each for each in self.store.sessions if each not in told]:
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
        """The result; a reader that broke raises its error here, where it would leave us waiting for ever."""
        waiting = asyncio.create_task(work)
        try:
            await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._reading.result()
            return await waiting
        finally:
            waiting.cancel()


@asynccontextmanager
async def remote_following(client: GatewayClient, name: str | None) -> AsyncIterator[RemoteFollowing]:
    """Follow one session or all of mine, until the context ends."""
    sessions = RemoteFollowing(client, name)
    try:
        await sessions.synced()
        yield sessions
    finally:
        await sessions.stop()
