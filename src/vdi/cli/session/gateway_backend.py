"""Session commands through a gateway's REST API and its Server-Sent Events.

For users without an account on the cluster: the gateway decides what they may see and do.
"""

import asyncio
import builtins
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vdi.api.session import VDISession
from vdi.cli.browser import domain_of
from vdi.cli.errors import USAGE, CliError
from vdi.cli.gateway_client import GatewayClient, LoggedOutError, NoSuchThingError, quote
from vdi.cli.logins import Login
from vdi.cli.output import Raw
from vdi.cli.session.backend import Opening, Watch
from vdi.http_client import decode_json
from vdi.session.actions import PatchAction
from vdi.session.request import SessionRequest

R = TypeVar("R")
_RECONNECT_SECONDS = 1.0  # pause before a lost stream is opened again
_GIVE_UP_SECONDS = 60.0  # since the last event: a stream that still cannot be opened is given up
_MOST_SESSIONS = 2000  # own and shared ones of one user; the gateway may be anyone's


class _Gone(msgspec.Struct):
    name: str
    uid: str


class _Sessions:
    """The sessions that the gateway has sent, by name: names are unique over its namespaces."""

    def __init__(self) -> None:
        self.by_name: dict[str, VDISession] = {}

    def get(self, _namespace: str, name: str) -> VDISession | None:
        return self.by_name.get(name)

    def values(self) -> Iterable[VDISession]:
        return self.by_name.values()


class _EventReader:
    """Reads sessions from `/events` into a Watch; reconnects, and catches up on what it missed."""

    def __init__(self, client: GatewayClient, name: str | None) -> None:
        self.synced = asyncio.Event()
        self._client = client
        self._query = {"session": name} if name else {}
        sessions = _Sessions()
        self.watch = Watch(sessions)
        self._sessions = sessions.by_name
        self._last_event = 0.0  # by the event loop's clock

    async def run(self) -> None:
        """Read until cancelled. The first connection must succeed; a lost one is retried for a
        minute.
        """
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._read()
            except NoSuchThingError:
                self.synced.set()  # the one session does not exist
                self._replace({})
            except LoggedOutError:
                raise
            except CliError:
                # A gateway that restarts is back within seconds, and the sessions that are shown
                # stay valid.
                if not self.synced.is_set() or clock() - self._last_event > _GIVE_UP_SECONDS:
                    raise
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _read(self) -> None:
        listed: dict[str, VDISession] | None = {}
        async with self._client.events("/events", **self._query) as events:
            async for kind, data in events:
                self._last_event = asyncio.get_running_loop().time()
                if kind == "session":
                    session = decode_json(data.encode(), VDISession)
                    if listed is None:
                        self._put(session)
                    else:
                        listed[session.metadata.name] = session
                    if len(self._sessions if listed is None else listed) > _MOST_SESSIONS:
                        raise CliError(f"the gateway sends more than {_MOST_SESSIONS} sessions")
                elif kind == "ready" and listed is not None:
                    self._replace(listed)
                    listed = None
                    self.synced.set()
                elif kind == "gone":
                    self._drop(decode_json(data.encode(), _Gone).name)
                if listed is None:
                    await self.watch.caught_up()

    def _replace(self, listed: dict[str, VDISession]) -> None:
        # What ended while the stream was lost has sent no event: it is only missing from the new
        # list.
        for name in self._sessions.keys() - listed.keys():
            self._drop(name)
        for session in listed.values():
            self._put(session)

    def _put(self, session: VDISession) -> None:
        old = self._sessions.get(session.metadata.name)
        if old != session:
            self._sessions[session.metadata.name] = session
            self.watch.put(old, session)

    def _drop(self, name: str) -> None:
        if (old := self._sessions.pop(name, None)) is not None:
            self.watch.put(old, None)


@dataclass(frozen=True, slots=True)
class GatewayTarget:
    """A gateway that the user is logged in to, as the target of commands."""

    server: str
    login: Login
    why: str
    named: bool = False  # commands must name it: it is not the gateway of the last login
    says_why: bool = False  # with an error: other commands go to a cluster

    @property
    def flags(self) -> str:
        return f" --server {self.server}" if self.named else ""

    @property
    def user(self) -> str:
        return self.login.user

    @property
    def where(self) -> str:
        return f"at {self.server}"

    def run(self, work: Callable[["GatewayBackend"], Awaitable[R]]) -> R:
        async def run() -> R:
            async with GatewayClient(
                self.server, token=self.login.token, ca=self.login.ca
            ) as client:
                return await work(GatewayBackend(client, self.login.user))

        try:
            return asyncio.run(run())
        except CliError as error:
            if self.says_why:
                error.message += f"\nAsked {self.server}: {self.why}."
            raise


@dataclass(frozen=True, slots=True)
class GatewayBackend:
    """Sessions that a user sees through a gateway."""

    client: GatewayClient
    user: str

    @property
    def offers(self) -> str:
        return "available at this gateway"

    async def create(self, request: SessionRequest) -> Raw:
        # `user` is sent only for another user's desktop: only administrators may create those.
        if request.user == self.user:
            own = msgspec.structs.replace(request, user=None)
        else:
            own = request
        return await self._send("POST", "/sessions", msgspec.to_builtins(own))

    async def get(self, name: str) -> Raw:
        return await self._send("GET", f"/sessions/{quote(name)}")

    async def list(self, user: str | None, *, everywhere: bool) -> builtins.list[Raw]:
        # Own and shared sessions; with `user` those of that user, or everyone's, which needs an
        # administrator.
        _refuse_namespaces(everywhere)
        if user is None:
            return await self.client.items("/sessions")
        if user == self.user:
            return await self.client.items("/sessions", role="owner")
        return await self.client.items("/admin/sessions", **({"user": user} if user else {}))

    async def act(self, session: VDISession, request: PatchAction) -> Raw:
        body = None
        if request.__struct_fields__:
            body = msgspec.to_builtins(request)
        name = quote(session.metadata.name)
        return await self._send("POST", f"/sessions/{name}/{request.action}", body)

    async def computer(self, name: str, body: dict[str, Any]) -> Raw:
        return await self._send("POST", f"/sessions/{quote(name)}/computer", body)

    async def remove(self, session: VDISession, claim: str | None) -> None:
        query = {"deleteHome": "true"} if claim else {}
        with suppress(NoSuchThingError):
            await self.client.send(
                "DELETE", f"/sessions/{quote(session.metadata.name)}", query=query
            )

    async def opening(self, session: VDISession) -> Opening:
        return Opening(session.status.url, domain=domain_of(self.client.server))

    def watch(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[Watch[VDISession]]:
        _refuse_namespaces(everywhere)
        if user not in (None, self.user):
            message = (
                "through a gateway --watch follows your own desktops and those shared with you,"
                f" not those of {user}"
            )
            raise CliError(message, USAGE)
        reader = _EventReader(self.client, name)
        return reader.watch.following(reader.run(), reader.synced.wait())

    async def templates(self) -> builtins.list[Raw]:
        return await self.client.items("/templates")

    async def template(self, name: str) -> Raw | None:
        try:
            return await self._send("GET", f"/templates/{quote(name)}")
        except NoSuchThingError:
            return None

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Raw:
        answer: Raw = await self.client.send(method, path, body=body)
        return answer


def _refuse_namespaces(everywhere: bool) -> None:
    if everywhere:
        raise CliError(
            "a gateway shows all its namespaces: remove --all-namespaces, or use --kubeconfig",
            USAGE,
        )
