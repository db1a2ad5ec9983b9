"""Headers and cookies of a desktop's host, as the edge reads and writes them. Pure.

Traefik's `forwardAuth` describes the browser's request in X-Forwarded-* and passes its headers on. Traefik overwrites
X-Forwarded-* headers of the browser. A header that comes twice is refused here, because its writer is unknown.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from vdi.gateway.settings import Settings
from vdi.gateway.web.credentials import COOKIE_PREFIX
from vdi.gateway.web.middleware import TRANSPORT_HEADERS

# The short-lived token (JWT) that opens one desktop.
DESKTOP_COOKIE = "__Host-vdi-desktop"

# The secret of the grant: renews the token for as long as the grant lasts.
GRANT_COOKIE = "__Host-vdi-grant"
# What ties a ticket to the browser that asked for it.
STATE_COOKIE = "__Host-vdi-state"
# Set while a page of the desktop, which has loaded itself again, is on its way through the portal.
RELOAD_COOKIE = "__Host-vdi-reload"
# Which session this browser entered last at this host.
LAST_COOKIE = "__Host-vdi-last"
# On every answer that the gateway gives on a desktop's host: the waiting page tells by it who has answered.
MARK = "X-VDI-Gateway"

# The Middleware `vdi-edge-auth`, without its address. What is read and answered here and what Traefik passes on belong
# together; the chart's test compares them.
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
    "authResponseHeaders": ["Authorization", "Cookie", "Sec-WebSocket-Protocol", "Selkies-Authorization"],
    "addAuthCookiesToResponse": [DESKTOP_COOKIE],
}
# The Middleware `vdi-edge-headers`: set on every response of a desktop. Pages of other hosts hold no window of a
# desktop: they could send it messages, and lead it to a false login page. A desktop does not say which server it runs,
# and does not clear cookies: the browser would forget those of the whole domain, the login at the portal among them.
DESKTOP_RESPONSE_HEADERS: Mapping[str, str] = {
    **TRANSPORT_HEADERS,
    # Not same-origin: pages of a desktop may open a sign-in window of another site and hear from it.
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
    # Traefik removes a header whose value is empty.
    "Clear-Site-Data": "",
    "Server": "",
}

# Of cookies that a desktop is sent. Selkies sets none.
COOKIE_BYTES = 4096
_LONGEST_NEXT = 2048
_VISIBLE = re.compile(r"[!-~]+")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# The first label of a desktop's host name.
LABEL = re.compile(_LABEL)


class AmbiguousError(ValueError):
    """Raised when a header came twice that must come once; names it."""


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by their names in lower case, as ASGI gives them. Raises AmbiguousError."""
    found: dict[bytes, bytes] = {}
    for name, value in raw:
        if name in found:
            if name == b"cookie":
                value = found[name] + b"; " + value
            elif name.startswith((b"x-forwarded-", b"sec-", b"origin", b"host")):
                raise AmbiguousError(f"the header {name.decode('latin-1')} was sent twice; allowed: once")
        found[name] = value
    return found


class Hosts:
    """Which hosts are desktops' hosts."""

    def __init__(self, settings: Settings) -> None:
        self._portal = settings.portal_label
        self._host = re.compile(rf"({_LABEL})\.{re.escape(settings.domain)}\.?(?::\d{{1,5}})?")

    def label(self, host: str) -> str | None:
        """The label of a desktop's host, written in whatever case, with or without a port and the root's dot.

        None: another host, or the portal's.
        """
        found = self._host.fullmatch(host.lower()) if len(host) <= 300 else None
        return found[1] if found and found[1] != self._portal else None


def without_ours(header: str) -> str:
    """The Cookie header as the desktop may see it."""
    if COOKIE_PREFIX.lower() not in header.lower():
        return header
    kept = (part.strip() for part in header.split(";"))
    return "; ".join(part for part in kept if part and not part.lower().startswith(COOKIE_PREFIX.lower()))


