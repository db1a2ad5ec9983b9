"""Headers and cookies of a desktop's host, as the edge reads and writes them. Pure.

Traefik's `forwardAuth` describes the browser's request in X-Forwarded-* headers and passes the
browser's own headers on. Traefik overwrites X-Forwarded-* headers of the browser. A header that
comes twice is refused here, because its writer is unknown.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import HTTPConnection

from vdi.gateway.settings import Settings
from vdi.gateway.web.credentials import COOKIE_PREFIX
from vdi.gateway.web.middleware import TRANSPORT_HEADERS

# The short-lived token (JWT) that opens one desktop.
DESKTOP_COOKIE = "__Host-vdi-desktop"
# The secret of the grant: renews the token for as long as the grant lasts.
GRANT_COOKIE = "__Host-vdi-grant"
# Binds a ticket to the browser that requested it.
STATE_COOKIE = "__Host-vdi-state"
# Set while a desktop's page that reloaded itself is being redirected through the portal: not a
# person's click.
RELOAD_COOKIE = "__Host-vdi-reload"
# A hash of the session that this browser entered last at this host.
LAST_COOKIE = "__Host-vdi-last"
# On every response of the gateway at a desktop's host. Scripts of our pages there tell by it
# whether the gateway or the desktop has responded. Error pages have no mark: a gateway without its
# database is no gateway that works.
MARK = "X-VDI-Gateway"
OURS = {MARK: "1"}

# Spec of the Middleware `vdi-edge-auth`, without its address. Traefik passes on no header that is
# not listed, so a header that the edge begins to read joins this list; a test of the chart compares
# both.
FORWARD_AUTH: Mapping[str, Any] = {
    "trustForwardHeader": False,
    "authRequestHeaders": [
        "Accept",
        "Cookie",
        "Origin",
        "Sec-Fetch-Dest",
        "Sec-Fetch-Mode",
        "Sec-Fetch-Site",
        "Sec-Fetch-User",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Protocol",
        "Service-Worker",
    ],
    "authResponseHeaders": [
        "Authorization",
        "Cookie",
        "Sec-WebSocket-Protocol",
        "Selkies-Authorization",
    ],
    "addAuthCookiesToResponse": [DESKTOP_COOKIE],
}
# Spec of the Middleware `vdi-edge-headers`, set on every response of a desktop. Pages of other
# hosts get no handle of a desktop's window: they could send it messages, and navigate it to a false
# login page. A desktop may not clear cookies: the browser would forget those of the whole domain,
# the login at the portal among them.
DESKTOP_RESPONSE_HEADERS: Mapping[str, str] = {
    **TRANSPORT_HEADERS,
    # Not same-origin: pages of a desktop may open a sign-in window of another site and hear from
    # it.
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    # Traefik removes a header whose value is empty.
    "Clear-Site-Data": "",
    "Server": "",
}

# Most bytes of cookies that a desktop gets. Selkies sets none.
COOKIE_BYTES = 4096
_LONGEST_NEXT = 2048
_VISIBLE = re.compile(r"[!-~]+")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The first label of a desktop's host name.
LABEL = re.compile(_LABEL)


class AmbiguousError(ValueError):
    """Raised for a header that came twice and may come once; names it."""


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by their names in lower case, as ASGI gives them. Raises AmbiguousError."""
    headers: dict[bytes, bytes] = {}
    for name, value in raw:
        if name in headers:
            if name == b"cookie":
                value = headers[name] + b"; " + value
            elif name.startswith((b"x-forwarded-", b"sec-", b"origin", b"host")):
                raise AmbiguousError(
                    f"the header {name.decode('latin-1')} was sent twice; allowed: once"
                )
        headers[name] = value
    return headers


