"""Interfaces between the session commands and what they talk to: a cluster or a gateway.

`kube_backend` and `gateway_backend` implement them. What only one of the two can do is not here:
such a command takes that backend itself and refuses the other target (`logs`, `probe`, `open
--direct`).
"""

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from vdi.api.session import VDISession
from vdi.cli.output import Raw
from vdi.session.actions import PatchAction
from vdi.session.request import SessionRequest

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything that a user needs to open a desktop."""

    url: str
    user: str = ""
    password: str = ""  # empty behind a gateway: the portal's login opens the desktop
    domain: str = ""  # of the gateway that has sent the address: it may lead nowhere else


class Cache(Protocol[T_co]):
    """Objects as they are now."""

    def get(self, namespace: str, name: str) -> T_co | None:
        """One object; None when it does not exist."""

    def values(self) -> Iterable[T_co]:
        """All objects, in no order."""


class Watch(Generic[T]):
    """Objects as they change, for `--wait` and `--watch`: `store` has the current ones, `change`
    each change.
    """

    def __init__(self, store: Cache[T]) -> None:
        self.store = store
        self._changes: asyncio.Queue[tuple[T | None, T | None]] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def following(
        self, reading: Coroutine[Any, Any, None], synced: Coroutine[Any, Any, object]
    ) -> AsyncIterator[Self]:
        """Run `reading`, which fills the store and calls `put`, until the context ends; enter it
        once `synced`.
        """
        self._reading = asyncio.create_task(reading)
        try:
            await self._unless_it_breaks(synced)
            yield self
        finally:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    def put(self, old: T | None, new: T | None) -> None:
        """Report a change to whoever awaits `change`."""
        self._changes.put_nowait((old, new))

    def wake(self) -> None:
        """Make `change` return at once, with (None, None)."""
        self.put(None, None)

    async def change(self) -> tuple[T | None, T | None]:
        """The next change, (old, new): (None, new) appeared, (old, None) is gone; the first list
        included.
        """
        found = await self._unless_it_breaks(self._changes.get())
        self._changes.task_done()
        return found

    async def caught_up(self) -> None:
        """Wait until every change has been taken: a reader that calls it never runs ahead of the
        command.
        """
        await self._changes.join()

    async def _unless_it_breaks(self, work: Coroutine[Any, Any, R]) -> R:
        """The result; the error of a reader that failed is raised here instead of waiting for
        ever.
        """
        assert self._reading is not None  # noqa: S101 - for the type checker
        waiting = asyncio.create_task(work)
        try:
            await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._reading.result()
            return await waiting
        finally:
            waiting.cancel()


class Backend(Protocol):
    """Sessions and templates of a cluster or a gateway. Errors are CliError, or a KubeError that
    `run` translates.
    """

    @property
    def offers(self) -> str:
        """Before a list of templates: `available on this cluster`."""

    async def create(self, request: SessionRequest) -> Raw:
        """Create a session; when it exists already, the error names its owner."""

    async def get(self, name: str) -> Raw:
        """Read a session; the error of a missing one says where it was looked for."""

    async def list(self, user: str | None, *, everywhere: bool) -> list[Raw]:
        """List the visible sessions (empty `user`: everyone's), oldest first; `everywhere`: of all
        namespaces.
        """

    async def act(self, session: VDISession, request: PatchAction) -> Raw:
        """Change the session as requested and return it; the error says why that is not
        possible.
        """

    async def remove(self, session: VDISession, claim: str | None) -> None:
        """Delete the session with this UID, then the home; one that is gone already is no error."""

    async def opening(self, session: VDISession) -> Opening:
        """The address of a running desktop, with user and password where the desktop asks for
        them.
        """

    def watch(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[Watch[VDISession]]:
        """Watch one session or all; `user`: whose sessions are needed, others may come too."""

    async def templates(self) -> builtins.list[Raw]:
        """All templates, sorted by name."""

    async def template(self, name: str) -> Raw | None:
        """One template; None when it does not exist or may not be read."""


class Target(Protocol):
    """The cluster or gateway of a command, as chosen by options, environment and login."""

    @property
    def flags(self) -> str:
        """Options that make a suggested command use the same target."""

    @property
    def why(self) -> str:
        """The reason why commands go here: an option, the environment or a login."""

    @property
    def user(self) -> str:
        """The default owner of new sessions; empty: the command must name one."""

    @property
    def where(self) -> str:
        """For messages: `in namespace vdi-sessions`."""

    def run(self, work: Callable[[Backend], Awaitable[T]]) -> T:
        """Open the backend, do the work, close it. Raises CliError for whatever fails."""
