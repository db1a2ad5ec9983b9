"""Objects of any msgspec struct with hostile text in every field that holds text, and what may
reach a terminal.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from msgspec import inspect

# OSC 0, 8 and 52, CSI in 7 and 8 bits, direction, zero-width, tag and private-use characters, and
# lines.
HOSTILE = (
    "x\x1b]0;title\x07\x1b]52;c;Y2xpcA==\x07\x1b[2J\x1b[31mred\x1b[0m\x1b]8;;https://evil.example\x07link\u202eright\u2066left\u2069\u200b\u200d\ufeff\x9b2J\x9d0;t\x9c\x85\u2028\u2029\r\x08\x7f\x00\U000e0041\U000f0000\nPassword:"
    " forged"
)

# What `vdi.cli.terminal.style` and the marks of rich's progress write.
OUR_STYLES = re.compile(r"\x1b\[(?:0|1|2|31|32|33|34|35)m")

Path = tuple[str | int, ...]


def sample(kind: type, text: str = "text") -> Any:
    """An object of this type as JSON with every field filled: texts with `text`, times and codes as
    they must be.
    """
    return _sample(inspect.type_info(kind), {}, text)


def _sample(kind: inspect.Type, schema: dict[str, Any], text: str) -> Any:
    match kind:
        case inspect.Metadata():
            return _sample(kind.type, schema | (kind.extra_json_schema or {}), text)
        case inspect.StructType():
            return {field.encode_name: _field(field, text) for field in kind.fields}
        case inspect.StrType():
            return _text(schema, text)
        case inspect.EnumType():
            first: Enum = next(iter(kind.cls))
            return first.value
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.BoolType():
            return True
        case inspect.IntType() | inspect.FloatType():
            return 1
        case inspect.DateTimeType():
            return "2026-11-20T08:00:00Z"
        case inspect.UnionType():
            return _sample(
                next(one for one in kind.types if not isinstance(one, inspect.NoneType)),
                schema,
                text,
            )
        case inspect.DictType():
            return {text: _sample(kind.value_type, {}, text)}
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            return [_sample(kind.item_type, {}, text)]
        case _:
            return text


def _field(field: inspect.Field, text: str) -> Any:
    # Those of ObjectMeta, which is in no CRD's schema.
    is_time = field.encode_name.endswith("Timestamp")
    return _sample(field.type, {"format": "date-time"} if is_time else {}, text)


def _text(schema: dict[str, Any], text: str) -> str:
    if "enum" in schema:
        return str(schema["enum"][0])
    if schema.get("format") == "date-time":
        return "2026-11-20T08:00:00Z"
    return text


def leaves(obj: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all texts in the object."""
    if isinstance(obj, str):
        yield path
    for key, value in (
        obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list) else ()
    ):
        yield from leaves(value, (*path, key))


def text_at(obj: Any, path: Path) -> str:
    """The text at a path of `leaves`."""
    for key in path:
        obj = obj[key]
    return str(obj)


def with_text(obj: Any, path: Path, text: str) -> Any:
    """A copy of the object with this text there."""
    if not path:
        return text
    copy: Any = dict(obj) if isinstance(obj, dict) else list(obj)
    copy[path[0]] = with_text(obj[path[0]], path[1:], text)
    return copy


def unsafe(written: str) -> list[str]:
    """The characters that must not reach a terminal: all but printable ones, lines, tabs and our
    own styles.
    """
    rest = OUR_STYLES.sub("", written)
    return sorted({ascii(one) for one in rest if not (one.isprintable() or one in "\n\t")})