class Hosts:
    """Names of desktops' hosts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._host = re.compile(rf"({_LABEL})\.{re.escape(settings.domain)}\.?(?::\d{{1,5}})?")

    def label(self, host: str) -> str | None:
        """The label of a desktop's host, in any case, with or without port and trailing dot; None:
        another host.
        """
        match = None
        if len(host) <= 300:
            match = self._host.fullmatch(host.lower())
        if match and match[1] != self._settings.portal_label:
            return match[1]
        return None

    def label_of(self, request: HTTPConnection) -> str | None:
        """The label of the host that a request on the public listener was sent to."""
        return self.label(request.headers.get("host", ""))

    def origin_of(self, request: HTTPConnection) -> str:
        """The origin of pages at that host; empty where it is no desktop's host."""
        label = self.label_of(request)
        if label:
            return self._settings.url(self._settings.host(label))
        return ""


def desktop_cookie(token: str, seconds: int) -> tuple[bytes, bytes]:
    """The Set-Cookie header with a desktop token."""
    line = f"{DESKTOP_COOKIE}={token}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"
    return b"set-cookie", line.encode()


def without_ours(header: str) -> str:
    """The Cookie header without the gateway's cookies, which no desktop may see."""
    if COOKIE_PREFIX.lower() not in header.lower():
        return header
    kept = (part.strip() for part in header.split(";"))
    return "; ".join(
        part for part in kept if part and not part.lower().startswith(COOKIE_PREFIX.lower())
    )


def that_fit(header: str) -> str:
    """The Cookie header, at most COOKIE_BYTES long; small cookies among large ones are passed
    on.
    """
    # Another desktop may have planted cookies for the whole domain. Selkies refuses a header field
    # of 8190 bytes, and its page would get nothing but 400 for as long as such cookies last.
    if len(header) <= COOKIE_BYTES:
        return header
    kept, room = [], COOKIE_BYTES
    for part in header.split("; "):
        if len(part) + 2 <= room:
            kept.append(part)
            room -= len(part) + 2
    return "; ".join(kept)


def is_navigation(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser loads a page: only then a redirect helps. Old browsers show it by Accept
    alone.
    """
    if method != "GET" or b"sec-websocket-key" in headers:
        return False
    mode = headers.get(b"sec-fetch-mode")
    if mode is None:
        return b"text/html" in headers.get(b"accept", b"")
    return mode == b"navigate" and headers.get(b"sec-fetch-dest", b"document") == b"document"


def is_service_worker(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser fetches the script of a service worker, to register or to update it."""
    return b"service-worker" in headers or headers.get(b"sec-fetch-dest") == b"serviceworker"


def is_foreign(path: str, headers: Mapping[bytes, bytes], origin: str, *, navigation: bool) -> bool:
    """Whether a page of another origin has sent this request, and may not."""
    # All desktops are one *site*, so browsers send SameSite cookies along when one desktop's page
    # calls another's. Another origin may only link a person to a page here: never call, post,
    # embed, open a socket, or load the API.
    given = headers.get(b"origin")
    if given is not None and given != origin.encode():
        return True
    if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return False
    return not navigation or path.startswith("/api/")


def is_by_hand(headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
    """Whether a person has typed this address or followed a link to it."""
    # Sec-Fetch-User alone does not tell: browsers also send it when a page reloads itself within
    # five seconds of a click or a key in it, and in a desktop there is always one.
    if headers.get("sec-fetch-user") != "?1":
        return False
    return headers.get("sec-fetch-site") != "same-origin" and RELOAD_COOKIE not in cookies


def local_path(text: str | None) -> str:
    """The text itself when it is a path on this host, fit for a Location header; `/` otherwise.

    Browsers read `//host` and `/\\host` as another host, and cut out tabs and line ends before they
    do.
    """
    if (
        not text
        or len(text) > _LONGEST_NEXT
        or not _VISIBLE.fullmatch(text)
        or "\\" in text
        or "#" in text
    ):
        return "/"
    if (
        not text.startswith("/")
        or text.startswith(("//", "/.vdi/"))
        or "/../" in f"{text.partition('?')[0]}/"
    ):
        return "/"
    return text


def quoted(text: str) -> str:
    """The text as the value of a query parameter."""
    return quote(text, safe="/")
