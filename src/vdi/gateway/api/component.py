"""The API as a component of the gateway: its routes, the OpenAPI document and its page."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vdi.gateway.api import account, admin, history, sessions
from vdi.gateway.api.openapi import docs_page, document
from vdi.gateway.api.operation import JSON, PREFIX, Endpoint, Operation, unknown_address
from vdi.gateway.component import Component
from vdi.gateway.services import Services
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.render import Renderer

_TABLES = (
    sessions.operation,
    sessions.template_operation,
    history.operation,
    history.admin_operation,
    account.operation,
    account.home_operation,
    admin.admin_operation,
)
# The whole API.
OPERATIONS: tuple[Operation, ...] = tuple(operation for table in _TABLES for operation in table.operations)
_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Api(Component):
    """`/api/v1`, `/api/v1/openapi.json` and `/api/docs`, on the portal's host."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._renderer = Renderer(services.context.settings)

    @property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document; the same for everybody."""
        return _document(self.services.context.settings.portal_url)

    def portal_routes(self) -> Sequence[BaseRoute]:
        """One route for each address, and words for every other one."""
        by_path: dict[str, list[Operation]] = {}
        for operation in OPERATIONS:
            by_path.setdefault(operation.path, []).append(operation)
        return [
            Route(f"{PREFIX}/openapi.json", self._serve_document, methods=["GET"]),
            Route("/api/docs", self._serve_page, methods=["GET"]),
            *(Route(PREFIX + path, Endpoint(self.services, operations)) for path, operations in by_path.items()),
            Route("/api/{rest:path}", unknown_address, methods=_ALL_METHODS),
        ]

    async def _serve_document(self, _request: Request) -> Response:
        return Response(msgspec.json.encode(self.document), media_type=JSON, headers={"Cache-Control": "no-cache"})

    async def _serve_page(self, request: Request) -> Response:
        try:
            user = await self.services.guard.user_of(request)
        except DatabaseUnavailableError:
            user = None  # the page is for everybody; only its navigation would show who reads it
        return self._renderer.render(request, "api_docs.html", user=user, here="api", **docs_page(self.document))


@cache
def _document(portal_url: str) -> dict[str, Any]:
    return document(OPERATIONS, url=portal_url)
