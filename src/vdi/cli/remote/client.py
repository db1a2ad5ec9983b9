"""A client of the gateway's REST API, with a token. Every failure is a `CommandFailedError`."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib import parse
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from vdi.cli.failures import COULD_NOT_LOOK, FINDINGS, USAGE, CommandFailedError
from vdi.cli.url_check import LocalhostResolver

_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=10)
_DESKTOP = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=20)
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
"""The gateway sends a comment every 20 s: what is silent for 60 s is dead."""
_EXIT_CODES = {400: USAGE, 403: FINDINGS, 404: FINDINGS, 409: FINDINGS, 422: USAGE}


class LoggedOutError(CommandFailedError):
    """Raised on 401: the token has ended."""


class NoSuchThingError(CommandFailedError):
    """Raised on 404."""


class _Connector(aiohttp.TCPConnector):
    """Leaves nothing open. aiohttp says a TLS goodbye to a stream that it drops, and waits for the other side's: that
    would outlive the event loop of a command.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._made: list[asyncio.Transport] = []

    async def _create_connection(self, *arguments: Any, **options: Any) -> Any:
        protocol = await super()._create_connection(*arguments, **options)
        if protocol.transport is not None:
            self._made.append(protocol.transport)
        return protocol

    async def end(self) -> None:
        """Cut off what is still open; sockets are closed in the event loop's next round."""
        for each in self._made:
            each.abort()
        await asyncio.sleep(0)


class GatewayClient:
    """One gateway. An async context manager."""

    def __init__(self, server: str, *, token: str = "", ca: str = "") -> None:
        self.server = server
        headers = {"User-Agent": "vdi-cli", "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._headers = headers
        self._proxy = proxy_for(server)
        self._ca = ca
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._connector = _Connector(resolver=LocalhostResolver(), ssl=tls(self._ca))
        self._session = aiohttp.ClientSession(connector=self._connector, headers=self._headers, timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            await self._connector.end()

    @asynccontextmanager
    async def to_desktops(self) -> AsyncIterator[aiohttp.ClientSession]:
        """For the desktops' hosts, which the same authority has signed: without our token, and keeping no cookies."""
        connector = _Connector(resolver=LocalhostResolver(), ssl=tls(self._ca))
        cookies = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=cookies, timeout=_DESKTOP) as session:
            try:
                yield session
            finally:
                await connector.end()

    async def check(self) -> None:
        """That there is a gateway, and that its certificate is trusted. Raises CommandFailedError."""
        async with self._open("GET", "/api/v1/openapi.json") as answer:
            if answer.content_type != "application/json":
                raise CommandFailedError(f"{self.server} is no gateway of VDI; is the address right?", COULD_NOT_LOOK)

    async def post_form(self, path: str, fields: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a form outside of the API; the answer's status and body, whatever it is."""
        form = aiohttp.FormData(fields)
        try:
            async with self._connected.post(
                self.server + path, data=form, proxy=self._proxy, allow_redirects=False
            ) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    @property
    def _connected(self) -> aiohttp.ClientSession:
        assert self._session is not None  # noqa: S101 -- for the type checker: entered before it is used
        return self._session

    async def get(self, path: str, **query: str) -> Any:
        """Read `/api/v1` + path; quote path segments with `quote`."""
        return await self.send("GET", path, query=query)

    async def items(self, path: str, **query: str) -> list[Any]:
        """All items of a list, page by page."""
        found: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            page = await self.get(path, **query, **({"cursor": cursor} if cursor else {}))
            found += page["items"]
            cursor = page.get("next") or None
        return found

    async def send(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> Any:
        """Send one request; returns the JSON of the response, or None when it has no body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        async with self._open(method, f"/api/v1{path}", query=query, data=data, headers=headers) as answer:
            text = await answer.read()
            return json.loads(text) if text else None

    @asynccontextmanager
    async def events(self, path: str, **query: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """A stream of Server-Sent Events, as (event, data)."""
        headers = {"Accept": "text/event-stream"}
        async with self._open("GET", f"/api/v1{path}", query=query, headers=headers, limits=_STREAM) as answer:
            yield self._events(answer)

    async def _events(self, answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
        name = ""
        data: list[str] = []
        try:
            async for raw in answer.content:
                line = raw.decode().rstrip("\r\n")
                if not line and data:
                    yield name, "\n".join(data)
                if not line:
                    name, data = "", []
                field, _, value = line.partition(":")
                if field == "event":
                    name = value.removeprefix(" ")
                elif field == "data":
                    data.append(value.removeprefix(" "))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        limits: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._connected.request(
                method,
                self.server + path,
                params=query,
                data=data,
                headers=headers,
                timeout=limits,
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer:
                if answer.status >= 300:
                    raise _refusal(self.server, answer.status, await answer.read())
                yield answer
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> CommandFailedError:
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = f"its certificate is not trusted ({error.certificate_error.verify_message})"  # type: ignore[attr-defined]
            return CommandFailedError(
                f"{self.server}: {why}. If its authority is your own: vdi login {self.server} --ca-file FILE",
                COULD_NOT_LOOK,
            )
        why = str(error) or type(error).__name__
        return CommandFailedError(f"cannot reach the gateway {self.server}: {why}", COULD_NOT_LOOK)


def quote(text: str) -> str:
    """Quote a name as one segment of a path."""
    return parse.quote(text, safe="@")


def is_local(host: str) -> bool:
    """Whether requests to this host stay on this machine: names below `localhost` are resolved so (RFC 6761, 6.3)."""
    return host in ("127.0.0.1", "::1", "localhost") or host.endswith(".localhost")


def proxy_for(server: str) -> str | None:
    """The proxy that HTTPS_PROXY, HTTP_PROXY and NO_PROXY name for this server."""
    parts = urlsplit(server)
    host = parts.hostname or ""
    if is_local(host) or proxy_bypass(host):
        return None
    return getproxies().get(parts.scheme)


def tls(ca: str) -> ssl.SSLContext:
    """Trusts these authorities (PEM), or the machine's own. Raises CommandFailedError."""
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError) as error:
        raise CommandFailedError(f"the certificate authority cannot be used: {error}", COULD_NOT_LOOK) from error
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # own authorities seldom have key identifiers; as in vdi.kube
    return context


def _refusal(server: str, status: int, body: bytes) -> CommandFailedError:
    """What the gateway says, or what stands before it."""
    try:
        problem = json.loads(body)
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        words = f"{server} answers {status}, and not as a gateway of VDI does; is the address right?"
        return CommandFailedError(words, COULD_NOT_LOOK)
    if status == 401:
        return LoggedOutError(
            f"{server} does not accept the login that is kept here: {detail} Log in again: vdi login {server}",
            COULD_NOT_LOOK,
        )
    if status == 404:
        return NoSuchThingError(detail)
    errors = problem.get("errors") or []
    if errors:
        lines = [_line(each) for each in errors]
        detail = "the gateway refuses this:\n" + "\n".join(f"  {line}" for line in lines)
    return CommandFailedError(detail, _EXIT_CODES.get(status, COULD_NOT_LOOK))


def _line(error: Mapping[str, Any]) -> str:
    value = error.get("value")
    allowed = error.get("allowed", "")
    return (
        f"{error.get('field')}: {value!r} is not {allowed}" if value is not None else f"{error.get('field')}: {allowed}"
    )
