"""The HTTP client for everything but the API server (`vdi.kube` has its own): httpx, without
redirects and cookies.

It trusts the certificate authorities of the machine, uses the proxy that the environment names, and
can connect to a given address while it keeps host name and SNI: for names below `localhost` and for
preflights. A client with a fixed address is for one host: httpx pools connections by address, and
two names at one address would share one. httpx speaks no WebSocket: the probe uses `websockets`,
and the doctor looks at the handshake alone.

No other module imports httpx. Its responses decompress what they read before anyone can see how
much it is: 269 bytes became 2 GiB. Here bodies are read as they come over the wire, up to a limit,
and compressed ones are refused.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

# Largest body where the caller names no limit.
MAX_BYTES = 2**20

# A body has at most 64 pieces, and one for each 128 bytes of its largest size. 64 KiB in chunks of
# one byte would keep the event loop for 0.8 s.
_PIECES, _PIECE_BYTES = 64, 128
# Limit of the bytes before the response's header is there, with that header: httpx reads
# informational responses without end, and all that one read brought without a turn of the event
# loop. h11 refuses a single header of more than 100 KiB.
_MAX_HEAD_BYTES, _HEAD_PIECE_BYTES = 2**17, 2**12


class BadResponseError(ValueError):
    """Raised for a response that is too large, compressed, or not the JSON that was expected; says
    which.
    """


# Everything that a request raises for what the network, the server or the URL does. No plain
# ValueError: that is a bug.
HTTP_ERRORS = (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError, BadResponseError)
# Errors of a request for which no connection was made.
CONNECT_ERRORS = (httpx.ConnectError, httpx.ConnectTimeout)
# Errors of a request without a response in time.
TIMEOUTS = (httpx.TimeoutException, TimeoutError)
LOOPBACK = "127.0.0.1"
# Where clouds give credentials to whoever asks from a machine of theirs, beside link-local
# 169.254.169.254.
_METADATA = frozenset(
    map(ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"))
)


def is_local(host: str) -> bool:
    """Whether requests to this host stay on this machine: names below `localhost` are resolved so
    (RFC 6761, 6.3).
    """
    return host in (LOOPBACK, "::1", "localhost") or host.endswith(".localhost")


def is_of_machine(address: str) -> bool:
    """Whether an IP address leads to the machine itself, or to what only it may reach: link-local,
    metadata.
    """
    ip = ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return (
        ip.is_loopback
        or ip.is_link_local
        or ip.is_unspecified
        or ip.is_multicast
        or ip in _METADATA
    )


def proxy_for(url: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for this URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_local(host) or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def address_of(url: str) -> str:
    """The fixed address of the URL's host; empty: the system resolves it."""
    # Browsers send `*.localhost` to the loopback address; many system resolvers do not know these
    # names.
    if (urlsplit(url).hostname or "").endswith(".localhost"):
        return LOOPBACK
    return ""


class RequestOptions(TypedDict, total=False):
    """Parts of a request beside method and URL, as httpx takes them."""

    params: Mapping[str, str] | None
    headers: Mapping[str, str] | None
    json: object
    data: Mapping[str, str]
    content: bytes | AsyncIterable[bytes] | None
    # User and password for Basic.
    auth: tuple[str, str] | None


def decode_json(text: bytes, into: type[T]) -> T:
    """JSON out of a response. Raises BadResponseError, also where it is nested too deeply."""
    try:
        return msgspec.json.decode(text, type=into)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        expected = getattr(into, "__name__", into)
        raise BadResponseError(f"the response cannot be read as {expected}: {error}") from error


