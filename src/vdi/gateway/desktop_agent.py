"""The agent in a desktop: requests to it, the key that authenticates them, and its report on start-up scripts.

The gateway asks an agent as the operator does: at the pod's address, with a token derived from the release's desktop
key. The gateway may read no Secret in the namespaces of sessions, so it derives the tokens itself; the operator draws
the key and writes the same tokens into the Secrets of desktops.

An agent's response is untrusted input, because its user can put any program in its place: no proxy of the environment,
no redirects, and a limit to time and size.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import Phase, Role, VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.rights import User, role_in
from vdi.gateway.web.middleware import is_address
from vdi.http_client import HTTP_ERRORS, BadResponseError, Response, open_client
from vdi.kube.errors import KubeError
from vdi.kube.http import url_host
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.credentials import KEY_SECRET, DesktopTokens, decode_key, derive_tokens
from vdi.session.naming import service_name

# For clients of desktops, which speak plain HTTP: loading the usual authorities takes 20 ms each time.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AGENT_PORT = 8082
# The desktop's page waits for the report on start-up scripts.
SCRIPTS_SECONDS = 2.0
SCRIPTS_MAX_BYTES = 64 * 1024
MAX_SCRIPTS = 2
MAX_LINES, MAX_CHARACTERS = 40, 4096
_TERMINAL_COMMAND = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def desktop_url(session: VDISession, port: int) -> str:
    """Base URL of a port of the session's pod."""
    # By address: cluster DNS learns of a ready desktop a moment after its session is Running, and a client that asked
    # before gets "no such name" for seconds (CoreDNS's `ttl`, 5 s). Under an operator that does not write status.podIP
    # yet, the name of the headless Service leads to the same port.
    address, meta = session.status.pod_ip, session.metadata
    host = address if is_address(address) else f"{service_name(meta.name)}.{meta.namespace}.svc"
    return f"http://{url_host(host)}:{port}"


class DesktopKeyError(Exception):
    """Raised when the key cannot be read now; says why, and shows nothing of it."""


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


class DesktopKey:
    """The release's desktop key, read once, and again after a desktop has refused a token.

    Meanwhile the last key counts: neither that desktop nor a slow API server may hold up the others.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._value = b""
        self._problem = ""
        self._reading: asyncio.Task[None] | None = None

    def reread(self) -> "asyncio.Task[None]":
        """Read the key, unless that is under way."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="desktop key")
        return self._reading

    async def tokens(self, session: VDISession) -> DesktopTokens:
        """The tokens of the session's desktop. Raises DesktopKeyError."""
        if not self._value:
            await asyncio.shield(self.reread())
        if not self._value:
            raise DesktopKeyError(self._problem)
        meta = session.metadata
        pod = session.status.pod_name
        return derive_tokens(self._value, namespace=meta.namespace, name=meta.name, uid=meta.uid, pod=pod)

    async def _read(self) -> None:
        try:
            secret = await self._client.get(SECRETS, KEY_SECRET, namespace=self._namespace, into=_Secret)
            self._value = decode_key(secret.data)
        except KubeError as error:
            self._problem = f"the Secret {self._namespace}/{KEY_SECRET} cannot be read: {error}"
        except ValueError as error:
            self._problem = f"the Secret {self._namespace}/{KEY_SECRET} {error}"


@dataclass(frozen=True, slots=True)
class DesktopAgent:
    """Requests to the agents in desktops. `address`: base URL of a session's agent."""

    key: DesktopKey
    address: Callable[[VDISession], str] = lambda session: desktop_url(session, AGENT_PORT)

    async def ask(
        self,
        session: VDISession,
        method: str,
        path: str,
        *,
        seconds: float,
        max_bytes: int,
        json: Mapping[str, object] | None = None,
    ) -> Response:
        """One request, complete within `seconds`. Raises ActionDenied, with its cause, without a response."""
        meta = session.metadata
        url = f"{self.address(session)}{path}"
        try:
            token = (await self.key.tokens(session)).agent
        except DesktopKeyError as error:
            raise ActionDenied(
                "Unavailable", f"The address of the agent in {meta.name!r} is not known right now."
            ) from error
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with open_client(url, seconds=seconds, tls=NO_AUTHORITIES, use_proxy=False) as http:
                answer = await http.request(
                    method, url, json=json, headers=headers, max_bytes=max_bytes, seconds=seconds
                )
        except BadResponseError as error:
            raise ActionDenied(
                "Conflict", f"The response of the agent in the desktop {meta.name!r} is refused: {error}."
            ) from error
        except HTTP_ERRORS as error:
            raise ActionDenied("Unavailable", f"The agent in the desktop {meta.name!r} does not respond.") from error
        if answer.status == HTTPStatus.UNAUTHORIZED:
            self.key.reread()  # the release may have a new key
        return answer


