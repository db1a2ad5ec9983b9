"""Headers of every answer to a browser: nothing is loaded, framed, sent or run that is not ours."""

import base64
import hashlib

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vdi.gateway.settings import Settings

TRANSPORT_HEADERS = {
    # No host is below these, so includeSubDomains covers no one else. Not `preload`: that is about a whole registered
    # domain, which may serve more than desktops.
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
}
"""What desktops' responses have too, by Traefik's Middleware."""
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


def content_security_policy(settings: Settings, script: str = "") -> str:
    """Scripts and styles from our own files only, and `script`, if a page has one in it.

    `form-action` names the desktops' hosts too: Chrome holds every redirect after a form against it, and the login form
    leads back to a desktop.
    """
    scripts = f"script-src 'self' '{digest_of(script)}'" if script else "script-src 'self'"
    desktops = settings.url(f"*.{settings.domain}")
    return "; ".join(
        (
            "default-src 'none'",
            scripts,
            "style-src 'self'",
            "font-src 'self'",
            " ".join(("img-src 'self' data:", *settings.icon_origins)),
            "connect-src 'self'",
            f"form-action 'self' {desktops}",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


def digest_of(script: str) -> str:
    """What a Content-Security-Policy calls a script that is in the page itself."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


class SecurityHeaders:
    """ASGI middleware: adds what an answer does not say itself."""

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
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
