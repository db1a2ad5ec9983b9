"""Pages of a desktop that streams over WebRTC: the test of the network (`/.vdi/transport`), and TURN credentials.

Selkies' own page shows nothing for a minute when the browser cannot reach the TURN server. So a page of the gateway
asks for a relay first; without one it switches the desktop to WebSocket and says so. It also gives Selkies' page the
grant's token, which over WebRTC must come from the page itself. `GET /api/turn` is answered here and not in the pod, so
the secret of the TURN server stays with the gateway. Design: docs/design/turn.md.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from vdi.api.session import FULL_CONTROL, Phase, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop_agent import DesktopKey, DesktopKeyError
from vdi.gateway.edge.assets import asset_address
from vdi.gateway.edge.authorizer import Admitted, Authorizer
from vdi.gateway.edge.headers import (
    MARK,
    Hosts,
    add_header,
    desktop_cookie,
    is_foreign,
    is_navigation,
    local_path,
    quoted,
)
from vdi.gateway.edge.selkies import PAGE_MARK, mark_of, marked, opened, page_of
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.render import Renderer
from vdi.session.credentials import grant_token, make_turn_credentials
from vdi.session.streaming import takes_tokens, uses_webrtc

log = logging.getLogger(__name__)

TRANSPORT_PATH = "/.vdi/transport"
# Selkies' page opens for one to two of these after the test: a page that loads itself again is tested again.
WINDOW_SECONDS = 30

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
        if not navigation or is_foreign(TRANSPORT_PATH, headers, origin, navigation=navigation):
            return _plain_page(403, "This page is for a browser on the desktop's own host.")
        next_path = local_path(request.query_params.get("next"))
        session = self._cluster.by_host(label)
        try:
            admitted = await self._authorizer.admit(session, request.headers.get("cookie", "")) if session else None
        except DatabaseUnavailableError as error:
            log.warning("no one is let in without a valid token: %s", error)
            return _plain_page(503, "The gateway's database does not respond.")
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
            return _plain_page(503, "The address of this desktop is not known yet.")
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


def _plain_page(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, {**_OURS, "Cache-Control": "no-store"})


TURN_PATH = "/api/turn"
# As the chart's TURN server takes it.
_SECRET = re.compile(r"[A-Za-z0-9+/=_.~-]{32,}")
_FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class IceServer(TypedDict, total=False):
    """An entry of a browser's RTCConfiguration."""

    urls: list[str]
    username: str
    credential: str


def ice_servers(urls: Sequence[str], secret: str, user: str, expires: datetime) -> list[IceServer]:
    """What the page gives to its connection: the servers for STUN first, then for TURN, as Selkies' page counts on."""
    name, password = make_turn_credentials(secret, user, expires)
    stun = dict.fromkeys(url.partition("?")[0].replace("turn:", "stun:", 1) for url in urls if url.startswith("turn:"))
    return [{"urls": [*stun]}, {"urls": [*urls], "username": name, "credential": password}]


class TurnPage:
    """The route on every desktop's host."""

    def __init__(self, context: GatewayContext, authorizer: Authorizer) -> None:
        self._settings = context.settings
        self._hosts = Hosts(context.settings)
        self._cluster = context.cluster
        self._clock = context.clock
        self._authorizer = authorizer

    async def answer(self, request: Request) -> Response:
        """Credentials for this session, for who may enter it."""
        label = self._hosts.label(request.headers.get("host", "")) or ""
        origin = self._settings.url(self._settings.host(label))
        if is_foreign(TURN_PATH, dict(request.headers.raw), origin, navigation=False):
            return _plain_turn(403, "This request came from a page of another site.")
        session = self._cluster.by_host(label)
        try:
            admitted = await self._authorizer.admit(session, request.headers.get("cookie", "")) if session else None
        except DatabaseUnavailableError as error:
            log.warning("no TURN credentials without a token that holds: %s", error)
            return _plain_turn(503, "The gateway's database does not respond.")
        if session is None or admitted is None:
            return _plain_turn(401, "You have not opened this desktop, or you no longer have access to it.")
        ttl: timedelta = self._settings.turn_ttl
        servers: list[IceServer] = []
        if self._settings.turn_urls:
            secret = read_secret(self._settings.turn_secret_file)
            if not secret:
                return _plain_turn(503, "The TURN server's secret is not known.")
            servers = ice_servers(self._settings.turn_urls, secret, session.metadata.uid, self._clock() + ttl)
        response = JSONResponse(
            {"lifetimeDuration": f"{int(ttl.total_seconds())}s", "iceServers": servers}, 200, _FRESH
        )
        if admitted.token:
            add_header(response, desktop_cookie(admitted.token, self._settings.token_seconds))
        return response


def read_secret(path: Path | None) -> str:
    """The secret as the file has it now, so that a rotation needs no restart; empty, with a line in the log, if not."""
    try:
        text = path.read_text().strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        log.error("VDI_TURN_SECRET_FILE=%s cannot be read: %s", path, error)
        return ""
    if not _SECRET.fullmatch(text):
        log.error("VDI_TURN_SECRET_FILE=%s: allowed: 32 or more of A-Z a-z 0-9 + / = _ . ~ -", path)
        return ""
    return text


def _plain_turn(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, _FRESH)


# After a desktop has become ready: a pool's is that in a moment, and Traefik takes in routes every 2 s at most (its
# providersThrottleDuration).
NEW_SECONDS = 5


def find_first_page(
    session: VDISession, template: VDITemplate | None, *, grant_id: str, uri: str, now: datetime
) -> str:
    """The address to redirect to; empty: the desktop answers at `uri`, an address on its own host."""
    page = page_of(uri)
    if session.spec.suspended or session.status.phase != Phase.RUNNING:
        return f"/.vdi/wait?next={quoted(page)}"
    if uri.partition("?")[0] != "/":
        return ""
    if streams_webrtc(template):
        return "" if is_fresh(mark_of(uri), grant_id, now) else f"{TRANSPORT_PATH}?next={quoted(page)}"
    if mark_of(uri) == PAGE_MARK:
        return ""
    if _is_new(session, now):
        # Until Traefik knows of a new desktop it has nothing to show but an error: that page asks first.
        return f"/.vdi/open?next={quoted(page)}"
    return opened(page) if template is None or takes_tokens(template.spec) else ""


def _is_new(session: VDISession, now: datetime) -> bool:
    ready = session.status.ready_time
    return bool(ready) and (now - parse_time(ready)).total_seconds() < NEW_SECONDS