def that_fit(header: str) -> str:
    """The Cookie header without what is too much for a desktop's server.

    Another desktop may have planted cookies for the whole domain. Selkies refuses a header field of 8190 bytes, and its
    page would answer nothing but 400 for as long as those last; small ones among large ones are passed on.
    """
    if len(header) <= COOKIE_BYTES:
        return header
    kept, room = [], COOKIE_BYTES
    for part in header.split("; "):
        if len(part) + 2 <= room:
            kept.append(part)
            room -= len(part) + 2
    return "; ".join(kept)


def is_navigation(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a person's browser wants a page: only then a redirect helps. Old browsers tell only by Accept."""
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
    """Whether another site's page has sent this, a desktop of somebody else among them.

    All desktops are the same *site*, so SameSite cookies are sent along. What another origin may do is lead a person
    here, to a page; never call, post, embed, open a socket, or load from the API.
    """
    given = headers.get(b"origin")
    if given is not None and given != origin.encode():
        return True
    if headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin"):
        return False
    return not navigation or path.startswith("/api/")


def is_by_hand(headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
    """Whether a person has typed this address or followed a link to it.

    Sec-Fetch-User alone does not tell: it is also sent when a page loads itself again within five seconds of a click
    or a key in it, and in a desktop there is always one.
    """
    if headers.get("sec-fetch-user") != "?1":
        return False
    return headers.get("sec-fetch-site") != "same-origin" and RELOAD_COOKIE not in cookies


def local_path(text: str | None) -> str:
    """The path itself when it is one on this very host, fit for a Location header; `/` otherwise.

    Browsers read `//host` and `/\\host` as another host, and cut out tabs and line ends before they do.
    """
    if not text or len(text) > _LONGEST_NEXT or not _VISIBLE.fullmatch(text) or "\\" in text or "#" in text:
        return "/"
    if not text.startswith("/") or text.startswith(("//", "/.vdi/")) or "/../" in f"{text.partition('?')[0]}/":
        return "/"
    return text


def quoted(text: str) -> str:
    """For the value of a query parameter."""
    return quote(text, safe="/")


STATE_SECONDS = 300
RELOAD_SECONDS = 60
# The longest that browsers keep a cookie.
LAST_SECONDS = 400 * 24 * 3600


def desktop_cookie(token: str, seconds: int) -> tuple[bytes, bytes]:
    """The Set-Cookie header with a token."""
    return b"set-cookie", _line(DESKTOP_COOKIE, token, seconds).encode()


def grant_cookie(handle: str, seconds: int) -> tuple[bytes, bytes]:
    """The Set-Cookie header with a grant's handle."""
    return b"set-cookie", _line(GRANT_COOKIE, handle, seconds).encode()


def state_cookie(state: str) -> tuple[bytes, bytes]:
    """The Set-Cookie header with what ties a ticket to this browser."""
    return b"set-cookie", _line(STATE_COOKIE, state, STATE_SECONDS).encode()


def reload_cookie(there: bool) -> tuple[bytes, bytes]:
    """The Set-Cookie header that remembers, or forgets, that a page has loaded itself again."""
    return b"set-cookie", _line(RELOAD_COOKIE, "1" if there else "", RELOAD_SECONDS if there else 0).encode()


def last_cookie(session: str) -> tuple[bytes, bytes]:
    """The Set-Cookie header that remembers which session was entered here."""
    return b"set-cookie", _line(LAST_COOKIE, session, LAST_SECONDS).encode()


def forget_cookies(response: Response) -> None:
    """Make the browser forget what lets it in."""
    for name in (DESKTOP_COOKIE, GRANT_COOKIE, STATE_COOKIE):
        add_header(response, (b"set-cookie", _line(name, "", 0).encode()))


def add_header(response: Response, header: tuple[bytes, bytes]) -> None:
    """One more header, beside others of its name."""
    response.raw_headers.append(header)


def _line(name: str, value: str, seconds: int) -> str:
    return f"{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"
