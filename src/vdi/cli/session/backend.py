"""What the session commands need of the Kubernetes API or of a gateway: one protocol for both.

`kube_backend` and `gateway_backend` implement it with as little as possible; what both share is in `operations` and
`start`.
"""

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from vdi.api.session import GuestRole, VDISession
from vdi.cli.output import Raw
from vdi.cli.session.kube_watch import ObjectWatch
from vdi.cli.session.view import SessionDetails
from vdi.cluster.objects import Pod
from vdi.session.request import SessionRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a user needs to open a desktop."""

    url: str
    user: str = ""
    # Empty behind a gateway: the portal's login opens the desktop.
    password: str = ""

    # Where the address must be, if it comes from a gateway.
    domain: str = ""


class SessionCache(Protocol):
    """Sessions as they are now."""

    def get(self, namespace: str, name: str) -> VDISession | None:
        """One session; None when it does not exist."""

    def values(self) -> Sequence[VDISession]:
        """All sessions."""


class SessionWatch(Protocol):
    """Sessions as they change."""

    @property
    def store(self) -> SessionCache:
        """The sessions as they are now."""

    async def change(self) -> tuple[VDISession | None, VDISession | None]:
        """The next change, (old, new): (None, new) appeared, (old, None) is gone."""

    def wake(self) -> None:
        """Make `change` return at once, with (None, None)."""


class Backend(Protocol):
    """What both backends can do. Errors are CliError, or a KubeError that `Target.run` translates."""

    @property
    def where(self) -> str:
        """For messages: `in namespace vdi-sessions`."""

    @property
    def offers(self) -> str:
        """Before a list of templates: `on this cluster there are`."""

    async def create(self, request: SessionRequest) -> Raw:
        """Create a session; when it exists already, the error names its owner."""

    async def get(self, name: str) -> Raw:
        """One session."""

    async def list(self, user: str | None, *, everywhere: bool) -> list[Raw]:
        """The visible sessions, of one user or of all, oldest first; `everywhere`: of all namespaces."""

    async def details(self, session: VDISession) -> SessionDetails:
        """All that `show` prints."""

    async def set_suspended(self, session: VDISession, suspended: bool) -> Raw:
        """Suspend or resume it."""

    async def restart(self, session: VDISession, now: datetime, /) -> Raw:
        """A new desktop on the same home."""

    async def set_timeout(self, session: VDISession, length: str) -> Raw:
        """The length of the whole run."""

    async def set_schedule(self, session: VDISession, schedule: Raw | None) -> Raw:
        """When it is resumed and suspended by itself; None: never."""

    async def share(self, session: VDISession, user: str, role: GuestRole, expires: datetime | None) -> Raw:
        """Let a guest in."""

    async def unshare(self, session: VDISession, user: str) -> Raw:
        """End a guest's access."""

    async def has_home(self, session: VDISession, claim: str, /) -> bool:
        """Whether this home is there."""

    async def remove(self, session: VDISession, claim: str | None) -> None:
        """Delete the session with this UID, then the home; a session that is gone already is no error."""

    async def opening(self, session: VDISession) -> Opening:
        """How a running desktop is opened."""

    def log_lines(self, session: VDISession, /, *, follow: bool, tail: int | None) -> AsyncIterator[str]:
        """The desktop's log. Raises CliError with the reason when there is no log."""

    def watch(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[SessionWatch]:
        """Watch one session or all; `user`: whose sessions are needed, others may come too."""

    def watch_pod(
        self, session: VDISession, on_change: Callable[[], None], /
    ) -> AbstractAsyncContextManager[ObjectWatch[Pod] | None]:
        """Watch the session's pod; None without the right to read pods."""

    async def templates(self) -> builtins.list[Raw]:
        """All templates, sorted by name."""

    async def template(self, name: str) -> Raw | None:
        """One template; None when it does not exist or may not be read."""


class Target(Protocol):
    """The cluster or gateway of a command, as chosen by options, environment and login."""

    @property
    def flags(self) -> str:
        """What to add to a suggested command so that it uses the same target."""

    @property
    def why(self) -> str:
        """Why commands go here."""

    @property
    def user(self) -> str:
        """The default owner of new sessions; empty: the command must name one."""

    @property
    def where(self) -> str:
        """For messages: `in namespace vdi-sessions`."""

    def run(self, work: Callable[[Backend], Awaitable[T]]) -> T:
        """Open the backend, do the work, close it. Raises CliError for whatever fails."""
