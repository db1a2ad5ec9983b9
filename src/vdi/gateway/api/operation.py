"""One REST operation as a value, and the way of a request to its handler; no handler is reached another way.

    request -> authenticate (401) -> rate limit (429) -> CSRF, admin (403) -> parameters, body (400, 415, 422) ->
    handler

`component` makes Starlette's routes from the table of operations, `openapi` makes the document from the same table.
"""

import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vdi.gateway.api.problems import ProblemError, from_validation, invalid, problem_of
from vdi.gateway.api.schemas import Page
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.rights import User
from vdi.gateway.services import ApiServices

# Seconds over which requests are counted.
RATE_WINDOW_SECONDS = 60

# Requests of one person in a window, over all replicas and all of the person's tokens.
MAX_REQUESTS = 600


async def admit(request: Request, api: ApiServices, *, admin: bool) -> User:
    """Who asks, if they may. Raises ProblemError, or what the guard raises."""
    user = await api.guard.user_of(request)
    if user is None:
        raise unauthenticated(request)
    await _limit_rate(api, user)
    await api.guard.check_csrf(request)
    if admin and not user.admin:
        raise ProblemError("forbidden", f"Only administrators can do this; {user.email} is not an administrator.")
    return user


def unauthenticated(request: HTTPConnection) -> ProblemError:
    """401, with what is missing or wrong."""
    if request.headers.get("authorization") is None:
        detail = "Send an API token (Authorization: Bearer vdi_...) or the login cookie."
    else:
        detail = "The API token in the Authorization header is not valid: it is misspelled, expired or revoked."
    return ProblemError("unauthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="vdi"'})


async def _limit_rate(api: ApiServices, user: User) -> None:
    now = int(api.context.clock().timestamp())
    window, passed = divmod(now, RATE_WINDOW_SECONDS)
    if await api.context.shared.count(f"api/{user.email}/{window}", RATE_WINDOW_SECONDS) <= MAX_REQUESTS:
        return
    wait = RATE_WINDOW_SECONDS - passed
    detail = (
        f"{user.email} has sent more than {MAX_REQUESTS} requests in {RATE_WINDOW_SECONDS} s. Try again in {wait} s."
    )
    raise ProblemError("too-many-requests", detail, headers={"Retry-After": str(wait)})


T = TypeVar("T")
Key = tuple[str, ...]


def cut(items: Iterable[T], key: Callable[[T], Key], page: Page) -> tuple[list[T], str]:
    """The items of this page in the order of `key`, and the cursor of the next page (empty: this is the last one).

    What is added or removed between two pages neither repeats nor hides another item.
    """
    after = read_cursor(page.cursor)
    rest = sorted((item for item in items if after is None or key(item) > after), key=key)
    shown = rest[: page.limit]
    return shown, make_cursor(key(shown[-1])) if len(rest) > len(shown) else ""


def make_cursor(key: Key) -> str:
    """The cursor of what comes after this key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def read_cursor(cursor: str | None) -> Key | None:
    """The key in a cursor. Raises ProblemError for one that was not made here."""
    if not cursor:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[str, ...])
    except (binascii.Error, msgspec.DecodeError, ValueError) as error:
        raise invalid("cursor", cursor, "`next` of the previous page") from error


log = logging.getLogger(__name__)

Q = TypeVar("Q")
B = TypeVar("B")

PREFIX = "/api/v1"
JSON = "application/json"


class Empty(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters, or no body."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """One request, read and allowed in."""

    request: Request
    api: ApiServices
    user: User
    query: Q
    body: B

    @property
    def cluster(self) -> ClusterCache:
        """Sessions, templates and pools."""
        return self.api.context.cluster

    def now(self) -> datetime:
        """The gateway's clock."""
        return self.api.context.clock()

    def path(self, name: str) -> str:
        """A part of the path, such as the session's name."""
        return str(self.request.path_params[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one address. What is written here is what the OpenAPI document says."""

    method: str
    # Below `/api/v1`, such as `/sessions/{name}`.
    path: str
    # `operationId`.
    name: str
    tag: str
    summary: str
    description: str = ""
    handler: Callable[[Call[Any, Any]], Awaitable[msgspec.Struct | Response | None]]
    query: type[msgspec.Struct] = Empty
    body: type[msgspec.Struct] | None = None
    # What a success brings as JSON; None: nothing (204), or what `media` says.
    answer: type[msgspec.Struct] | None = None
    status: int = 200
    # Media types of an answer that is not one JSON object, such as `text/event-stream`.
    media: str = ""
    admin: bool = False
    # Codes of the problems that this operation has beyond those that all have.
    problems: Sequence[str] = ()

    @property
    def success(self) -> int:
        """HTTP status of a success."""
        return self.status if self.answer or self.media else 204


class Endpoint:
    """All methods of one address, as an ASGI application. A browser's or a script's mistake is answered in words."""

    def __init__(self, api: ApiServices, operations: Sequence[Operation]) -> None:
        self._api = api
        self._by_method: Mapping[str, Operation] = {operation.method: operation for operation in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except ProblemError as error:
            response = error.response()
        except Exception as error:
            response = problem_of(error).response()
            if response.status_code == 500:
                log.exception("%s %s failed", request.method, request.url.path)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        operation = self._by_method.get(request.method)
        if operation is None:
            allowed = ", ".join(sorted(self._by_method))
            detail = f"Method {request.method} is not supported by {request.url.path}; allowed: {allowed}."
            raise ProblemError("method-not-allowed", detail, headers={"Allow": allowed})
        user = await admit(request, self._api, admin=operation.admin)
        call = Call(request, self._api, user, _query(request, operation.query), await _body(request, operation.body))
        result = await operation.handler(call)
        if isinstance(result, Response):
            return result
        if result is None:
            return Response(status_code=204)
        return Response(msgspec.json.encode(result), operation.success, media_type=JSON)


def _query(request: Request, shape: type[msgspec.Struct]) -> msgspec.Struct:
    sent: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in sent:
            raise invalid(name, [sent[name], value], "given once")
        sent[name] = value
    try:
        return msgspec.convert(sent, shape, strict=False)
    except msgspec.ValidationError as error:
        raise from_validation(error, sent, shape) from error


async def _body(request: Request, shape: type[msgspec.Struct] | None) -> msgspec.Struct | None:
    if shape is None:
        return None
    content = request.headers.get("content-type", "")
    if content.partition(";")[0].strip().lower() != JSON:
        detail = f"Content-Type is {content!r}; allowed: {JSON}."
        raise ProblemError("unsupported-media-type", detail, headers={"Accept": JSON})
    try:
        sent = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("malformed", f"The body is not valid JSON: {error}.") from error
    try:
        return msgspec.convert(sent, shape)
    except msgspec.ValidationError as error:
        raise from_validation(error, sent, shape) from error


async def unknown_address(request: Request) -> Response:
    """For every other address below `/api/`."""
    detail = (
        f"{request.url.path} is not an address of this API. All addresses are in {PREFIX}/openapi.json and on "
        "/api/docs."
    )
    return ProblemError("not-found", detail).response()