def read_headers(head: bytes) -> httpx.Headers:
    """The header fields of a response's head, as `vdi.kube.http` has it."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return httpx.Headers([(name, value.strip()) for name, _, value in lines])


@dataclass(frozen=True, slots=True)
class Response:
    """A response whose body has been read."""

    status: int
    body: bytes
    headers: httpx.Headers = field(default_factory=httpx.Headers, compare=False)

    def json(self, into: type[T]) -> T:
        """The body. Raises BadResponseError."""
        return decode_json(self.body, into)


class ResponseStream:
    """A response whose body has not been read. Every method that reads it raises BadResponseError,
    `HTTP_ERRORS`.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self._response = response
        self.piece_bytes = 0  # that `pieces` has given

    async def read(self, max_bytes: int = MAX_BYTES) -> bytes:
        """The whole body, which may not be larger."""
        body = bytearray()
        left = _PIECES + max_bytes // _PIECE_BYTES
        # Raw bytes: httpx would decompress them before anyone can see how large they become.
        async for piece in self._response.aiter_raw():
            self._refuse_encoding()
            body += piece
            left -= 1
            if len(body) > max_bytes:
                raise BadResponseError(f"the response is too large: more than {max_bytes} bytes")
            if left < 0:
                raise BadResponseError(
                    f"the response has too many chunks of less than {_PIECE_BYTES} bytes"
                )
        return bytes(body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes, of any size."""
        async for piece in self._response.aiter_raw():
            self._refuse_encoding()
            # Chunks of one byte that have arrived together would keep the event loop.
            await asyncio.sleep(0)
            self.piece_bytes += len(piece)
            yield piece

    async def start(self, max_bytes: int) -> bytes:
        """The first bytes of the body; the rest is not read."""
        body = bytearray()
        async for piece in self._response.aiter_raw():
            self._refuse_encoding()
            body += piece
            if len(body) >= max_bytes:
                break
        return bytes(body[:max_bytes])

    async def lines(self, max_bytes: int = MAX_BYTES) -> AsyncIterator[bytes]:
        """The lines as they come, without LF, of which none may be longer. A last one without LF is
        left out.
        """
        line = bytearray()
        async for piece in self._response.aiter_raw():
            self._refuse_encoding()
            for number, part in enumerate(piece.split(b"\n")):
                if number:
                    yield bytes(line)
                    line.clear()
                line += part
                if len(line) > max_bytes:
                    raise BadResponseError(
                        f"a line of the response is too long: more than {max_bytes} bytes"
                    )

    def _refuse_encoding(self) -> None:
        encoding = self.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise BadResponseError(
                f"the response has Content-Encoding {encoding[:40]!r}; allowed: identity"
            )


class HttpClient:
    """Sends requests; what comes back is a `Response` or a `ResponseStream`. An async context
    manager.

    `to_machine` False: a connection to an address of `is_of_machine` is closed before anything is
    sent.
    """

    def __init__(self, client: httpx.AsyncClient, *, to_machine: bool = True) -> None:
        self._client = client
        client.headers["Accept-Encoding"] = "identity"
        # httpx has no option for the network backend.
        for transport in (client._transport, *client._mounts.values()):
            if isinstance(transport, httpx.AsyncHTTPTransport):
                pool: Any = transport._pool
                pool._network_backend = _LimitedBackend(pool._network_backend, to_machine)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def close(self) -> None:
        await self._client.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        max_bytes: int = MAX_BYTES,
        seconds: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Response:
        """One request. `seconds` limits all of it, however slowly the response comes; the client's
        own without it.

        Raises `HTTP_ERRORS`.
        """
        limit = self._client.timeout.read if seconds is None else seconds
        async with asyncio.timeout(limit), self.stream(method, url, **options) as response:
            return Response(response.status, await response.read(max_bytes), response.headers)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        silent_seconds: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> AsyncIterator[ResponseStream]:
        """One request, and the response as soon as its header is there. Raises `HTTP_ERRORS`.

        `silent_seconds`: how long to wait for more of it, instead of the client's own time.
        """
        timeout = self._client.timeout
        if silent_seconds is not None:
            timeout = httpx.Timeout(
                connect=timeout.connect, read=silent_seconds, write=timeout.write, pool=timeout.pool
            )
        rest: dict[str, Any] = {**options}
        async with self._client.stream(method, url, timeout=timeout, **rest) as response:
            if isinstance(
                connection := response.extensions.get("network_stream"), _LimitedConnection
            ):
                connection.head_bytes_left = math.inf
            yield ResponseStream(response)


def open_client(
    url: str,
    *,
    seconds: float,
    connect_seconds: float | None = None,
    tls: ssl.SSLContext | None = None,
    connect: str = "",
    headers: Mapping[str, str] | None = None,
    use_proxy: bool = True,
    to_machine: bool = True,
) -> HttpClient:
    """A client for the host of `url` alone. An async context manager.

    `seconds` limits connecting, each read and each write. `connect` is ADDRESS or ADDRESS:PORT,
    used instead of what the host name resolves to, and without a proxy; `use_proxy` False: as
    resolved, without a proxy. `to_machine` False: not to addresses of `is_of_machine`. A proxy
    decides for itself where it connects to.
    """
    # The machine's authorities take 45 ms to load. Plain HTTP gets a context without any: it
    # refuses all certificates.
    is_https = urlsplit(url).scheme == "https"
    context = tls or (
        ssl.create_default_context() if is_https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    timeout = httpx.Timeout(seconds, connect=connect_seconds or seconds)
    address = connect or address_of(url)
    transport = _FixedAddress(address, context) if address else None
    proxy = proxy_for(url) if use_proxy and not address else None
    # trust_env would send credentials of ~/.netrc; the proxy of the environment is chosen above.
    client = httpx.AsyncClient(
        transport=transport,
        verify=context,
        proxy=proxy,
        timeout=timeout,
        headers=headers,
        trust_env=False,
        cookies=_no_cookies(),
    )
    return HttpClient(client, to_machine=to_machine or proxy is not None)


def open_client_for_any_host(*, seconds: float) -> HttpClient:
    """A client with the proxies that the environment names, and httpx's own certificate authorities
    or SSL_CERT_FILE.

    Times as in `open_client`.
    """
    return HttpClient(httpx.AsyncClient(timeout=seconds, cookies=_no_cookies()))


def _no_cookies() -> CookieJar:
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def unverified() -> ssl.SSLContext:
    """A context that accepts every certificate."""
    # Without the authorities of the system, which take 20 ms to read.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def certificate_error(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The certificate error among the causes of this error; None: it has another cause."""
    return _find(error, ssl.SSLCertVerificationError)


def is_unknown_host(error: BaseException) -> bool:
    """Whether the host's name was not resolved."""
    return _find(error, socket.gaierror) is not None


def is_refused_connection(error: BaseException) -> bool:
    """Whether nothing listens at the address."""
    return _find(error, ConnectionRefusedError) is not None


def reason_of(error: BaseException) -> str:
    """The message of an error, which httpx keeps in the operating system's error below its own."""
    if isinstance(error, TIMEOUTS):
        return "no response in time"
    cause = _find(error, OSError)
    why = (cause and cause.strerror) or str(cause or error) or type(error).__name__
    if isinstance(cause, socket.gaierror):
        return f"cannot resolve its host name: {why}"
    return why


def _find(error: BaseException, kind: type[E]) -> E | None:
    """The innermost error of this kind among the causes."""
    if isinstance(error, BaseExceptionGroup):
        causes = error.exceptions
    else:
        causes = (error.__cause__ or error.__context__,)
    for cause in causes:
        if cause is not None and (found := _find(cause, kind)) is not None:
            return found
    return error if isinstance(error, kind) else None


class _FixedAddress(httpx.AsyncHTTPTransport):
    """Connects to one address; the Host header and the name in the certificate stay the URL's."""

    def __init__(self, connect: str, context: ssl.SSLContext) -> None:
        super().__init__(verify=context, trust_env=False)
        if connect.count(":") == 1:
            self._address, _, port = connect.rpartition(":")
        else:
            self._address, _, port = connect, "", ""
        self._port = int(port) if port else None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self._address, port=self._port or request.url.port)
        return await super().handle_async_request(request)


