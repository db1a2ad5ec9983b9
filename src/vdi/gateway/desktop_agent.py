"""Asks the agent in a desktop, as its operator does: at the pod's address, with the token in the session's Secret.

What an agent answers is untrusted input: its user can put any program in its place. So no proxy of the environment,
no redirects, and an end to how long and how large an answer may be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from vdi.api.session import Role, VDISession
from vdi.gateway.addresses import NO_AUTHORITIES, desktop_url
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.edge.selkies import read_key
from vdi.gateway.rights import role_in
from vdi.gateway.users import User
from vdi.http_client import HTTP_ERRORS, BadResponseError, Response, open_client
from vdi.kube.errors import KubeError
from vdi.kube.transport import Client
from vdi.session.children.secret import AGENT_TOKEN_KEY

AGENT_PORT = 8082
_KNOWN_TOKENS = 10_000
"""Tokens that are remembered; of more, all are forgotten and read again."""


@dataclass(frozen=True, slots=True)
class DesktopAgent:
    """The agents of all desktops."""

    client: Client
    address: Callable[[VDISession], str] = lambda session: desktop_url(session, AGENT_PORT)
    """URL of the agent in a session's desktop."""
    _tokens: dict[str, str] = field(default_factory=dict)
    """By the session's uid: the Secret is immutable, and lasts as long as its session."""

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
        """One request, whole within `seconds`. Raises ActionDenied, with its cause, where no answer comes."""
        meta = session.metadata
        url = f"{self.address(session)}{path}"
        headers = {"Authorization": f"Bearer {await self._token(session)}"}
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
            self._tokens.pop(meta.uid, None)  # perhaps the Secret was replaced
        return answer

    async def _token(self, session: VDISession) -> str:
        meta = session.metadata
        if known := self._tokens.get(meta.uid):
            return known
        try:
            token = await read_key(self.client, session, AGENT_TOKEN_KEY)
        except (KubeError, ValueError) as error:
            raise ActionDenied(
                "Unavailable", f"The address of the agent in {meta.name!r} is not known right now."
            ) from error
        if not (token and token.isascii() and token.isprintable()):
            raise ActionDenied("Conflict", f"The desktop {meta.name!r} has no agent that the gateway can ask.")
        if len(self._tokens) >= _KNOWN_TOKENS:
            self._tokens.clear()
        self._tokens[meta.uid] = token
        return token


def find_session(context: GatewayContext, user: User, name: str) -> tuple[VDISession, Role | None]:
    """A session whose existence the user may know, and the user's role in it; administrators have none in others'.

    Raises ActionDenied with NotFound.
    """
    session = context.cluster.session(name)
    role = role_in(session, user.email, context.clock()) if session else None
    if session is None or (role is None and not user.admin):
        raise ActionDenied("NotFound", f"You have no desktop {name!r}.")
    return session, role
