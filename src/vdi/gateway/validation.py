"""Errors of msgspec about a body, parameters or a form, as refusals that name field, value and what
is allowed.
"""

import re
from typing import Any

import msgspec
from msgspec import UNSET

from vdi.gateway.denied import ActionDenied, FieldProblem, invalid, invalid_fields

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>[^`]+)`")
_EXPECTED = re.compile(r"^Expected (?P<allowed>.*?)(?:, got .*)?$")
_QUOTED = re.compile(r"`([^`]+)`")
_RULE = re.compile(r"^(?P<field>\w+): .*; allowed: (?P<allowed>.*)$", re.DOTALL)
_TYPES = {
    "str": "text",
    "int": "a whole number",
    "bool": "true or false",
    "object": "an object",
    "array": "a list",
}


def from_validation(
    error: msgspec.ValidationError, sent: Any, shape: type[msgspec.Struct]
) -> ActionDenied:
    """The refusal for an error of msgspec about a body or parameters. `sent` is the untyped value.

    msgspec has only a message: the patterns above read the path and the expectation out of it.
    """
    found = _AT.match(str(error))
    if found:
        what, path = found["what"], found["path"] or ""
    else:
        what, path = str(error), ""
    if error.__cause__:  # a rule of the struct's own, which says what is allowed
        rule = _RULE.match(what)
        field = _below(path, rule["field"]) if rule else path or "body"
        allowed = rule["allowed"] if rule else what
        problem = FieldProblem(field, allowed, _value(sent, field))
        return ActionDenied("Invalid", f"{what}.", problem)
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
    kind = _plain(_declared(shape, path))
    if isinstance(kind, msgspec.inspect.IntType) and None not in (kind.ge, kind.le):
        return f"a whole number from {kind.ge} to {kind.le}"
    is_choice = isinstance(kind, msgspec.inspect.LiteralType | msgspec.inspect.EnumType)
    if expected is None or is_choice or "matching regex" in what:
        return _described(shape, path)
    return _in_words(expected["allowed"])


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _in_words(expected: str) -> str:
    """`int | null` >= 1 -> a whole number >= 1."""

    def words(match: re.Match[str]) -> str:
        return " or ".join(
            _TYPES.get(kind, kind) for kind in match[1].split(" | ") if kind != "null"
        )

    return _QUOTED.sub(words, expected)


def _value(sent: Any, path: str) -> Any:
    for part in filter(None, path.replace("[...]", "").split(".")):
        sent = sent.get(part, UNSET) if isinstance(sent, dict) else UNSET
    return sent


def _field_types(shape: type[msgspec.Struct], path: str) -> dict[str, Any]:
    """Types of the fields of the struct at this path, by their names in JSON; empty where no struct
    is.
    """
    described: Any = msgspec.inspect.type_info(shape)
    for part in filter(None, path.split(".")):
        described = next(
            (
                _plain(field.type)
                for field in getattr(described, "fields", ())
                if field.encode_name == part
            ),
            None,
        )
    return {field.encode_name: field.type for field in getattr(described, "fields", ())}


def _plain(kind: Any) -> Any:
    """The struct in `Annotated[Struct | None, ...]`."""
    while isinstance(kind, msgspec.inspect.Metadata):
        kind = kind.type
    if isinstance(kind, msgspec.inspect.UnionType):
        given = []
        for member in kind.types:
            if not isinstance(member, msgspec.inspect.NoneType):
                given.append(member)
        return _plain(given[0]) if len(given) == 1 else kind
    return kind


def _declared(shape: type[msgspec.Struct], path: str) -> Any:
    """The declared type of the field at this path; None: there is none."""
    parent, _, name = path.rpartition(".")
    return _field_types(shape, parent).get(name)


def _described(shape: type[msgspec.Struct], path: str) -> str:
    """The allowed value by the field's own description, where msgspec's message does not name
    it.
    """
    declared = _declared(shape, path)
    if not isinstance(declared, msgspec.inspect.Metadata):
        return "a value of the type given in the API description"
    kind = _plain(declared)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return "one of " + ", ".join(map(str, kind.values))
    if isinstance(kind, msgspec.inspect.EnumType):
        return "one of " + ", ".join(sorted(kind.cls))
    return str((declared.extra_json_schema or {})["description"]).rstrip(".")
