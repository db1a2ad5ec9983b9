"""The session commands' way to a gateway, for people without an account on the cluster."""

import asyncio
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from vdi.api.session import VDISession
from vdi.cli.failures import COULD_NOT_LOOK, USAGE, CommandFailedError
from vdi.cli.output import Raw
from vdi.cli.remote_client import GatewayClient, NoSuchThingError, part
from vdi.cli.remote_follow import RemoteFollowing, remote_following
from vdi.cli.remote_login import Login
from vdi.cli.session_view import Page
from vdi.cli.session_way import Opening, Way
from vdi.session.times import format_time
from vdi.session.wish import Wish

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GatewayPlace:
    """A gateway that one is logged in to."""

    server: str
    login: Login
    why: str
    """Why commands go here, in words."""
    named: bool = False
    """Whether it has to be named, since it is not the one of the last login."""

    @property
    def flags(self) -> str:
        """See Place."""
        return f" --server {self.server}" if self.named else ""

    @property
    def user(self) -> str:
        """See Place."""
        return self.login.user

    @property
    def where(self) -> str:
        """See Place."""
        return f"at {self.server}"

    def run(self, work: Callable[[Way], Awaitable[T]]) -> T:
        """See Place."""

        async def run() -> T:
            async with GatewayClient(self.server, token=self.login.token, ca=self.login.ca) as client:
                return await work(GatewayWay(client, self.login.user))

        return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class GatewayWay:
    """See Way."""

    client: GatewayClient
    user: str

    @property
    def where(self) -> str:
        """See Way."""
        return f"at {self.client.server}"

    @property
    def offers(self) -> str:
        """See Way."""
        return "at this gateway you may use"

    async def create(self, wish: Wish) -> Raw:
        """See Way. Whose desktop it is goes along only where it is another's: that is for administrators."""
        resources = {"gpu": wish.gpu, "memory": wish.memory, "cpu": wish.cpu}
        home = {"enabled": wish.home, "size": wish.home_size, "retain": wish.retain}
        body = {
            "template": wish.template,
            "name": wish.name,
            "timeout": wish.timeout,
            "idleTimeout": wish.idle_timeout,
            "priority": wish.priority,
            "hostname": wish.hostname,
            "user": wish.user if wish.user != self.user else None,
            "resources": _given(resources) or None,
            "persistence": _given(home) or None,
        }
        return await self._send("POST", "/sessions", _given(body))

    async def get(self, name: str) -> Raw:
        """See Way."""
        return await self._send("GET", f"/sessions/{part(name)}")

    async def list(self, user: str | None, *, everywhere: bool) -> builtins.list[Raw]:
        """See Way. Mine and those shared with me; with a user's address that user's, for administrators."""
        _refuse_namespaces(everywhere)
        if user is None:
            return await self.client.items("/sessions")
        if user == self.user:
            return await self.client.items("/sessions", role="owner")
        return await self.client.items("/admin/sessions", user=user)

    async def page(self, session: VDISession) -> Page:
        """See Way. What the session consists of is the cluster's matter; its conditions say what it waits for."""
        return Page(session)

    async def set_suspended(self, session: VDISession, suspended: bool) -> Raw:
        """See Way."""
        return await self._act(session, "suspend" if suspended else "resume")

    async def restart(self, session: VDISession, _now: datetime, /) -> Raw:
        """See Way. The gateway's own clock counts."""
        return await self._act(session, "restart")

    async def set_timeout(self, session: VDISession, length: str) -> Raw:
        """See Way."""
        return await self._act(session, "extend", {"timeout": length})

    async def share(self, session: VDISession, user: str, role: str, expires: datetime | None) -> Raw:
        """See Way."""
        body = {"role": role} | ({"expires": format_time(expires)} if expires else {})
        return await self._send("PUT", f"{_address(session)}/access/{part(user)}", body)

    async def unshare(self, session: VDISession, user: str) -> Raw:
        """See Way."""
        return await self._send("DELETE", f"{_address(session)}/access/{part(user)}")

    async def has_home(self, _session: VDISession, _claim: str, /) -> bool:
        """See Way. Only the gateway can look; it deletes a home that is there."""
        return True

    async def remove(self, session: VDISession, claim: str | None) -> None:
        """See Way."""
        query = {"deleteHome": "true"} if claim else {}
        try:
            await self.client.send("DELETE", _address(session), query=query)
        except NoSuchThingError:
            return

    async def opening(self, session: VDISession) -> Opening:
        """See Way."""
        return Opening(session.status.url)

    async def log_lines(self, _session: VDISession, /, **_options: object) -> AsyncIterator[str]:
        """See Way: it raises."""
        raise CommandFailedError(
            "a desktop's log needs access to the cluster, and a gateway gives none: --kubeconfig FILE", COULD_NOT_LOOK
        )
        yield ""

    def follow(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[RemoteFollowing]:
        """See Way."""
        _refuse_namespaces(everywhere)
        if user not in (None, self.user):
            said = f"through a gateway --watch follows your own desktops and those shared with you, not those of {user}"
            raise CommandFailedError(said, USAGE)
        return remote_following(self.client, name)

    def pods_of(self, _session: VDISession, _on_change: Callable[[], None], /) -> AbstractAsyncContextManager[None]:
        """See Way: pods are not seen from here."""
        return nullcontext()

    async def templates(self) -> builtins.list[Raw]:
        """See Way."""
        return await self.client.items("/templates")

    async def template(self, name: str) -> Raw | None:
        """See Way."""
        try:
            return await self._send("GET", f"/templates/{part(name)}")
        except NoSuchThingError:
            return None

    async def _act(self, session: VDISession, deed: str, body: dict[str, Any] | None = None) -> Raw:
        return await self._send("POST", f"{_address(session)}/{deed}", body)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Raw:
        answer: Raw = await self.client.send(method, path, body=body)
        return answer


def _address(session: VDISession) -> str:
    return f"/sessions/{part(session.metadata.name)}"


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _refuse_namespaces(everywhere: bool) -> None:
    if everywhere:
        raise CommandFailedError("a gateway has one namespace: leave out --all-namespaces, or say --kubeconfig", USAGE)