def find_session(context: GatewayContext, user: User, name: str) -> tuple[VDISession, Role | None]:
    """A session that the user may know of, and their role in it; None: an administrator. Raises ActionDenied."""
    session = context.cluster.session(name)
    role = role_in(session, user.email, context.clock()) if session else None
    if session is None or (role is None and not user.admin):
        words = f"You have no desktop {name!r}, and no desktop with this name is shared with you."
        raise ActionDenied("NotFound", words)
    return session, role


class StartupScriptResult(msgspec.Struct, rename="camel", omit_defaults=True):
    """One script and its result."""

    source: Annotated[
        Literal["template", "user"],
        doc("Whose script: `startupScript` of the template, or `~/.config/vdi/startup.sh` of the user."),
    ]
    state: Annotated[
        Literal["Running", "Ended", "NotStarted"],
        doc("NotStarted: it could not be started; `output` has the reason."),
    ]
    exit_code: Annotated[int | None, doc("Exit code of a script that has ended; 0: success.")] = None
    output: Annotated[str, doc(f"Its last lines: at most {MAX_LINES}, and {MAX_CHARACTERS} characters.")] = ""


class StartupScriptList(msgspec.Struct):
    """Scripts, in the order in which they started."""

    items: Annotated[tuple[StartupScriptResult, ...], doc("Those of the current start of the desktop.")]


class _Report(msgspec.Struct):
    scripts: tuple[StartupScriptResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupScripts:
    """Reads the results of start-up scripts, for REST API and portal."""

    context: GatewayContext
    agent: DesktopAgent

    async def read(self, user: User, name: str) -> tuple[StartupScriptResult, ...]:
        """The scripts of the user's own desktop since its start. Raises ActionDenied."""
        session, role = find_session(self.context, user, name)
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", f"Only the owner of desktop {name!r} can read what its scripts write.")
        if not is_readable(session, role):
            raise ActionDenied(
                "Conflict", f"The desktop {name!r} is not running, so it has no results of start-up scripts."
            )
        answer = await self.agent.ask(
            session, "GET", "/startup-scripts", seconds=SCRIPTS_SECONDS, max_bytes=SCRIPTS_MAX_BYTES
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied("Conflict", f"The image of desktop {name!r} does not report its start-up scripts.")
        if answer.status != HTTPStatus.OK:
            raise ActionDenied("Unavailable", f"The agent in {name!r} has no report now ({answer.status}).")
        try:
            scripts = answer.json(_Report).scripts
        except BadResponseError as error:
            raise ActionDenied("Conflict", f"The agent in {name!r} did not return a valid report.") from error
        return tuple(
            msgspec.structs.replace(script, output=last_lines(script.output)) for script in scripts[:MAX_SCRIPTS]
        )


def is_readable(session: VDISession, role: Role | None) -> bool:
    """Whether this role may read the report now."""
    return (
        role is Role.OWNER
        and session.status.phase == Phase.RUNNING
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
    )


def last_lines(output: str) -> str:
    """The end of a script's output as plain text: no colours, and no characters that reorder others."""
    # A script's output is untrusted input, of its author and of the desktop's user.
    text = _TERMINAL_COMMAND.sub("", output[-2 * MAX_CHARACTERS :]).replace("\r\n", "\n").replace("\r", "\n")
    plain = "".join(character for character in text if character in "\n\t" or character.isprintable())
    return "\n".join(plain[-MAX_CHARACTERS:].rstrip().split("\n")[-MAX_LINES:])
