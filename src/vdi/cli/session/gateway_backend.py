"""The backend through a gateway, for users without an account on the cluster."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from vdi.api.session import GuestRole, VDISession
from vdi.cli.browser import domain_of
from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.cli.output import Raw
from vdi.cli.remote.client import GatewayClient, NoSuchThingError, quote
from vdi.cli.remote.logins import Login
from vdi.cli.session.backend import Backend, Opening
from vdi.cli.session.gateway_watch import GatewayWatch, watch_gateway
from vdi.cli.session.view import SessionDetails
from vdi.session.request import SessionRequest
from vdi.session.times import format_time

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatewayTarget:
    """A gateway that the user is logged in to."""

    server: str
    login: Login
    why: str
    """Why commands go here."""
    named: bool = False
    """Whether commands must name it: it is not the gateway of the last login."""

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
