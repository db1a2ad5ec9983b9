"""A msgspec struct as a structural OpenAPI v3 schema, for `vdi.api.crd`. Knows no kind of ours."""

from enum import Enum
from typing import Any

from msgspec import NODEFAULT, Struct, inspect

Schema = dict[str, Any]


def struct_schema(struct: type[Struct], *, defaults: bool) -> Schema:
    """The schema of a struct and of everything in it.

    `defaults`: whether the structs' defaults are the API server's too. An empty text, list or map is never one: it says
    no more than a missing field.
    """
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)  # noqa: S101 - for the type checker
    return _struct(kind, defaults)


def _struct(kind: inspect.StructType, defaults: bool) -> Schema:
    schema: Schema = {"type": "object", "description": " ".join((kind.cls.__doc__ or "").split())}
    required = [field.encode_name for field in kind.fields if field.required]
    if required:
        schema["required"] = required
    schema["properties"] = {field.encode_name: _field(field, defaults) for field in kind.fields}
    if rules := getattr(kind.cls, "rules", ()):
        schema["x-kubernetes-validations"] = [rule.as_schema() for rule in rules]
    return schema


def _field(field: inspect.Field, defaults: bool) -> Schema:
    schema = _type(field.type, defaults)
    if not defaults:
        return schema
    if field.default_factory is not NODEFAULT:
        # Without this the API server fills in the inner defaults only where the object is given.
        if any("default" in inner for inner in schema.get("properties", {}).values()):
            schema["default"] = {}
    elif field.default not in (NODEFAULT, None, "", ()):
        schema["default"] = field.default.value if isinstance(field.default, Enum) else field.default
    return schema


def _type(kind: inspect.Type, defaults: bool) -> Schema:
    match kind:
        case inspect.Metadata(type=inner, extra_json_schema=extra):
            schema = _type(inner, defaults)
            allowed = {"enum": schema.pop("enum")} if "enum" in schema else {}
            return schema | (extra or {}) | allowed
        case inspect.UnionType(types=types):
            given = [member for member in types if not isinstance(member, inspect.NoneType)]
            if len(given) == 1:
                return _type(given[0], defaults)
            return {"x-kubernetes-int-or-string": True}
        case inspect.StructType():
            return _struct(kind, defaults)
        case inspect.VarTupleType(item_type=item):
            return {"type": "array", "items": _type(item, defaults)}
        case inspect.DictType(value_type=value):
            return {"type": "object", "additionalProperties": _type(value, defaults)}
        case inspect.StrType():
            return {"type": "string"}
        case inspect.EnumType(cls=cls):
            return {"type": "string", "enum": [member.value for member in cls]}
        case inspect.IntType():
            return {"type": "integer", "format": "int64"}
        case inspect.BoolType():
            return {"type": "boolean"}
        case _:
            raise TypeError(
                f"{kind} is not supported in a CRD; allowed: struct, text, enum, int, bool, text or int, tuple of "
                "one type, dict"
            )
