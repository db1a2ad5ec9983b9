"""The HTTP client for everything but the API server (`vdi.kube` has its own): httpx, without redirects and cookies.

It trusts the certificate authorities of the machine, uses the proxy that the environment names, and can connect to a
given address while it keeps host name and SNI: for names below `localhost` and for preflights. A client with a fixed
address is for one host: httpx pools connections by address, and two names at one address would share one. httpx speaks
no WebSocket: the probe uses `websockets`, and the doctor looks at the handshake alone.
"""

import socket
import ssl
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

E = TypeVar("E", bound=BaseException)

HTTP_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError)
"""Everything that a request raises for what the network, the server or the URL does."""
LOOPBACK = "127.0.0.1"


def is_local(host: str) -> bool:
    """Whether requests to this host stay on this machine: names below `localhost` are resolved so (RFC 6761, 6.3)."""
    return host in (LOOPBACK, "::1", "localhost") or host.endswith(".localhost")


def proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for this URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_local(host) or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def address_of(url: str) -> str:
    """The fixed address of the URL's host; empty: the system resolves it."""
    # Browsers send `*.localhost` to the loopback address; many system resolvers do not know these names.
    return LOOPBACK if (urlsplit(url).hostname or "").endswith(".localhost") else ""


def open_client(
    url: str,
    *,
    seconds: float,
    connect_seconds: float | None = None,
    tls: ssl.SSLContext | None = None,
    connect: str = "",
    headers: Mapping[str, str] | None = None,
) -> httpx.AsyncClient:
    """A client for the host of `url` alone. An async context manager.

    `seconds` limits connecting, each read and each write. `connect` is ADDRESS or ADDRESS:PORT, used instead of what
    the host name resolves to, and without a proxy.
    """
    context = tls or ssl.create_default_context()
    timeout = httpx.Timeout(seconds, connect=connect_seconds or seconds)
    address = connect or address_of(url)
    transport = _FixedAddress(address, context) if address else None
    proxy = None if address else proxy_for(url)
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    # trust_env would send credentials of ~/.netrc; the proxy of the environment is chosen above.
    return httpx.AsyncClient(
        transport=transport,
        verify=context,
        proxy=proxy,
        timeout=timeout,
        headers=headers,
        trust_env=False,
        cookies=no_cookies,
    )


def unverified() -> ssl.SSLContext:
    """A context that accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the authorities of the system, which take 20 ms to read
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """Why the server's certificate is not trusted; None where the error has another cause."""
    return _find(error, ssl.SSLCertVerificationError)


def is_unknown_host(error: BaseException) -> bool:
    """Whether the host's name was not resolved."""
    return _find(error, socket.gaierror) is not None


def reason_of(error: BaseException) -> str:
    """The message of an error, which httpx keeps in the operating system's error below its own."""
    if isinstance(error, httpx.TimeoutException):
        return "no response in time"
    cause = _find(error, OSError)
    return (cause and cause.strerror) or str(cause or error) or type(error).__name__


def _find(error: BaseException, kind: type[E]) -> E | None:
    """The innermost error of this kind among the causes."""
    causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error.__cause__ or error.__context__,)
    for cause in causes:
        if cause is not None and (found := _find(cause, kind)) is not None:
            return found
    return error if isinstance(error, kind) else None


class _FixedAddress(httpx.AsyncHTTPTransport):
    """Connects to one address; the Host header and the name in the certificate stay the URL's."""

    def __init__(self, connect: str, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        self._address, _, port = connect.rpartition(":") if connect.count(":") == 1 else (connect, "", "")
        self._port = int(port) if port else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self._address, port=self._port or request.url.port)
        return await super().handle_async_request(request)
