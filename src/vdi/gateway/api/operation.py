"""REST operations: how a request reaches its handler, and the decorator that makes a function a
handler.

    request -> authenticate (401) -> rate limit (429) -> CSRF, admin (403) -> parameters, body (400, 415, 422) ->
    handler

No handler is reached another way. `component` makes Starlette's routes and the OpenAPI document
from the operations, so a handler's signature and docstring are its documentation.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Any, Generic, TypeVar, get_args

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vdi.gateway.api.problems import ProblemError, problem_of
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.denied import invalid
from vdi.gateway.in_flight import until_read
from vdi.gateway.login.logins import ScopedTokenError
from vdi.gateway.rights import Actor, User
from vdi.gateway.services import Services
from vdi.gateway.validation import from_validation
from vdi.gateway.web.credentials import bearer

log = logging.getLogger(__name__)

PREFIX = "/api/v1"
JSON = "application/json"
RATE_WINDOW_SECONDS = 60
# Requests of one user in a window, over all replicas and all of the user's tokens. Those of the
# user's agents are counted apart: they must not use up what the user's own requests need.
MAX_REQUESTS, MAX_AGENT_REQUESTS = 600, 6000

Q_co = TypeVar("Q_co", covariant=True)
B_co = TypeVar("B_co", covariant=True)
Handler = TypeVar("Handler", bound=Callable[..., Awaitable[msgspec.Struct | Response | None]])


class Empty(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters, or no body."""


