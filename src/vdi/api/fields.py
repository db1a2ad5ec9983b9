"""What the schema of a kind says about one of its fields, in words: for the API reference and for refusals."""

import re
from functools import cache

from vdi.api.crd import session_crd
from vdi.api.schema import Schema

_INDEX = re.compile(r"\[[^]]*\]")
"""An entry of a list or map, such as `[0]`, in the API server's path of a field."""


def describe_allowed(field: Schema) -> str:
    """The values that a field's schema allows; empty when it allows every value of its type."""
    said = [", ".join(f"`{value}`" for value in field["enum"])] if "enum" in field else []
    rules = (*field.get("x-kubernetes-validations", ()), *field.get("items", {}).get("x-kubernetes-validations", ()))
    said += [rule["message"].removeprefix("must be ") for rule in rules]
    if "minimum" in field:
        said.append(f"at least {field['minimum']}")
    units = (("maximum", ""), ("maxLength", " characters"), ("maxItems", " entries"), ("maxProperties", " entries"))
    if "x-kubernetes-int-or-string" not in field:
        said += [f"at most {field[keyword]}{unit}" for keyword, unit in units if keyword in field]
    if "pattern" in field and not rules:
        said.append(f"`{field['pattern']}`")
    return "; ".join(said)


def allowed_in_session(path: str) -> str:
    """What a VDISession's field allows, by the API server's path of it (`spec.access[0].user`).

    Empty when the kind has no such field, or allows every value of its type.
    """
    schema: Schema = _session_schema()
    for name in _INDEX.sub("", path).split("."):
        schema = schema.get("items", schema).get("properties", {}).get(name, {})
    return describe_allowed(schema)


@cache
def _session_schema() -> Schema:
    schema: Schema = session_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema
