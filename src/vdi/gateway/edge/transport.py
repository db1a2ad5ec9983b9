"""Between the way in and the page of a desktop that streams over WebRTC: `/.vdi/transport`.

Selkies' own page shows nothing for a minute when nothing gets through to the TURN server. So a page of ours asks for a
relay first, in this browser, on this network; without one it has the desktop go over to WebSocket, and says so.
It also gives Selkies' page the grant's own token, which over WebRTC the desktop wants to hear from the page itself.
docs/design/turn.md.
"""

import hashlib
import hmac
import logging
from datetime import datetime

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from vdi.api.session import FULL_CONTROL, Phase, Role
from vdi.api.template import VDITemplate
from vdi.gateway.context import GatewayContext
from vdi.gateway.desktop_key import DesktopKey, DesktopKeyError
from vdi.gateway.edge.assets import asset_address
from vdi.gateway.edge.authorizer import Admitted, Authorizer
from vdi.gateway.edge.cookies import add_header, desktop_cookie
from vdi.gateway.edge.headers import MARK, Hosts, is_foreign, is_navigation, local_path, quoted
from vdi.gateway.edge.selkies import marked
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.web.render import Renderer
from vdi.session.selkies_tokens import grant_token
from vdi.session.streaming import uses_webrtc

log = logging.getLogger(__name__)

PATH = "/.vdi/transport"
WINDOW_SECONDS = 30
"""Selkies' page opens for one to two of these after the test: a page that loads itself again is tested again."""
_BLOCKED = "This network cannot reach the TURN server that WebRTC needs. UDP may be blocked."
_NO_SERVER = "WebRTC needs a TURN server, and none is configured."
_OURS = {MARK: "1"}


def streams_webrtc(template: VDITemplate | None) -> bool:
    """Whether desktops of this template begin with WebRTC."""
    return template is not None and uses_webrtc(template.spec)


def page_mark(grant_id: str, now: datetime) -> str:
    """What marks the address of Selkies' page for this grant, for a while."""
    return _mark(grant_id, int(now.timestamp()) // WINDOW_SECONDS)


def is_fresh(mark: str, grant_id: str, now: datetime) -> bool:
    """Whether the address with this mark was made just now, for this grant: the token in its fragment is its own."""
    window = int(now.timestamp()) // WINDOW_SECONDS
    return any(hmac.compare_digest(mark, _mark(grant_id, recent)) for recent in (window, window - 1))


def _mark(grant_id: str, window: int) -> str:
    return hashlib.sha256(f"vdi-page/{grant_id}/{window}".encode()).hexdigest()[:12]


class TransportPage:
    """The page; its script does the rest."""

    def __init__(self, context: GatewayContext, *, authorizer: Authorizer, key: DesktopKey) -> None:
        self._settings = context.settings
        self._hosts = Hosts(context.settings)
        self._renderer = Renderer(context.settings)
        self._cluster = context.cluster
        self._clock = context.clock
        self._authorizer = authorizer
        self._key = key

    async def page(self, request: Request) -> Response:
        """For who may enter this desktop. A token is in it: no script gets it, and no page of another origin."""
        label = self._hosts.label(request.headers.get("host", "")) or ""
        headers = dict(request.headers.raw)
        navigation = is_navigation(request.method, headers)
        origin = self._settings.url(self._settings.host(label))
        if not navigation or is_foreign(PATH, headers, origin, navigation=navigation):
            return _plain(403, "This page is for a browser on the desktop's own host.")
        next_path = local_path(request.query_params.get("next"))
        session = self._cluster.by_host(label)
        try:
            admitted = await self._authorizer.admit(session, request.headers.get("cookie", "")) if session else None
        except DatabaseUnavailableError as error:
            log.warning("no one is let in without a valid token: %s", error)
            return _plain(503, "The gateway's database does not respond.")
        if admitted is None:
            return RedirectResponse(f"/.vdi/start?next={quoted(next_path)}", 302, _OURS)
        session = admitted.session
        running = session.status.phase == Phase.RUNNING and not session.spec.suspended
        if not running or not streams_webrtc(self._cluster.template(session.spec.template)):
            return RedirectResponse(next_path, 302, _OURS)  # the edge knows where that leads
        try:
            master = (await self._key.tokens(session)).password
        except DesktopKeyError as error:
            log.warning("session %s cannot be opened: %s", session.metadata.name, error)
            return _plain(503, "The address of this desktop is not known yet.")
        return self._show(request, admitted, next_path, master)

    def _show(self, request: Request, admitted: Admitted, next_path: str, master: str) -> Response:
        claims, session = admitted.claims, admitted.session
        page = marked(next_path, page_mark(claims.gid, self._clock()))
        response = self._renderer.render(
            request,
            "transport.html",
            name=session.metadata.name,
            owner=session.spec.user if claims.role is not Role.OWNER else "",
            page=f"{page}#token={grant_token(master, claims.gid)}",
            waits=f"/.vdi/wait?next={quoted(next_path)}",
            why=_BLOCKED if self._settings.turn_urls else _NO_SERVER,
            may_switch=claims.role in FULL_CONTROL,
            script=asset_address("transport.js"),
            style=asset_address("wait.css"),
            portal=self._settings.portal_url,
        )
        response.headers.update(_OURS)
        if admitted.token:
            add_header(response, desktop_cookie(admitted.token, self._settings.token_seconds))
        return response


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, {**_OURS, "Cache-Control": "no-store"})