@dataclass(frozen=True, slots=True)
class Call(Generic[Q_co, B_co]):
    """One request of an admitted user, with its parameters and its body as structs."""

    request: Request
    api: Services
    who: User | Actor
    query: Q_co
    body: B_co
    # Closed when the client has read the response, or is gone.
    until_read: AsyncExitStack

    @property
    def user(self) -> User:
        if isinstance(self.who, Actor):
            raise ScopedTokenError
        return self.who

    @property
    def actor(self) -> Actor:
        """For an operation with `drives`."""
        if isinstance(self.who, Actor):
            return self.who
        return self.who.actor

    @property
    def cluster(self) -> ClusterCache:
        return self.api.context.cluster

    def now(self) -> datetime:
        """Time by the gateway's clock."""
        return self.api.context.clock()

    def path(self, name: str) -> str:
        """A part of the path, such as the session's name."""
        return str(self.request.path_params[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one address, as in the OpenAPI document."""

    method: str
    # Below `/api/v1`, such as `/sessions/{name}`.
    path: str
    # `operationId`.
    name: str
    tag: str
    summary: str
    description: str
    handler: Callable[[Call[Any, Any]], Awaitable[msgspec.Struct | Response | None]]
    query: type[msgspec.Struct]
    body: type[msgspec.Struct] | None
    # The struct of a successful response; None: no content (204), or the content that `media`
    # names.
    answer: type[msgspec.Struct] | None
    status: int
    # Media types of a response that is not one JSON object, such as `text/event-stream`.
    media: str
    admin: bool
    # Whether auditors may, beside administrators.
    auditor: bool
    # Whether API tokens of one session may, too; no other operation is for them.
    drives: bool
    # Problem codes that this operation has beyond those that all have.
    problems: Sequence[str]

    @property
    def success(self) -> int:
        """HTTP status of a success."""
        if self.answer or self.media:
            return self.status
        return 204


class OperationTable:
    """Operations with one tag; an instance is the decorator that adds a handler.

    `Call[Query, Body]` and the returned struct in the handler's signature are its parameters, its
    body and its response. The first paragraph of its docstring is the summary, the others are the
    description. The operationId is the handler's name in camel case.
    """

    def __init__(self, tag: str, *, admin: bool = False, auditor: bool = False) -> None:
        self.operations: list[Operation] = []
        self._tag, self._admin, self._auditor = tag, admin, auditor

    def __call__(
        self,
        address: str,
        *,
        answer: type[msgspec.Struct] | None = None,
        status: int = 200,
        media: str = "",
        problems: Sequence[str] = (),
        drives: bool = False,
    ) -> Callable[[Handler], Handler]:
        """`address`: such as `GET /sessions`. `answer`: for a handler that returns a Response, its
        struct.
        """

        def add(handler: Handler) -> Handler:
            query, body = get_args(handler.__annotations__["call"])
            returned = handler.__annotations__["return"]
            self.add(
                address,
                handler,
                name=handler.__name__,
                text=handler.__doc__ or "",
                query=query,
                body=None if body is NoneType else body,
                answer=answer if returned in (None, Response) else returned,
                status=status,
                media=media,
                problems=problems,
                drives=drives,
            )
            return handler

        return add

    def add(
        self,
        address: str,
        handler: Callable[[Call[Any, Any]], Awaitable[msgspec.Struct | Response | None]],
        *,
        name: str,
        text: str,
        query: type[msgspec.Struct] = Empty,
        body: type[msgspec.Struct] | None = None,
        answer: type[msgspec.Struct] | None = None,
        status: int = 200,
        media: str = "",
        problems: Sequence[str] = (),
        drives: bool = False,
    ) -> None:
        """Add an operation. `name`: in snake case; `text`: summary, and description after an empty
        line.
        """
        method, path = address.split()
        first, *others = name.split("_")
        summary, _, description = text.partition("\n\n")
        self.operations.append(
            Operation(
                method=method,
                path=path,
                name=first + "".join(map(str.capitalize, others)),
                tag=self._tag,
                summary=" ".join(summary.split()).removesuffix("."),
                description=" ".join(description.split()),
                handler=handler,
                query=query,
                body=body,
                answer=answer,
                status=status,
                media=media,
                admin=self._admin,
                auditor=self._auditor,
                drives=drives,
                problems=problems,
            )
        )


def created(path: str, made: msgspec.Struct, **headers: str) -> Response:
    """201 with the new object and its address."""
    return Response(
        msgspec.json.encode(made),
        201,
        headers={"Location": PREFIX + path, **headers},
        media_type=JSON,
    )


async def admit(request: Request, api: Services, operation: Operation) -> User | Actor:
    """The authenticated user of a request within their rate. Raises ProblemError, or an error of
    the guard.
    """
    guard = api.guard
    who: User | Actor | None = await (
        guard.actor_of(request) if operation.drives else guard.user_of(request)
    )
    if who is None:
        raise unauthenticated(request)
    email = who.user if isinstance(who, Actor) else who.email
    # Before CSRF and rights: a script that is refused again and again costs as much as one that is
    # answered.
    if isinstance(who, Actor):
        await _limit_rate(api, f"agents/{email}", email, MAX_AGENT_REQUESTS)
    else:
        await _limit_rate(api, f"api/{email}", email, MAX_REQUESTS)
    await guard.check_csrf(request)
    if operation.admin and not (
        isinstance(who, User) and (who.admin or (operation.auditor and who.auditor))
    ):
        raise ProblemError(
            "forbidden", f"Only administrators can do this; {email} is not an administrator."
        )
    return who


def unauthenticated(request: HTTPConnection) -> ProblemError:
    """401, with what is missing or wrong."""
    if request.headers.get("authorization") is None:
        detail = "Send an API token (Authorization: Bearer vdi_...) or the login cookie."
    else:
        detail = (
            "The API token in the Authorization header is not valid: it is misspelled, expired or"
            " revoked."
        )
    return ProblemError(
        "unauthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="vdi"'}
    )


async def _limit_rate(api: Services, key: str, email: str, most: int) -> None:
    window, passed = divmod(int(api.context.clock().timestamp()), RATE_WINDOW_SECONDS)
    if await api.context.shared.count(f"{key}/{window}", RATE_WINDOW_SECONDS) <= most:
        return
    wait = RATE_WINDOW_SECONDS - passed
    limit = f"{most} requests in {RATE_WINDOW_SECONDS} s"
    detail = f"{email} has sent more than {limit}. Try again in {wait} s."
    raise ProblemError("too-many-requests", detail, headers={"Retry-After": str(wait)})


class Endpoint:
    """All methods of one address, as an ASGI application; every exception becomes a problem
    response.
    """

    def __init__(self, api: Services, operations: Sequence[Operation]) -> None:
        self._api = api
        self._by_method: Mapping[str, Operation] = {
            operation.method: operation for operation in operations
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        # A handler may close the second one and use it again, while its request goes on.
        async with AsyncExitStack() as counted, AsyncExitStack() as held:
            try:
                response = await self._answer(request, counted, held)
            except ProblemError as error:
                response = error.response()
            except Exception as error:
                response = problem_of(error).response()
                if response.status_code == 500:
                    log.exception("%s %s failed", request.method, request.url.path)
            await response(scope, receive, until_read(send))

    async def _answer(
        self,
        request: Request,
        counted: AsyncExitStack,
        held: AsyncExitStack,
    ) -> Response:
        operation = self._by_method.get(request.method)
        if operation is None:
            allowed = ", ".join(sorted(self._by_method))
            detail = (
                f"Method {request.method} is not supported by {request.url.path}; allowed:"
                f" {allowed}."
            )
            raise ProblemError("method-not-allowed", detail, headers={"Allow": allowed})
        if token := bearer(request):
            requests = self._api.token_requests
            counted.enter_context(requests.enter(token))
            async with requests.lookup:
                who = await admit(request, self._api, operation)
        else:
            who = await admit(request, self._api, operation)
        query, body = _query(request, operation.query), await _body(request, operation.body)
        result = await operation.handler(Call(request, self._api, who, query, body, held))
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
    # Not `request.body()`, which Starlette keeps for as long as the request lasts.
    body = b"".join([piece async for piece in request.stream()])
    try:
        return _decode(body, shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError("malformed", f"The body is not valid JSON: {error}.") from error


def _decode(body: bytes, shape: type[msgspec.Struct]) -> msgspec.Struct:
    try:
        # Into the struct at once: as objects, 60 KB of fields that no one reads take 2 MB and 3 ms.
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise from_validation(error, msgspec.json.decode(body), shape) from error


async def unknown_address(request: Request) -> Response:
    """404 for every other address below `/api/`."""
    detail = (
        f"{request.url.path} is not an address of this API. All addresses are in"
        f" {PREFIX}/openapi.json and on /api/docs."
    )
    return ProblemError("not-found", detail).response()
