"""What the API says when it refuses: `application/problem+json` (RFC 9457), with field, value and what is allowed.

Raised by the handlers, and made here from everything else that can go wrong on the way; sent by `operation`.
"""

import logging
import re
from typing import Annotated, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from vdi.api.constraints import doc
from vdi.gateway.denied import ActionDenied, CrossSiteError, FieldProblem
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.streams import TooManyStreamsError
from vdi.kube.errors import KubeError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# Every problem that there is: its code, its HTTP status and its title.
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
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "The body is not valid JSON"),
    "invalid": (422, "A field has an invalid value"),
    "too-many-requests": (429, "Too many requests"),
    "unexpected": (500, "Internal error of the gateway"),
    "unavailable": (503, "A service that the gateway needs does not respond"),
}


class Problem(msgspec.Struct, omit_defaults=True):
    """Why a request was refused (RFC 9457)."""

    type: Annotated[str, doc("Address of the description of this problem type.", format="uri-reference")]
    title: Annotated[str, doc("The problem type, in words.")]
    status: Annotated[int, doc("The HTTP status.")]
    code: Annotated[str, doc("Code of the problem type, for programs.", enum=list(TITLES))]
    detail: Annotated[str, doc("Details of this occurrence, in full sentences.")]
    errors: Annotated[tuple[FieldProblem, ...], doc("The fields with invalid values.")] = ()


class ProblemError(Exception):
    """Raised when a request is refused; `code` is one of `TITLES`."""

    def __init__(self, code: str, detail: str, *errors: FieldProblem, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, title = TITLES[code]
        self.headers = headers or {}
        self.problem = Problem(f"/api/docs#problem-{code}", title, self.status, code, detail, errors)

    def response(self) -> Response:
        """The answer to the request."""

        body = msgspec.json.encode(self.problem)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def invalid(field: str, value: Any, allowed: str) -> ProblemError:
    """The refusal of one field's value."""
    return _invalid([FieldProblem(field, allowed, value)])


def _invalid(errors: list[FieldProblem]) -> ProblemError:
    said = [_sentence(error) for error in errors]
    return ProblemError("invalid", " ".join(said), *errors)


def _sentence(error: FieldProblem) -> str:
    if error.value is None:
        return f"{error.field}: allowed: {error.allowed}."
    return f"{error.field}: {_shown(error.value)} is not {error.allowed}."


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else f"{text[:77]}..."


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]+)`")
_EXPECTED = re.compile(r"^Expected (?P<allowed>.*?)(?:, got .*)?$")
_QUOTED = re.compile(r"`([^`]+)`")
_TYPES = {"str": "text", "int": "a whole number", "bool": "true or false", "object": "an object", "array": "a list"}


def from_validation(error: msgspec.ValidationError, sent: Any, shape: type[msgspec.Struct]) -> ProblemError:
    """The refusal for what msgspec says of a body or of parameters. `sent` is what was read, untyped."""
    found = _AT.match(str(error))
    what, path = (found["what"], found["path"] or "") if found else (str(error), "")
    if missing := _MISSING.match(what):
        field = _below(path, missing["name"])
        return _invalid([FieldProblem(field, f"{_described(shape, field)} (required)")])
    if unknown := _UNKNOWN.match(what):
        field = _below(path, unknown["name"])
        known = ", ".join(_fields(shape, path)) or "none"
        return _invalid([FieldProblem(field, f"a field of this request: {known}", _value(sent, field))])
    return _invalid([FieldProblem(path or "body", _allowed(what, shape, path), _value(sent, path))])


def _allowed(what: str, shape: type[msgspec.Struct], path: str) -> str:
    """What is allowed in the place of what msgspec complains of."""
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
        return " or ".join(_TYPES.get(kind, kind) for kind in found[1].split(" | ") if kind != "null")

    return _QUOTED.sub(words, expected)


def _value(sent: Any, path: str) -> Any:
    for part in filter(None, path.replace("[...]", "").split(".")):
        sent = sent.get(part) if isinstance(sent, dict) else None
    return sent


def _fields(shape: type[msgspec.Struct], path: str) -> list[str]:
    found: Any = msgspec.inspect.type_info(shape)
    for part in filter(None, path.split(".")):
        found = next((_plain(field.type) for field in found.fields if field.encode_name == part), None)
        if not isinstance(found, msgspec.inspect.StructType):
            return []
    return [field.encode_name for field in found.fields]


def _plain(kind: Any) -> Any:
    """The struct in `Annotated[Struct | None, ...]`."""
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        given = [member for member in kind.types if not isinstance(member, msgspec.inspect.NoneType)]
        return _plain(given[0]) if len(given) == 1 else kind
    return kind


def _described(shape: type[msgspec.Struct], path: str) -> str:
    """What a field's own description says, the last resort of what is allowed."""
    parent, _, name = path.rpartition(".")
    found: Any = msgspec.inspect.type_info(shape)
    for part in filter(None, parent.split(".")):
        found = next((_plain(field.type) for field in found.fields if field.encode_name == part), found)
    for field in getattr(found, "fields", ()):
        if field.encode_name == name and isinstance(field.type, msgspec.inspect.Metadata):
            if isinstance(kind := _plain(field.type), msgspec.inspect.LiteralType):
                return "one of " + ", ".join(map(str, kind.values))
            if isinstance(kind, msgspec.inspect.EnumType):
                return "one of " + ", ".join(sorted(kind.cls))
            return str((field.type.extra_json_schema or {})["description"]).rstrip(".")
    return "a value of the type given in the API description"


_OF_REFUSAL = {
    "Forbidden": "forbidden",
    "NotFound": "not-found",
    "Conflict": "conflict",
    "OverLimit": "over-limit",
    "ViewOnlyUnavailable": "view-only-unavailable",
    "Invalid": "invalid",
    "Unavailable": "unavailable",
}
_OF_STATUS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    408: "malformed",
    413: "too-large",
}


def problem_of(error: Exception) -> ProblemError:
    """The problem to answer with; one that says `unexpected` is a fault of ours, and the caller logs it."""
    match error:
        case ActionDenied():
            return ProblemError(_OF_REFUSAL[error.code], error.sentence, *error.fields)
        case CrossSiteError():
            return ProblemError("csrf", error.detail)
        case HTTPException():
            code = _OF_STATUS.get(error.status_code, "unexpected")
            return ProblemError(code, error.detail, headers=dict(error.headers or {}))
        case TooManyStreamsError():
            return ProblemError("too-many-requests", str(error), headers=error.headers)
        case DatabaseUnavailableError():
            return ProblemError("unavailable", "The gateway's database does not respond.", headers={"Retry-After": "5"})
        case SharedUnavailableError():
            log.error("the API refuses requests: %s", error)
            return ProblemError("unavailable", "The gateway's Redis does not respond.", headers={"Retry-After": "5"})
        case KubeError():
            return ProblemError("unavailable", "The cluster does not respond.", headers={"Retry-After": "5"})
        case _:
            return ProblemError("unexpected", "This is an internal error of the gateway. Its log has the details.")
