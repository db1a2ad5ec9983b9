"""The API as a component of the gateway: its routes, and the OpenAPI 3.1 document with its page
`/api/docs`.

The document is made from the operations and structs that answer requests.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vdi.gateway.api import account, admin, history, mcp, sessions
from vdi.gateway.api.operation import JSON, PREFIX, Endpoint, Operation, unknown_address
from vdi.gateway.api.problems import MEDIA_TYPE, TITLES, Problem
from vdi.gateway.component import Component
from vdi.gateway.services import Services
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.assets import Asset, pack, send_asset
from vdi.gateway.web.render import Renderer

_TABLES = (
    sessions.operation,
    sessions.template_operation,
    history.operation,
    history.admin_operation,
    account.operation,
    account.home_operation,
    admin.admin_operation,
    admin.audit_operation,
)
# The whole API.
OPERATIONS: tuple[Operation, ...] = tuple(
    operation for table in _TABLES for operation in table.operations
)
_ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
Schema = dict[str, Any]
_REF = "#/components/schemas/{name}"
_LIST = re.compile(r"\bListPage[_\[](\w+)[_\]]")
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_ABOUT = """Desktops for programs: what the portal does, except files.

Send an API token (`Authorization: Bearer vdi_...`), made on the portal's page Account or by `vdi
login`. Scripts on the portal's own pages use the login's cookie, and send `X-CSRF-Token` with
whatever changes something.

A refusal is `application/problem+json` (RFC 9457): `code` for programs, `detail` for people, and in
`errors` each field with what was sent and what is allowed. More than 600 requests in a minute are
answered 429 with `Retry-After`. Times are RFC 3339 in UTC. Lists that can be long come in pages:
send `next` back as `cursor`.
"""
_ALWAYS = ("unauthenticated", "forbidden", "too-many-requests", "unexpected", "unavailable")
_TAGS = {
    "Desktops": "Start, follow, share and end desktops.",
    "Templates": "The kinds of desktop that you can start.",
    "History": "Past sessions, recordings and usage.",
    "Homes": "The volumes that hold your files.",
    "Account": "Who you are, your limits, and your API tokens.",
    "Administration": "For administrators: desktops of all users and shared resources.",
}
_PARTS = {
    "name": "Name of the session or template.",
    "user": "E-mail address.",
    "id": "Identifier from the list.",
    "uid": "The session's uid.",
}


class Api(Component):
    """`/api/v1`, `/api/v1/openapi.json`, `/api/docs` and `/mcp`, on the portal's host."""

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
            Route("/mcp", Endpoint(self.services, mcp.operation.operations), methods=["POST"]),
            *(
                Route(PREFIX + path, Endpoint(self.services, operations))
                for path, operations in by_path.items()
            ),
            Route("/api/{rest:path}", unknown_address, methods=_ALL_METHODS),
        ]

    async def _serve_document(self, request: Request) -> Response:
        return send_asset(_packed(self.services.context.settings.portal_url), request, "no-cache")

    async def _serve_page(self, request: Request) -> Response:
        try:
            user = await self.services.guard.user_of(request)
        except DatabaseUnavailableError:
            user = None  # the page is for everybody; only its navigation would show who reads it
        return self._renderer.render(
            request, "api_docs.html", user=user, here="api", **docs_page(self.document)
        )


@cache
def _document(url: str) -> Schema:
    """The whole document. `url`: the portal's, without a slash at its end."""
    structs = _structs()
    # A list has the name of its items: TokenList, not ListPage_Token_.
    text = msgspec.json.encode(msgspec.json.schema_components(structs, ref_template=_REF)).decode()
    refs, components = msgspec.json.decode(_LIST.sub(r"\1List", text))
    ref_of = dict(zip(structs, refs, strict=True))
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        path = PREFIX + _PARAMETER.sub(r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(
            operation, ref_of, components
        )
    parameters_only = {operation.query.__name__ for operation in OPERATIONS}
    schemas = {
        name: _plain(schema) for name, schema in components.items() if name not in parameters_only
    }
    return {
        "openapi": "3.1.0",
        # The version of the API, not of the gateway: the document is for everybody.
        "info": {"title": "VDI", "version": PREFIX.rpartition("/v")[2], "description": _ABOUT},
        "servers": [{"url": url}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "security": [{"token": []}, {"login": [], "csrf": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token: `vdi_...`.",
                },
                "login": {"type": "apiKey", "in": "cookie", "name": "__Host-vdi-login"},
                "csrf": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-CSRF-Token",
                    "description": (
                        "`csrfToken` of `GET /me`; required for changes that use the cookie."
                    ),
                },
            },
        },
    }


@cache
def _packed(url: str) -> Asset:
    return pack(msgspec.json.encode(_document(url)), JSON)


def _structs() -> list[type[msgspec.Struct]]:
    shapes = []
    for operation in OPERATIONS:
        for shape in (operation.query, operation.body, operation.answer):
            if shape is not None:
                shapes.append(shape)
    return list(dict.fromkeys([*shapes, Problem]))


def _operation(
    operation: Operation, ref_of: dict[type[msgspec.Struct], Schema], components: Schema
) -> Schema:
    path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PARTS[name],
            "schema": {"type": "string"},
        }
        for name in _PARAMETER.findall(operation.path)
    ]
    query = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": _without_null(
                {key: value for key, value in schema.items() if key != "description"}
            ),
        }
        for name, schema in _plain(components[operation.query.__name__])["properties"].items()
    ]
    made: Schema = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": _responses(operation, ref_of),
    }
    if operation.description:
        made["description"] = operation.description
    if parameters := path + query:
        made["parameters"] = parameters
    if operation.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": ref_of[operation.body]}},
        }
    return made


def _responses(operation: Operation, ref_of: dict[type[msgspec.Struct], Schema]) -> Schema:
    made: Schema = {}
    success = str(operation.success)
    if operation.media:
        content = {
            media_type: {"schema": {"type": "string"}} for media_type in operation.media.split(", ")
        }
        made[success] = {"description": "Done.", "content": content}
    elif operation.answer is not None:
        made[success] = {
            "description": "Done.",
            "content": {JSON: {"schema": ref_of[operation.answer]}},
        }
    else:
        made[success] = {"description": "Done. The response has no body."}
    for status, codes in _problems(operation).items():
        titles = "; ".join(f"`{code}`: {TITLES[code][1]}" for code in codes)
        made[status] = {
            "description": f"{titles}.",
            "content": {MEDIA_TYPE: {"schema": ref_of[Problem]}},
        }
    return dict(sorted(made.items()))


def _problems(operation: Operation) -> dict[str, list[str]]:
    """The codes by HTTP status."""
    codes = [*_ALWAYS, *operation.problems, "invalid"]
    if operation.method != "GET":
        codes.append("csrf")
    if operation.body is not None:
        codes += ["malformed", "unsupported-media-type", "too-large"]
    found: dict[str, list[str]] = {}
    for code in sorted(set(codes)):
        found.setdefault(str(TITLES[code][0]), []).append(code)
    return found


def _plain(schema: Schema) -> Schema:
    """Without Kubernetes' own keywords and empty defaults; what its rules say in words joins the
    description.
    """
    kept = {
        key: _inner(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and not (key == "default" and value == "")
    }
    if "enum" in kept:
        # Kubernetes' structs leave out what is null, and an enum would forbid it.
        kept = _without_null(kept)
        if all(isinstance(value, str) for value in kept["enum"]):
            # msgspec leaves it out, and generators of clients ask for it.
            kept.setdefault("type", "string")
    return _with_rules(kept, schema.get("x-kubernetes-validations", ()))


def _inner(value: Any) -> Any:
    if isinstance(value, list):
        return [_inner(member) for member in value]
    if isinstance(value, dict):
        return _plain(value)
    return value


def _with_rules(schema: Schema, rules: Iterable[Any]) -> Schema:
    said = [rule["message"] for rule in rules]
    if not said or not isinstance(schema.get("description"), str):
        return schema
    first = schema["description"].rstrip(".")
    rest = " ".join(f"{text[0].upper()}{text[1:]}." for text in said)
    return schema | {"description": f"{first}. {rest}"}


def _without_null(schema: Schema) -> Schema:
    """For what is there or not, and never null, such as parameters."""
    choices: list[Schema] = [
        choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}
    ]
    if schema.get("default", 0) is None:
        schema = {key: value for key, value in schema.items() if key != "default"}
    if len(choices) != 1:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | choices[0]


def docs_page(document: Schema) -> dict[str, Any]:
    """Variables of the template of `/api/docs`, which reads the document itself."""
    operations = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations.append((method.upper(), path, operation))
    return {
        "about": [
            text.replace("\n", " ")
            for text in document["info"]["description"].strip().split("\n\n")
        ],
        "document": document,
        "tags": [
            (tag, [entry for entry in operations if entry[2]["tags"] == [tag["name"]]])
            for tag in document["tags"]
        ],
        "titles": TITLES,
        "kind_of": _kind,
    }


def _kind(schema: Schema) -> tuple[str, str]:
    """The type of a value in words, and the struct that it names, if any."""
    if ref := _ref(schema):
        return ref, ref
    if choices := [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]:
        kinds = [_kind(choice) for choice in choices]
        return " or ".join(kind for kind, _ in kinds), kinds[0][1]
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"]), ""
    if schema.get("type") == "array":
        kind, ref = _kind(schema.get("items", {}))
        return f"list of {kind}", ref
    if schema.get("format"):
        return str(schema["format"]), ""
    return str(schema.get("type", "any")), ""


def _ref(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]
