"""How the session commands reach the sessions: the API of a cluster, or a gateway. One protocol for both.

`session_cluster` and `remote_way` implement it with as little as possible; what is the same for both is in
`session_requests`, `session_changes` and `session_start`.
"""

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from vdi.api.session import VDISession
from vdi.cli.following import Following
from vdi.cli.output import Raw
from vdi.cli.session_view import Page
from vdi.session.observed import Pod
from vdi.session.wish import Wish

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a person needs to open a desktop."""

    url: str
    user: str = ""
    password: str = ""
    """Empty: the desktop asks for none, since the portal's login has let one in."""


class Shelf(Protocol):
    """Sessions as they are now."""

    def get(self, namespace: str, name: str) -> VDISession | None:
        """One of them; None where it is not there."""

    def values(self) -> Sequence[VDISession]:
        """All of them."""


class Followed(Protocol):
    """Sessions as they change."""

    @property
    def store(self) -> Shelf:
        """As they are now."""

    async def change(self) -> tuple[VDISession | None, VDISession | None]:
        """The next change, (old, new): (None, new) appeared, (old, None) is gone."""

    def wake(self) -> None:
        """Make `change` return at once, with (None, None)."""


class Way(Protocol):
    """What both ways can do. Errors are CommandFailedError, or a KubeError that `Place.run` puts into words."""

    @property
    def where(self) -> str:
        """For messages: `in namespace vdi-sessions`."""

    @property
    def offers(self) -> str:
        """Before a list of templates: `on this cluster there are`."""

    async def create(self, wish: Wish) -> Raw:
        """A new session; one that is there already is an error that says whose it is."""

    async def get(self, name: str) -> Raw:
        """One session."""

    async def list(self, user: str | None, *, everywhere: bool) -> list[Raw]:
        """Sessions of one user or of all who may be seen, oldest first; `everywhere`: of all namespaces."""

    async def page(self, session: VDISession) -> Page:
        """All that `show` tells."""

    async def set_suspended(self, session: VDISession, suspended: bool) -> Raw:
        """Suspend or resume it."""

    async def restart(self, session: VDISession, now: datetime, /) -> Raw:
        """A new desktop on the same home."""

    async def set_timeout(self, session: VDISession, length: str) -> Raw:
        """The length of the whole run."""

    async def share(self, session: VDISession, user: str, role: str, expires: datetime | None) -> Raw:
        """Let somebody in."""

    async def unshare(self, session: VDISession, user: str) -> Raw:
        """Let somebody in no longer."""

    async def has_home(self, session: VDISession, claim: str, /) -> bool:
        """Whether this home is there."""

    async def remove(self, session: VDISession, claim: str | None) -> None:
        """Delete this incarnation of the session, and then the home; one that is gone already is no error."""

    async def opening(self, session: VDISession) -> Opening:
        """How a running desktop is opened."""

    def log_lines(self, session: VDISession, /, *, follow: bool, tail: int | None) -> AsyncIterator[str]:
        """The desktop's log; when there is none, why."""

    def follow(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[Followed]:
        """One session or all as they change; `user`: whose are wanted, others may come too."""

    def pods_of(
        self, session: VDISession, on_change: Callable[[], None], /
    ) -> AbstractAsyncContextManager[Following[Pod] | None]:
        """The session's pod as it changes; None for who may not see pods."""

    async def templates(self) -> builtins.list[Raw]:
        """The templates there are, by name."""

    async def template(self, name: str) -> Raw | None:
        """One template; None where it is not there, or may not be read."""


class Place(Protocol):
    """Where a command's sessions are, as chosen by options, environment and login."""

    @property
    def flags(self) -> str:
        """What to add to a suggested command so that it talks to the same place."""

    @property
    def why(self) -> str:
        """Why commands go here, in words."""

    @property
    def user(self) -> str:
        """Whose sessions are made when nobody is named; empty: somebody has to be."""

    @property
    def where(self) -> str:
        """For messages: `in namespace vdi-sessions`."""

    def run(self, work: Callable[[Way], Awaitable[T]]) -> T:
        """Open the way, do the work, close it. Whatever goes wrong on it comes out as `CommandFailedError`."""