class _LimitedBackend:
    """The network backend of httpcore, with a limit on the bytes before a response's header."""

    def __init__(self, backend: Any, to_machine: bool) -> None:
        self._backend, self._to_machine = backend, to_machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def connect_tcp(self, *where: Any, **options: Any) -> "_LimitedConnection":
        connection = await self._backend.connect_tcp(*where, **options)
        if not self._to_machine:
            await _refuse_machine(connection)
        return _LimitedConnection(connection)


async def _refuse_machine(connection: Any) -> None:
    """Close a connection that leads to the machine. Raises OSError."""
    # The address of the connection, not one that the name had before: DNS may give another one each
    # time. A server that resets a connection at once leaves it without an address.
    peer = connection.get_extra_info("server_addr")
    if peer is None:
        reason = "the server has reset the connection"
    elif is_of_machine(peer[0]):
        reason = f"{peer[0]} is a loopback, link-local or metadata address"
    else:
        return
    await connection.aclose()
    raise OSError(reason)


class _LimitedConnection:
    """A connection of httpcore. Each write begins a request; `stream` lifts the limit when the
    header is there.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.head_bytes_left: float = _MAX_HEAD_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's name
        if self.head_bytes_left <= 0:
            raise BadResponseError(f"no header of the response within {_MAX_HEAD_BYTES} bytes")
        if self.head_bytes_left < math.inf:
            max_bytes = min(max_bytes, _HEAD_PIECE_BYTES)
        data: bytes = await self._connection.read(max_bytes, timeout)
        self.head_bytes_left -= len(data)
        return data

    async def write(self, data: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's name
        self.head_bytes_left = _MAX_HEAD_BYTES
        await self._connection.write(data, timeout)

    async def start_tls(self, *how: Any, **options: Any) -> "_LimitedConnection":
        return _LimitedConnection(await self._connection.start_tls(*how, **options))
