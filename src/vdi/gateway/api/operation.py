"""One operation of the API as a value, and how a request becomes a call of its handler. Knows no operation itself.

    request -> who asks (401) -> rate (429) -> CSRF, admin (403) -> parameters, body (400, 415, 422) -> handler

`routes` makes Starlette's routes from the table of operations, `openapi` makes the document from the same table.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vdi.gateway.api.auth import admit
from vdi.gateway.api.problems import ProblemError, from_validation, invalid, problem_of
from vdi.gateway.api.services import ApiServices
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.users import User

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
    path: str
    """Below `/api/v1`, such as `/sessions/{name}`."""
    name: str
    """`operationId`."""
    tag: str
    summary: str
    description: str = ""
    handler: Callable[[Call[Any, Any]], Awaitable[msgspec.Struct | Response | None]]
    query: type[msgspec.Struct] = Empty
    body: type[msgspec.Struct] | None = None
    answer: type[msgspec.Struct] | None = None
    """What a success brings as JSON; None: nothing (204), or what `media` says."""
    status: int = 200
    media: str = ""
    """Media types of an answer that is not one JSON object, such as `text/event-stream`."""
    admin: bool = False
    problems: Sequence[str] = ()
    """Codes of the problems that this operation has beyond those that all have."""

    @property
    def success(self) -> int:
        """HTTP status of a success."""
        return self.status if self.answer or self.media else 204


class Address:
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
