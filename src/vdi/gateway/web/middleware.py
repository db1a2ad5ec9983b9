"""ASGI middleware of the two listeners: routing by host, limits of a body, request metrics,
security headers.
"""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable
from ipaddress import ip_address

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Network, Settings

PUBLIC_BODY = 64 * 1024
# Of a client that has not proved who it is: a login with a password of 300 characters has half of
# this.
ANONYMOUS_BODY = 4 * 1024
# A whole session with managedFields; the API server itself takes no more than 3 MiB.
INTERNAL_BODY = 4 * 1024 * 1024

BODY_SECONDS = 10.0
# Requests of such clients whose bodies have not arrived: each takes one of the listener's
# connections.
MOST_UNFINISHED = 256
# Key of the scope, set once a request has proved who sends it.
AUTHENTICATED = "vdi.authenticated"
# Key of the scope by which a route lifts the limits, except that of each piece's time: it passes
# the body on.
STREAMED = "vdi.streamed"
# Digits of a Content-Length; a longer one is refused before it is read as a number.
_DIGITS = 15
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KNOWN = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What desktops' responses have too, by Traefik's Middleware.
TRANSPORT_HEADERS = {
    # No host is below these, so includeSubDomains covers no one else. Not `preload`: that is about
    # a whole registered domain, which may serve more than desktops.
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
}
_NOT_NEEDED = (
    "accelerometer",
    "browsing-topics",
    "camera",
    "display-capture",
    "geolocation",
    "gyroscope",
    "hid",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "publickey-credentials-get",
    "serial",
    "usb",
)


