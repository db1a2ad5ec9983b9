"""Client of the gateway's REST API with a token, for the commands that work without access to the
cluster.

Every failure is a `CliError`. Sizes are limited, since the gateway may be anyone's.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Self, TypeVar
from urllib import parse

import msgspec

from vdi.cli.errors import COULD_NOT_LOOK, FINDINGS, USAGE, CliError
from vdi.http_client import (
    HTTP_ERRORS,
    BadResponseError,
    HttpClient,
    Response,
    ResponseStream,
    certificate_error,
    open_client,
    reason_of,
    unverified,
)
from vdi.version import user_agent

T = TypeVar("T")
_REQUEST_SECONDS = 30.0
_EXPORT_SECONDS = 600.0
_CONNECT_SECONDS = 10.0
# The gateway sends a comment every 20 s: a stream that is silent for 60 s is dead.
_SILENT_SECONDS = 60.0

# Bytes of a response, of a list with all its pages, and of an export as CSV. JSON takes up to 20
# times as much memory.
_LARGEST_RESPONSE, _LARGEST_LIST, _LARGEST_TEXT = 8 * 2**20, 32 * 2**20, 128 * 2**20
_MOST_PAGES = 10_000
# Bytes: a session takes about 10 KiB.
_LARGEST_EVENT = 2**20
_EXIT_CODES = {400: USAGE, 403: FINDINGS, 404: FINDINGS, 409: FINDINGS, 422: USAGE}


class _Page(msgspec.Struct):
    items: list[Any]
    next: str | None = None


class LoggedOutError(CliError):
    """Raised on 401: the token has ended."""


class NoSuchThingError(CliError):
    """Raised on 404: the gateway has no such object, or this user may not see it."""


class GatewayClient:
    """One gateway. An async context manager.

    `connect`: ADDRESS:PORT of its Traefik inside the cluster, where its certificate is not
    verified.
    """

    def __init__(self, server: str, *, token: str = "", ca: str = "", connect: str = "") -> None:
        self.server = server
        self.connect = connect
        headers = {"User-Agent": user_agent("vdi-cli"), "Accept": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._headers = headers
        self.tls = unverified() if connect else tls(ca)
        self._client: HttpClient | None = None

    async def __aenter__(self) -> Self:
        self._client = open_client(
            self.server,
            seconds=_REQUEST_SECONDS,
            connect_seconds=_CONNECT_SECONDS,
            tls=self.tls,
            connect=self.connect,
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def check(self) -> None:
        """Raise CliError unless there is a gateway with a trusted certificate."""
        async with self._open("GET", "/api/v1/openapi.json") as answer:
            if answer.headers.get("content-type", "").partition(";")[0] != "application/json":
                raise CliError(
                    f"{self.server} is not a gateway of VDI; check the address", COULD_NOT_LOOK
                )

    async def post_form(self, path: str, fields: Mapping[str, str]) -> Response:
        """Send a form outside of the API; the answer, whatever it is."""
        try:
            return await self._connected.request("POST", self.server + path, data=dict(fields))
        except HTTP_ERRORS as error:
            raise self._failed(error) from error

    @property
    def _connected(self) -> HttpClient:
        assert self._client is not None  # noqa: S101 -- for the type checker: entered before it is used
        return self._client

    async def get(self, path: str, **query: str) -> Any:
        """Read `/api/v1` + path; quote path segments with `quote`."""
        return await self.send("GET", path, query=query)

    async def text(self, path: str, **query: str) -> str:
        """Read `/api/v1` + path as text, such as CSV."""
        async with self._open(
            "GET", f"/api/v1{path}", query=query, headers={"Accept": "*/*"}, seconds=_EXPORT_SECONDS
        ) as answer:
            return (await answer.read(_LARGEST_TEXT)).decode()

    async def items(self, path: str, **query: str) -> list[Any]:
        """All items of a list, page by page."""
        found: list[Any] = []
        size = 0
        cursor: str | None = ""
        for _ in range(_MOST_PAGES):
            response = await self._whole(
                "GET", path, query=query | ({"cursor": cursor} if cursor else {})
            )
            size += len(response.body)
            if size > _LARGEST_LIST:
                raise CliError(
                    f"{self.server}: the list {path} is too large: more than {_LARGEST_LIST} bytes"
                )
            page = self._decoded(response, _Page)
            found += page.items
            cursor = page.next
            if not cursor:
                return found
        raise CliError(
            f"{self.server}: the list {path} is too large: more than {_MOST_PAGES} pages"
        )

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Any:
        """Send one request; returns the JSON of the response, or None when it has no body."""
        response = await self._whole(method, path, body=body, query=query)
        if response.body:
            return self._decoded(response, dict[str, Any])
        return None

    async def _whole(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Response:
        data = None if body is None else json.dumps(body).encode()
        if body is not None:
            headers = {"Content-Type": "application/json"}
        else:
            headers = {}
        async with self._open(
            method, f"/api/v1{path}", query=query, data=data, headers=headers
        ) as answer:
            return Response(answer.status, await answer.read(_LARGEST_RESPONSE))

    def _decoded(self, response: Response, into: type[T]) -> T:
        try:
            return response.json(into)
        except BadResponseError as error:
            raise self._failed(error) from error

    @asynccontextmanager
    async def events(
        self, path: str, **query: str
    ) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """A stream of Server-Sent Events, as (event, data)."""
        headers = {"Accept": "text/event-stream"}
        async with self._open(
            "GET",
            f"/api/v1{path}",
            query=query,
            headers=headers,
            seconds=None,
            silent_seconds=_SILENT_SECONDS,
        ) as answer:
            yield self._events(answer)

    async def _events(self, answer: ResponseStream) -> AsyncIterator[tuple[str, str]]:
        name, data, size = "", list[str](), 0
        try:
            async for raw in answer.lines(_LARGEST_EVENT):
                line = raw.decode().rstrip("\r")
                size += len(raw) + 1
                if not line and data:
                    yield name, "\n".join(data)
                if not line:
                    name, data, size = "", [], 0
                if size > _LARGEST_EVENT:
                    raise BadResponseError(
                        f"an event of the response is too large: more than {_LARGEST_EVENT} bytes"
                    )
                field, _, value = line.partition(":")
                if field == "event":
                    name = value.removeprefix(" ")
                elif field == "data":
                    data.append(value.removeprefix(" "))
        except HTTP_ERRORS as error:
            raise self._failed(error) from error

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = _REQUEST_SECONDS,
        silent_seconds: float | None = None,
    ) -> AsyncIterator[ResponseStream]:
        """A response. `seconds` limits all of it, `silent_seconds` the wait for more of it."""
        try:
            async with (
                asyncio.timeout(seconds),
                self._connected.stream(
                    method,
                    self.server + path,
                    params=query,
                    content=data,
                    headers=headers,
                    silent_seconds=silent_seconds,
                ) as answer,
            ):
                if answer.status >= 300:
                    raise _refusal(self.server, Response(answer.status, await answer.read()))
                yield answer
        except HTTP_ERRORS as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CliError:
        if isinstance(error, BadResponseError):
            return CliError(
                f"{self.server} does not respond as a gateway of VDI does: {error}", COULD_NOT_LOOK
            )
        if untrusted := certificate_error(error):
            why = f"its certificate is not trusted ({untrusted.verify_message})"
            return CliError(
                f"{self.server}: {why}. If its authority is your own: vdi login {self.server}"
                " --ca-file FILE",
                COULD_NOT_LOOK,
            )
        return CliError(
            f"cannot reach the gateway {self.server}: {reason_of(error)}", COULD_NOT_LOOK
        )


def quote(text: str) -> str:
    """Quote a name as one segment of a path."""
    return parse.quote(text, safe="@")


@cache  # the machine's own authorities take 45 ms to load
def tls(ca: str) -> ssl.SSLContext:
    """Trusts these authorities (PEM), or the machine's own. Raises CliError."""
    try:
        context = ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError) as error:
        raise CliError(
            f"the certificate authority cannot be used: {error}", COULD_NOT_LOOK
        ) from error
    # Python 3.13 refuses authorities without key identifiers by default. Those that people make
    # themselves seldom have them, and `vdi.kube` accepts them too.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _refusal(server: str, response: Response) -> CliError:
    """The error for a status of 300 or more, from the gateway or from a proxy before it."""
    status = response.status
    try:
        problem = response.json(dict[str, Any])
        detail = str(problem["detail"])
    except (BadResponseError, KeyError):
        message = (
            f"{server} responds with {status}, which a gateway of VDI does not do; check the"
            " address"
        )
        return CliError(message, COULD_NOT_LOOK)
    if status == 401:
        return LoggedOutError(
            f"{server} rejects the login that is stored here: {detail} Log in again: vdi login"
            f" {server}",
            COULD_NOT_LOOK,
        )
    if status == 404:
        return NoSuchThingError(detail)
    errors = problem.get("errors") or []
    if errors and problem.get("code") != "over-limit":  # its detail names the template too
        lines = [_line(error) for error in errors]
        detail = "the gateway refuses this:\n" + "\n".join(f"  {line}" for line in lines)
    return CliError(detail, _EXIT_CODES.get(status, COULD_NOT_LOOK))


def _line(error: Mapping[str, Any]) -> str:
    value = error.get("value")
    allowed = error.get("allowed", "")
    if value is not None:
        return f"{error.get('field')}: {value!r} is not {allowed}"
    return f"{error.get('field')}: {allowed}"
