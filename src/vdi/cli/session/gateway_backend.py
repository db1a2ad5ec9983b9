"""Session commands through a gateway's REST API and its Server-Sent Events.

For users without an account on the cluster: the gateway decides what they may see and do.
"""

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from vdi.api.session import GuestRole, VDISession
from vdi.cli.browser import domain_of
from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.gateway_client import GatewayClient, LoggedOutError, NoSuchThingError, quote
from vdi.cli.logins import Login
from vdi.cli.output import Raw
from vdi.cli.session.backend import Backend, Opening
from vdi.cli.session.view import SessionDetails
from vdi.cluster.units import format_time
from vdi.http_client import decode_json
from vdi.session.request import SessionRequest

R = TypeVar("R")
# Pause before a lost stream is reopened.
_RECONNECT_SECONDS = 1.0

# Without an event for so long, a stream that cannot be reopened is given up.
_GIVE_UP_SECONDS = 60.0


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

    async def _unless_it_breaks(self, work: Coroutine[Any, Any, R]) -> R:
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


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatewayTarget:
    """A gateway that the user is logged in to."""

    server: str
    login: Login
    # Why commands go here.
    why: str
    # Whether commands must name it: it is not the gateway of the last login.
    named: bool = False

    @property
    def flags(self) -> str:
        """See Target."""
        return f" --server {self.server}" if self.named else ""

    @property
    def user(self) -> str:
        """See Target."""
        return self.login.user

    @property
    def where(self) -> str:
        """See Target."""
        return f"at {self.server}"

    def run(self, work: Callable[[Backend], Awaitable[T]]) -> T:
        """See Target."""

        async def run() -> T:
            async with GatewayClient(self.server, token=self.login.token, ca=self.login.ca) as client:
                return await work(GatewayBackend(client, self.login.user))

        return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class GatewayBackend:
    """See Backend."""

    client: GatewayClient
    user: str

    @property
    def where(self) -> str:
        """See Backend."""
        return f"at {self.client.server}"

    @property
    def offers(self) -> str:
        """See Backend."""
        return "available at this gateway"

    async def create(self, request: SessionRequest) -> Raw:
        """See Backend. `user` is sent only when it is another user's desktop: only administrators may create those."""
        resources = {
            "gpu": request.gpu,
            "memory": request.memory,
            "cpu": request.cpu,
            "ephemeralStorage": request.ephemeral_storage,
        }
        home = {"enabled": request.home, "size": request.home_size, "retain": request.retain}
        body = {
            "template": request.template,
            "name": request.name,
            "timeout": request.timeout,
            "idleTimeout": request.idle_timeout,
            "priority": request.priority,
            "hostname": request.hostname,
            "user": request.user if request.user != self.user else None,
            "resources": _given(resources) or None,
            "persistence": _given(home) or None,
        }
        return await self._send("POST", "/sessions", _given(body))

    async def get(self, name: str) -> Raw:
        """See Backend."""
        return await self._send("GET", f"/sessions/{quote(name)}")

    async def list(self, user: str | None, *, everywhere: bool) -> builtins.list[Raw]:
        """See Backend. Own and shared sessions; with `user` those of that user, for administrators."""
        _refuse_namespaces(everywhere)
        if user is None:
            return await self.client.items("/sessions")
        if user == self.user:
            return await self.client.items("/sessions", role="owner")
        return await self.client.items("/admin/sessions", user=user)

    async def details(self, session: VDISession) -> SessionDetails:
        """See Backend. A gateway shows no objects of the cluster; the session's conditions say what it waits for."""
        return SessionDetails(session)

    async def set_suspended(self, session: VDISession, suspended: bool) -> Raw:
        """See Backend."""
        return await self._act(session, "suspend" if suspended else "resume")

    async def restart(self, session: VDISession, _now: datetime, /) -> Raw:
        """See Backend. The gateway uses its own clock."""
        return await self._act(session, "restart")

    async def set_timeout(self, session: VDISession, length: str) -> Raw:
        """See Backend."""
        return await self._act(session, "extend", {"timeout": length})

    async def set_schedule(self, session: VDISession, schedule: Raw | None) -> Raw:
        """See Backend."""
        body = dict(schedule) if schedule else None
        return await self._send("PUT" if body else "DELETE", f"{_address(session)}/schedule", body)

    async def share(self, session: VDISession, user: str, role: GuestRole, expires: datetime | None) -> Raw:
        """See Backend."""
        body = {"role": role} | ({"expires": format_time(expires)} if expires else {})
        return await self._send("PUT", f"{_address(session)}/access/{quote(user)}", body)

    async def unshare(self, session: VDISession, user: str) -> Raw:
        """See Backend."""
        return await self._send("DELETE", f"{_address(session)}/access/{quote(user)}")

    async def has_home(self, _session: VDISession, _claim: str, /) -> bool:
        """See Backend. Only the gateway can look; it deletes a home that exists."""
        return True

    async def remove(self, session: VDISession, claim: str | None) -> None:
        """See Backend."""
        query = {"deleteHome": "true"} if claim else {}
        try:
            await self.client.send("DELETE", _address(session), query=query)
        except NoSuchThingError:
            return

    async def opening(self, session: VDISession) -> Opening:
        """See Backend."""
        return Opening(session.status.url, domain=domain_of(self.client.server))

    async def log_lines(self, _session: VDISession, /, **_options: object) -> AsyncIterator[str]:
        """See Backend: a gateway has no logs."""
        raise CliError(
            "a desktop's log needs access to the cluster, which a gateway does not give: --kubeconfig FILE",
            COULD_NOT_LOOK,
        )
        yield ""

    def watch(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[GatewayWatch]:
        """See Backend."""
        _refuse_namespaces(everywhere)
        if user not in (None, self.user):
            message = (
                f"through a gateway --watch follows your own desktops and those shared with you, not those of {user}"
            )
            raise CliError(message, USAGE)
        return watch_gateway(self.client, name)

    def watch_pod(self, _session: VDISession, _on_change: Callable[[], None], /) -> AbstractAsyncContextManager[None]:
        """See Backend: a gateway shows no pods."""
        return nullcontext()

    async def templates(self) -> builtins.list[Raw]:
        """See Backend."""
        return await self.client.items("/templates")

    async def template(self, name: str) -> Raw | None:
        """See Backend."""
        try:
            return await self._send("GET", f"/templates/{quote(name)}")
        except NoSuchThingError:
            return None

    async def _act(self, session: VDISession, action: str, body: dict[str, Any] | None = None) -> Raw:
        return await self._send("POST", f"{_address(session)}/{action}", body)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Raw:
        answer: Raw = await self.client.send(method, path, body=body)
        return answer


def _address(session: VDISession) -> str:
    return f"/sessions/{quote(session.metadata.name)}"


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _refuse_namespaces(everywhere: bool) -> None:
    if everywhere:
        raise CliError("a gateway shows all its namespaces: remove --all-namespaces, or use --kubeconfig", USAGE)