class HostRouter:
    """Routes by host: the portal's app for its host, the desktops' app for other labels of the
    domain, else 421.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        portal: ASGIApp,
        desktops: ASGIApp,
        ready: Callable[[], bool],
        starting: ASGIApp,
    ) -> None:
        """`starting` answers until `ready`."""
        self._suffix = f".{settings.domain}"
        self._portal_label = settings.portal_label
        self._portal = portal
        self._desktops = desktops
        self._ready = ready
        self._starting = starting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        label = self._label(scope)
        # Only Traefik speaks to this listener, and everyone speaks TLS to Traefik.
        scope["scheme"] = "https"
        if label is None:
            answer = PlainTextResponse("Not found.\n", 421)
            await answer(scope, receive, send)
        elif not self._ready():
            await self._starting(scope, receive, send)
        else:
            await (self._portal if label == self._portal_label else self._desktops)(
                scope, receive, send
            )

    def _label(self, scope: Scope) -> str | None:
        """The first label of the Host header, if the rest is our domain; None for a request with
        two such headers.
        """
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1:
            return None
        host, colon, port = hosts[0].decode("latin-1").lower().partition(":")
        if (colon and not re.fullmatch(r"[0-9]{1,5}", port)) or not host.endswith(self._suffix):
            return None
        label = host.removesuffix(self._suffix)
        return label if _LABEL.fullmatch(label) else None


class BodyLimit:
    """Refuses a body that is too large (413) or too slow (408), with or without a Content-Length.

    `most` is for a request that is authenticated before its body is read, as all but the login's
    are.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        # Unfinished bodies of clients that are not authenticated, with each one's deadline.
        self._unfinished: dict[asyncio.Timeout, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = next(
            (value for name, value in scope["headers"] if name == b"content-length"), b"0"
        )
        is_number = length.isdigit() and len(length) <= _DIGITS
        loop = asyncio.get_running_loop()
        deadline, seen, complete = loop.time() + BODY_SECONDS, 0, False

        async def receive_within_limits() -> Message:
            nonlocal seen, complete
            # After the body, `receive` returns when the browser leaves: no deadline may end that
            # wait.
            if complete:
                return await receive()
            streamed = scope.get(STREAMED, False)
            if scope.get(AUTHENTICATED):
                most = self._most
            else:
                most = min(self._most, ANONYMOUS_BODY)
            if not streamed and (not is_number or int(length) > most):
                raise self._too_large(most)
            try:
                async with asyncio.timeout_at(
                    loop.time() + BODY_SECONDS if streamed else deadline
                ) as timeout:
                    if not scope.get(AUTHENTICATED):
                        self._wait_for(timeout, deadline)
                    try:
                        message = await receive()
                    finally:
                        self._unfinished.pop(timeout, None)
            except TimeoutError as error:
                raise HTTPException(
                    408, "The body of the request was sent too slowly.", {"Connection": "close"}
                ) from error
            if streamed and message["type"] == "http.disconnect":
                raise HTTPException(400, "The body of the request is not complete.")
            seen += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if seen > most and not streamed:
                raise self._too_large(most)
            return message

        await self._app(scope, receive_within_limits, send)

    def _wait_for(self, timeout: asyncio.Timeout, deadline: float) -> None:
        """Add a body; where there are too many, the one that has been unfinished for longest is
        given up.
        """
        self._unfinished[timeout] = deadline
        if len(self._unfinished) > MOST_UNFINISHED:
            oldest = min(self._unfinished, key=self._unfinished.__getitem__)
            del self._unfinished[oldest]
            if not oldest.expired():
                oldest.reschedule(0)

    def _too_large(self, most: int) -> HTTPException:
        """Raised where the body is read: page and REST API each render it as their own kind of
        error.
        """
        return HTTPException(
            413,
            f"The request is too large: at most {most} bytes are accepted.",
            {"Connection": "close"},
        )


class RequestMetrics:
    """Counts and times responses by route.

    The label is a path of the route table, never the requested one: any text that somebody requests
    would be a new series of metrics.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, listener: str) -> None:
        self._app = app
        self._metrics = metrics
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # uvicorn is started without the others
            raise RuntimeError(f"this listener is for HTTP, not for {scope['type']}")
        began = time.perf_counter()
        code = 500

        async def send_and_look(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                self._metrics.request_seconds.labels(self._route(scope)).observe(
                    time.perf_counter() - began
                )
            await send(message)

        try:
            await self._app(scope, receive, send_and_look)
        finally:
            method = scope["method"] if scope["method"] in _KNOWN else "other"
            self._metrics.requests.labels(self._route(scope), method, str(code)).inc()

    def _route(self, scope: Scope) -> str:
        path = getattr(scope.get("route"), "path", None)
        if path:
            return f"{self._listener}:{path}"
        return f"{self._listener}:none"


def content_security_policy(settings: Settings, script: str = "") -> str:
    """Scripts and styles from our own files only, and `script`, if a page has one in it.

    `form-action` names the desktops' hosts too: Chrome holds every redirect after a form against
    it, and the login form leads back to a desktop.
    """
    scripts = "script-src 'self'"
    if script:
        scripts = f"script-src 'self' '{digest_of(script)}'"
    desktops = settings.url(f"*.{settings.domain}")
    return "; ".join(
        (
            "default-src 'none'",
            scripts,
            "style-src 'self'",
            "font-src 'self'",
            " ".join(("img-src 'self' data:", *settings.icon_origins)),
            "connect-src 'self'",
            "media-src 'self'",
            f"form-action 'self' {desktops}",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


def digest_of(script: str) -> str:
    """The source expression of a script in the page itself, for a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


class SecurityHeaders:
    """Adds security headers to every response that does not set them itself."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": content_security_policy(settings),
            **TRANSPORT_HEADERS,
            "X-Frame-Options": "DENY",
            "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _NOT_NEEDED),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def client_address(
    request: HTTPConnection, trusted: tuple[Network, ...], cluster: ClusterCache
) -> str:
    """The browser's address, for rate limits and the audit; without a trusted proxy in front, the
    peer's own.
    """
    # A trusted proxy is Traefik, which appends the address of its own peer to X-Forwarded-For.
    # Entries before the last one may be the browser's inventions. Pods of desktops share their
    # network with Traefik and run any program of their users: where no NetworkPolicy is enforced,
    # one can connect directly. So a desktop is never a proxy.
    peer = request.client.host if request.client else ""
    if (
        not is_address(peer)
        or cluster.is_desktop(peer)
        or not any(ip_address(peer) in network for network in trusted)
    ):
        return peer
    last = ",".join(request.headers.getlist("x-forwarded-for")).rpartition(",")[2].strip()
    return last if is_address(last) else peer


def is_address(text: str) -> bool:
    """Whether the text is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
