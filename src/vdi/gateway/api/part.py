"""The API as a part of the gateway: its routes, the OpenAPI document and its page."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vdi.gateway.api import account, admin, admin_health, events, history, logins, probes, sessions
from vdi.gateway.api.docs import page
from vdi.gateway.api.openapi import document
from vdi.gateway.api.operation import JSON, PREFIX, Address, Operation, unknown_address
from vdi.gateway.login.guard import person_of
from vdi.gateway.parts import Part
from vdi.gateway.portal.render import render
from vdi.gateway.settings import Settings
from vdi.gateway.store.base import DatabaseUnavailableError

OPERATIONS: tuple[Operation, ...] = (
    *sessions.OPERATIONS,
    *probes.OPERATIONS,
    *events.OPERATIONS,
    *history.OPERATIONS,
    *account.OPERATIONS,
    *logins.OPERATIONS,
    *admin.OPERATIONS,
    *admin_health.OPERATIONS,
)
"""The whole API."""


class Api(Part):
    """`/api/v1`, `/api/v1/openapi.json` and `/api/docs`, on the portal's host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.streams: Counter[str] = Counter()
        """Open streams of events by person, in this process; touched from the event loop alone."""

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document; the same for everybody."""
        return document(OPERATIONS, url=self._settings.portal_url, version=version("vdi"))

    def portal_routes(self) -> Sequence[BaseRoute]:
        """One route for each address, and words for every other one."""
        by_path: dict[str, list[Operation]] = {}
        for each in OPERATIONS:
            by_path.setdefault(each.path, []).append(each)
        return [
            Route(f"{PREFIX}/openapi.json", self._serve_document, methods=["GET"]),
            Route("/api/docs", self._serve_page, methods=["GET"]),
            *(Route(PREFIX + path, Address(operations)) for path, operations in by_path.items()),
            Route("/api/{rest:path}", unknown_address, methods=_ALL_METHODS),
        ]

    async def _serve_document(self, _request: Request) -> Response:
        return Response(msgspec.json.encode(self.document), media_type=JSON, headers={"Cache-Control": "no-cache"})

    async def _serve_page(self, request: Request) -> Response:
        try:
            person = await person_of(request)
        except DatabaseUnavailableError:
            person = None  # the page is for everybody; only its navigation would show who reads it
        return render(request, "api_docs.html", person=person, here="api", **page(self.document))


_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
