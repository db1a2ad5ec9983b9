"""Credentials for the TURN server that a desktop's page asks for before it streams over WebRTC: `GET /api/turn`.

Selkies would answer that from the desktop's pod, and would need the server's secret there. So the gateway answers in
its place: whoever may enter the desktop gets credentials that end by themselves, the pod gets none, and the secret
stays between gateway and TURN server. Without a TURN server the answer is an empty list: Selkies would name servers
of strangers. docs/design/turn.md.
"""

import logging
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from vdi.gateway.context import GatewayContext
from vdi.gateway.edge.authorizer import Authorizer
from vdi.gateway.edge.cookies import add_header, desktop_cookie
from vdi.gateway.edge.headers import Hosts, is_foreign
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.session.turn_credentials import make_credentials

log = logging.getLogger(__name__)

PATH = "/api/turn"
_SECRET = re.compile(r"[A-Za-z0-9+/=_.~-]{32,}")
"""As the chart's TURN server takes it."""
_FRESH = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class IceServer(TypedDict, total=False):
    """An entry of a browser's RTCConfiguration."""

    urls: list[str]
    username: str
    credential: str


def ice_servers(urls: Sequence[str], secret: str, user: str, expires: datetime) -> list[IceServer]:
    """What the page gives to its connection: the servers for STUN first, then for TURN, as Selkies' page counts on."""
    name, password = make_credentials(secret, user, expires)
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
        if is_foreign(PATH, dict(request.headers.raw), origin, navigation=False):
            return _plain(403, "This request came from a page of another site.")
        session = self._cluster.by_host(label)
        try:
            admitted = await self._authorizer.admit(session, request.headers.get("cookie", "")) if session else None
        except DatabaseUnavailableError as error:
            log.warning("no TURN credentials without a token that holds: %s", error)
            return _plain(503, "The gateway's database does not respond.")
        if session is None or admitted is None:
            return _plain(401, "You have not opened this desktop, or you no longer have access to it.")
        ttl: timedelta = self._settings.turn_ttl
        servers: list[IceServer] = []
        if self._settings.turn_urls:
            secret = read_secret(self._settings.turn_secret_file)
            if not secret:
                return _plain(503, "The TURN server's secret is not known.")
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


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status, _FRESH)
