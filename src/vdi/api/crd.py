"""CustomResourceDefinitions, generated from the structs of this package, and descriptions of their
fields.

The chart carries the written copy (`charts/vdi/files/crds`); a unit test holds the two equal.
"""

import re
from enum import Enum
from functools import cache
from typing import Any

from msgspec import NODEFAULT, Struct, inspect

from vdi.api.meta import GROUP, VERSION
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate

Schema = dict[str, Any]


def struct_schema(struct: type[Struct], *, defaults: bool) -> Schema:
    """The schema of a struct and of everything in it.

    `defaults`: whether the structs' defaults are the API server's too. An empty text, list or map
    is never one: it says no more than a missing field.
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
        # Without this the API server fills in the inner defaults only if the object is given.
        if any("default" in inner for inner in schema.get("properties", {}).values()):
            schema["default"] = {}
    elif field.default not in (NODEFAULT, None, "", ()):
        if isinstance(field.default, Enum):
            schema["default"] = field.default.value
        else:
            schema["default"] = field.default
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
                f"{kind} is not supported in a CRD; allowed: struct, text, enum, int, bool, text or"
                " int, tuple of one type, dict"
            )


Kind = type[VDISession] | type[VDITemplate] | type[VDIPool]

# Values that `kubectl get` shows before the operator has written a status, or where it omits a
# zero.
_SHOWN_BEFORE_THE_FIRST_WRITE: dict[Kind, dict[str, Any]] = {
    VDISession: {"phase": "Pending"},
    VDIPool: {"ready": 0, "starting": 0, "claimed": 0},
}


def session_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of `VDISession`, namespaced."""
    columns = [
        _column("User", ".spec.user"),
        _column("Phase", ".status.phase"),
        _column("URL", ".status.url"),
        _column("Age", ".metadata.creationTimestamp", type="date"),
        _column("Template", ".spec.template", priority=1),
        _column("Message", ".status.message", priority=1),
    ]
    # Not in category `all`: `kubectl delete all --all` in the namespace would end every desktop.
    names = {"shortNames": ["vdi"], "categories": ["kasm"]}
    return _crd(
        VDISession, "Namespaced", names, columns, (".spec.user", ".spec.template", ".status.phase")
    )


def template_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of `VDITemplate`, cluster-scoped."""
    columns = [
        _column("Display Name", ".spec.displayName"),
        _column("GPU", ".spec.resources.defaultGPU", type="integer"),
        _column("Memory", ".spec.resources.defaultMemory"),
        _column("CPU", ".spec.resources.defaultCPU"),
        _column("Age", ".metadata.creationTimestamp", type="date"),
        _column("Image", ".spec.image", priority=1),
        _column("Image Desired", ".status.prePull.desired", type="integer", priority=1),
        _column("Image Ready", ".status.prePull.ready", type="integer", priority=1),
        _column("Description", ".spec.description", priority=1),
    ]
    return _crd(
        VDITemplate, "Cluster", {"shortNames": ["vdit"], "categories": ["kasm"]}, columns, ()
    )


def pool_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of `VDIPool`, cluster-scoped, with the scale subresource."""
    columns = [
        _column("Template", ".spec.template"),
        _column("Desired", ".spec.replicas", type="integer"),
        _column("Ready", ".status.ready", type="integer"),
        _column("Starting", ".status.starting", type="integer"),
        _column("Claimed", ".status.claimed", type="integer"),
        _column("Age", ".metadata.creationTimestamp", type="date"),
        _column("Message", ".status.message", priority=1),
    ]
    names = {"shortNames": ["vdip"], "categories": ["kasm"]}
    crd = _crd(VDIPool, "Cluster", names, columns, (".spec.template",))
    crd["spec"]["versions"][0]["subresources"]["scale"] = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.ready",
        "labelSelectorPath": ".status.selector",
    }
    return crd


def build_crds() -> tuple[dict[str, Any], ...]:
    """Every CustomResourceDefinition of the project, ready to be sent to an API server."""
    return session_crd(), template_crd(), pool_crd()


def _column(name: str, path: str, *, type: str = "string", priority: int = 0) -> dict[str, Any]:
    return {"name": name, "type": type, "jsonPath": path} | (
        {"priority": priority} if priority else {}
    )


def _crd(
    kind: Kind,
    scope: str,
    names: dict[str, list[str]],
    columns: list[dict[str, Any]],
    selectable: tuple[str, ...],
) -> dict[str, Any]:
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _object_schema(kind)},
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
    }
    if selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in selectable]
    name = kind.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": GROUP,
            "names": (
                {
                    "kind": name,
                    "listKind": f"{name}List",
                    "plural": kind.plural,
                    "singular": name.lower(),
                }
                | names
            ),
            "scope": scope,
            "versions": [version],
        },
    }


def _object_schema(kind: Kind) -> Schema:
    """The whole object's schema; metadata is the API server's own, and status has only the defaults
    named above.
    """
    schema = struct_schema(kind, defaults=False)
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    properties["spec"] = struct_schema(kind.__annotations__["spec"], defaults=True)
    properties["status"] = status = schema["properties"]["status"]
    # The status has one writer, so one owner is enough. Otherwise the server tracks the owner of
    # each field of each condition (managedFields): a third of a session's size, and a sixth of the
    # time of a write.
    status["x-kubernetes-map-type"] = "atomic"
    for name, default in _SHOWN_BEFORE_THE_FIRST_WRITE.get(kind, {}).items():
        status["default"] = {}
        status["properties"][name]["default"] = default
    return schema | {"required": ["spec"], "properties": properties}


# An entry of a list or map, such as `[0]`, in the API server's path of a field.
_INDEX = re.compile(r"\[[^]]*\]")


def describe_allowed(field: Schema) -> str:
    """The values that a field's schema allows; empty when it allows every value of its type."""
    if "enum" in field:
        said = [", ".join(f"`{value}`" for value in field["enum"])]
    else:
        said = []
    rules = (
        *field.get("x-kubernetes-validations", ()),
        *field.get("items", {}).get("x-kubernetes-validations", ()),
    )
    said += [rule["message"].removeprefix("must be ") for rule in rules]
    if "minimum" in field:
        said.append(f"at least {field['minimum']}")
    units = (
        ("maximum", ""),
        ("maxLength", " characters"),
        ("maxItems", " entries"),
        ("maxProperties", " entries"),
    )
    if "x-kubernetes-int-or-string" not in field:
        said += [f"at most {field[keyword]}{unit}" for keyword, unit in units if keyword in field]
    if "pattern" in field and not rules:
        said.append(f"`{field['pattern']}`")
    return "; ".join(said)


def allowed_in_session(path: str) -> str:
    """The allowed values of a VDISession's field, by its path in the API server's words
    (`spec.access[0].user`).

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
