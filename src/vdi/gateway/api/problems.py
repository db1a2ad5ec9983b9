"""Error responses of the REST API: `application/problem+json` (RFC 9457), with field, value and
what is allowed.

Handlers raise ProblemError or ActionDenied; `operation` sends the problem that `problem_of` makes
of any exception.
"""

import logging
import re
from typing import Annotated, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from vdi.api.constraints import doc
from vdi.gateway.denied import ActionDenied, CrossSiteError, FieldProblem, invalid, invalid_fields
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.audit import NotAuditedError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.kube.errors import KubeError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# All problems: code, HTTP status and title.
TITLES = {
    "malformed": (400, "The request cannot be read"),
    "unauthenticated": (401, "Not authenticated"),
    "csrf": (403, "The request did not come from a page of this portal"),
    "forbidden": (403, "Not allowed for this user"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflicts with the current state"),
    "over-limit": (409, "It would exceed this user's limits"),
    "view-only-unavailable": (409, "The image of this desktop does not support view only"),
    "human-in-control": (409, "A person has control of the desktop"),
    "parked": (409, "The agent waits for a person"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "The body is not valid JSON"),
    "invalid": (422, "A field has an invalid value"),
    "too-many-requests": (429, "Too many requests"),
    "unexpected": (500, "Internal error of the gateway"),
    "unavailable": (503, "A service that the gateway needs does not respond"),
}
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]+)`")
_EXPECTED = re.compile(r"^Expected (?P<allowed>.*?)(?:, got .*)?$")
_QUOTED = re.compile(r"`([^`]+)`")
_TYPES = {
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}
_OF_STATUS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    408: "malformed",
    413: "too-large",
    429: "too-many-requests",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """A refusal as the API answers it (RFC 9457)."""

    type: Annotated[
        str, doc("Address of the description of this problem type.", format="uri-reference")
    ]
    title: Annotated[str, doc("The problem type, in words.")]
    status: Annotated[int, doc("The HTTP status.")]
    code: Annotated[str, doc("Code of the problem type, for programs.", enum=list(TITLES))]
    detail: Annotated[str, doc("Details of this occurrence, in full sentences.")]
    errors: Annotated[tuple[FieldProblem, ...], doc("The fields with invalid values.")] = ()


class ProblemError(Exception):
    """Raised when a request is refused; `code` is one of `TITLES`."""

    def __init__(
        self, code: str, detail: str, *errors: FieldProblem, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, title = TITLES[code]
        self.headers = headers or {}
        self.problem = Problem(
            f"/api/docs#problem-{code}", title, self.status, code, detail, errors
        )

    def response(self) -> Response:
        """The response to the request."""
        body = msgspec.json.encode(self.problem)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def from_validation(
    error: msgspec.ValidationError, sent: Any, shape: type[msgspec.Struct]
) -> ActionDenied:
    """The refusal for an error of msgspec about a body or parameters. `sent` is the untyped value.

    msgspec has only a message: the patterns above read the path and the expectation out of it.
    """
    found = _AT.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    if missing := _MISSING.match(what):
        field = _below(path, missing["name"])
        return invalid_fields(FieldProblem(field, f"{_described(shape, field)} (required)"))
    if unknown := _UNKNOWN.match(what):
        field = _below(path, unknown["name"])
        known = ", ".join(_field_types(shape, path)) or "none"
        return invalid(field, _value(sent, field), f"a field of this request: {known}")
    return invalid(path or "body", _value(sent, path), _allowed(what, shape, path))


def _allowed(what: str, shape: type[msgspec.Struct], path: str) -> str:
    """The allowed value for the field that msgspec complains of."""
    if "RFC3339" in what or "timezone" in what:
        return "a time such as 2026-12-24T18:00:00Z"
    expected = _EXPECTED.match(what)
    if expected is None or "matching regex" in what:
        return _described(shape, path)
    return _in_words(expected["allowed"])


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _in_words(expected: str) -> str:
    """`int | null` >= 1 -> a whole number >= 1."""

    def words(found: re.Match[str]) -> str:
        return " or ".join(
            _TYPES.get(kind, kind) for kind in found[1].split(" | ") if kind != "null"
        )

    return _QUOTED.sub(words, expected)


def _value(sent: Any, path: str) -> Any:
    for part in filter(None, path.replace("[...]", "").split(".")):
        sent = sent.get(part) if isinstance(sent, dict) else None
    return sent


def _field_types(shape: type[msgspec.Struct], path: str) -> dict[str, Any]:
    """Types of the fields of the struct at this path, by their names in JSON; empty where no struct
    is.
    """
    found: Any = msgspec.inspect.type_info(shape)
    for part in filter(None, path.split(".")):
        found = next(
            (
                _plain(field.type)
                for field in getattr(found, "fields", ())
                if field.encode_name == part
            ),
            None,
        )
    return {field.encode_name: field.type for field in getattr(found, "fields", ())}


def _plain(kind: Any) -> Any:
    """The struct in `Annotated[Struct | None, ...]`."""
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        given = [
            member for member in kind.types if not isinstance(member, msgspec.inspect.NoneType)
        ]
        return _plain(given[0]) if len(given) == 1 else kind
    return kind


def _described(shape: type[msgspec.Struct], path: str) -> str:
    """The allowed value by the field's own description, where msgspec's message does not name
    it.
    """
    parent, _, name = path.rpartition(".")
    declared = _field_types(shape, parent).get(name)
    if not isinstance(declared, msgspec.inspect.Metadata):
        return "a value of the type given in the API description"
    kind = _plain(declared)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return "one of " + ", ".join(map(str, kind.values))
    if isinstance(kind, msgspec.inspect.EnumType):
        return "one of " + ", ".join(sorted(kind.cls))
    return str((declared.extra_json_schema or {})["description"]).rstrip(".")


def problem_of(error: Exception) -> ProblemError:
    """The problem for an exception; `unexpected` is a fault of ours, and the caller logs it."""
    match error:
        case ActionDenied():
            return ProblemError(
                _kebab_case(error.code), error.sentence, *error.fields, headers=error.headers
            )
        case CrossSiteError():
            return ProblemError("csrf", error.detail)
        case HTTPException():
            code = _OF_STATUS.get(error.status_code, "unexpected")
            return ProblemError(code, error.detail, headers=dict(error.headers or {}))
        case ClientDisconnect():  # no fault of ours; no one reads it
            return ProblemError("malformed", "The body of the request is not complete.")
        case DatabaseUnavailableError():
            return ProblemError(
                "unavailable",
                "The gateway's database does not respond.",
                headers={"Retry-After": "5"},
            )
        case SharedUnavailableError():
            log.error("the API refuses requests: %s", error)
            return ProblemError(
                "unavailable", "The gateway's Redis does not respond.", headers={"Retry-After": "5"}
            )
        case NotAuditedError():
            return ProblemError("unavailable", str(error))
        case KubeError():
            return ProblemError(
                "unavailable", "The cluster does not respond.", headers={"Retry-After": "5"}
            )
        case _:
            return ProblemError(
                "unexpected", "This is an internal error of the gateway. Its log has the details."
            )


def _kebab_case(code: str) -> str:
    """`view-only-unavailable` for the code `ViewOnlyUnavailable` of a refusal."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", code).lower()
