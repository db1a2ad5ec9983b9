"""Asks the agent in a desktop, as its operator does: at the pod's address, with a token that only the two know.

What an agent answers is untrusted input: its user can put any program in its place. So no proxy of the environment,
no redirects, and an end to how long and how large an answer may be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from vdi.api.session import Role, VDISession
from vdi.gateway.addresses import NO_AUTHORITIES, desktop_url
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_key import DesktopKey, DesktopKeyError
from vdi.gateway.rights import role_in
from vdi.gateway.users import User
from vdi.http_client import HTTP_ERRORS, BadResponseError, Response, open_client

AGENT_PORT = 8082


@dataclass(frozen=True, slots=True)
class DesktopAgent:
    """The agents of all desktops."""

    key: DesktopKey
    address: Callable[[VDISession], str] = lambda session: desktop_url(session, AGENT_PORT)
    """URL of the agent in a session's desktop."""

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
            self.key.reread()  # perhaps there is another key
        return answer


def find_session(context: GatewayContext, user: User, name: str) -> tuple[VDISession, Role | None]:
    """A session whose existence the user may know, and the user's role in it; administrators have none in others'.

    Raises ActionDenied with NotFound.
    """
    session = context.cluster.session(name)
    role = role_in(session, user.email, context.clock()) if session else None
    if session is None or (role is None and not user.admin):
        raise ActionDenied("NotFound", f"You have no desktop {name!r}.")
    return session, role
