"""Pages of a desktop that streams over WebRTC: the test of the network (`/.vdi/transport`), and
TURN credentials.

Selkies' own page shows nothing for a minute when the browser cannot reach the TURN server. So a
page of the gateway asks for a relay first; without one it switches the desktop to WebSocket and
says so. It also gives Selkies' page the grant's token, which over WebRTC must come from the page
itself. `GET /api/turn` is answered here and not in the pod, so the secret of the TURN server stays
with the gateway. Design: docs/design/edge.md#turn.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from vdi.api.session import FULL_CONTROL, Role
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop.agent import DesktopKey, DesktopKeyError
from vdi.gateway.edge.authorizer import Authorizer
from vdi.gateway.edge.headers import OURS, is_foreign, is_navigation, local_path, quoted
from vdi.gateway.edge.selkies import TRANSPORT_PATH, marked, page_mark, streams_webrtc
from vdi.gateway.web.render import Renderer
from vdi.session.credentials import grant_token, make_turn_credentials
from vdi.session.status import is_running

log = logging.getLogger(__name__)

TURN_PATH = "/api/turn"
_BLOCKED = "This network cannot reach the TURN server that WebRTC needs. UDP may be blocked."
_NO_SERVER = "WebRTC needs a TURN server, and none is configured."
# The characters and length that the chart's TURN server accepts.
_SECRET = re.compile(r"[A-Za-z0-9+/=_.~-]{32,}")


@dataclass(eq=False, kw_only=True)
class TransportPage:
    """`/.vdi/transport`; its script tests the network."""

    context: GatewayContext
    authorizer: Authorizer
    key: DesktopKey

    async def page(self, request: Request) -> Response:
        """The page, for a user who may enter this desktop."""
        # The page has a token in it, so no script gets it, and no page of another origin.
        headers = dict(request.headers.raw)
        navigation = is_navigation(request.method, headers)
        origin = self.authorizer.hosts.origin_of(request)
        if not navigation or is_foreign(TRANSPORT_PATH, headers, origin, navigation=navigation):
            return PlainTextResponse(
                "This page is for a browser on the desktop's own host.\n", 403, OURS
            )
        next_path = local_path(request.query_params.get("next"))
        admitted = await self.authorizer.admit_request(request)
        if admitted is None:
            return RedirectResponse(f"/.vdi/start?next={quoted(next_path)}", 302, OURS)
        claims, session = admitted.claims, admitted.session
        template = self.context.cluster.template(session.spec.template)
        if not is_running(session) or not streams_webrtc(template):
            return RedirectResponse(next_path, 302, OURS)  # the edge knows where that leads
        try:
            master = (await self.key.tokens(session)).password
        except DesktopKeyError as error:
            log.warning("session %s cannot be opened: %s", session.metadata.name, error)
            return PlainTextResponse("The address of this desktop is not known yet.\n", 503, OURS)
        page = marked(next_path, page_mark(claims.gid, self.context.clock()))
        response = Renderer(self.context.settings).render(
            request,
            "transport.html",
            name=session.metadata.name,
            owner=session.spec.user if claims.role is not Role.OWNER else "",
            page=f"{page}#token={grant_token(master, claims.gid)}",
            waits=f"/.vdi/wait?next={quoted(next_path)}",
            why=_BLOCKED if self.context.settings.turn_urls else _NO_SERVER,
            may_switch=claims.role in FULL_CONTROL,
        )
        response.headers.update(OURS)
        self.authorizer.renew_cookie(response, admitted.token)
        return response


def ice_servers(
    urls: Sequence[str], secret: str, user: str, expires: datetime
) -> list[dict[str, Any]]:
    """Servers of the page's connection: those for STUN first, then those for TURN, as Selkies' page
    expects.
    """
    name, password = make_turn_credentials(secret, user, expires)
    stun = dict.fromkeys(
        url.partition("?")[0].replace("turn:", "stun:", 1)
        for url in urls
        if url.startswith("turn:")
    )
    return [{"urls": [*stun]}, {"urls": [*urls], "username": name, "credential": password}]


@dataclass(eq=False, kw_only=True)
class TurnPage:
    """`GET /api/turn` of every desktop's host."""

    context: GatewayContext
    authorizer: Authorizer

    async def answer(self, request: Request) -> Response:
        """Credentials for this session, which end by themselves, for a user who may enter it."""
        origin = self.authorizer.hosts.origin_of(request)
        if is_foreign(TURN_PATH, dict(request.headers.raw), origin, navigation=False):
            return PlainTextResponse("This request came from a page of another site.\n", 403)
        admitted = await self.authorizer.admit_request(request)
        if admitted is None:
            text = "You have not opened this desktop, or you no longer have access to it.\n"
            return PlainTextResponse(text, 401)
        # Without a TURN server the list is empty: Selkies itself would name servers of strangers.
        ttl, servers = self.context.settings.turn_ttl, list[dict[str, Any]]()
        if self.context.settings.turn_urls:
            secret = read_secret(self.context.settings.turn_secret_file)
            if not secret:
                return PlainTextResponse("The TURN server's secret is not known.\n", 503)
            user = admitted.session.metadata.uid
            servers = ice_servers(
                self.context.settings.turn_urls, secret, user, self.context.clock() + ttl
            )
        response = JSONResponse(
            {"lifetimeDuration": f"{int(ttl.total_seconds())}s", "iceServers": servers}
        )
        self.authorizer.renew_cookie(response, admitted.token)
        return response


def read_secret(path: Path | None) -> str:
    """The secret in the file; empty, with a line in the log, if it cannot be used. Read again for
    each request.
    """
    try:
        text = path.read_text().strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        log.error("VDI_TURN_SECRET_FILE=%s cannot be read: %s", path, error)
        return ""
    if not _SECRET.fullmatch(text):
        log.error("VDI_TURN_SECRET_FILE=%s: allowed: 32 or more of A-Z a-z 0-9 + / = _ . ~ -", path)
        return ""
    return text
