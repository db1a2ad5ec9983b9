"""The CustomResourceDefinitions, generated from the structs.

The chart carries the written copy (`charts/vdi/files/crds`); a unit test holds the two equal.
"""

from typing import Any

from vdi.api.meta import GROUP, VERSION
from vdi.api.pool import VDIPool
from vdi.api.schema import Schema, struct_schema
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate

Kind = type[VDISession] | type[VDITemplate] | type[VDIPool]

_SHOWN_BEFORE_THE_FIRST_WRITE: dict[Kind, dict[str, Any]] = {
    VDISession: {"phase": "Pending"},
    VDIPool: {"ready": 0, "starting": 0, "claimed": 0},
}
"""What `kubectl get` shows of an object before the operator has written its status (or where it leaves a 0 out)."""


def session_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of `VDISession`."""
    columns = [
        _column("User", ".spec.user"),
        _column("Phase", ".status.phase"),
        _column("URL", ".status.url"),
        _column("Age", ".metadata.creationTimestamp", type="date"),
        _column("Template", ".spec.template", priority=1),
        _column("Message", ".status.message", priority=1),
    ]
    names = {"shortNames": ["vdi"], "categories": ["all", "kasm"]}
    return _crd(VDISession, "Namespaced", names, columns, (".spec.user", ".spec.template", ".status.phase"))


def template_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of `VDITemplate`."""
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
    return _crd(VDITemplate, "Cluster", {"shortNames": ["vdit"], "categories": ["kasm"]}, columns, ())


def pool_crd() -> dict[str, Any]:
    """The CustomResourceDefinition of `VDIPool`."""
    columns = [
        _column("Template", ".spec.template"),
        _column("Desired", ".spec.replicas", type="integer"),
        _column("Ready", ".status.ready", type="integer"),
        _column("Starting", ".status.starting", type="integer"),
        _column("Claimed", ".status.claimed", type="integer"),
        _column("Age", ".metadata.creationTimestamp", type="date"),
        _column("Message", ".status.message", priority=1),
    ]
    names = {"shortNames": ["vdipool"], "categories": ["kasm"]}
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
    return {"name": name, "type": type, "jsonPath": path} | ({"priority": priority} if priority else {})


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
        "metadata": {"name": f"{kind.plural}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "names": {"kind": name, "listKind": f"{name}List", "plural": kind.plural, "singular": name.lower()} | names,
            "scope": scope,
            "versions": [version],
        },
    }


def _object_schema(kind: Kind) -> Schema:
    """The whole object's schema; metadata is the API server's own, and status has only the defaults named above."""
    schema = struct_schema(kind, defaults=False)
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    properties["spec"] = struct_schema(_spec_of(kind), defaults=True)
    properties["status"] = status = schema["properties"]["status"]
    # One writer, so one owner of all of it: the server keeps no book of each field of each condition, which was a third
    # of a session's size, and spends a sixth less on a write.
    status["x-kubernetes-map-type"] = "atomic"
    for name, default in _SHOWN_BEFORE_THE_FIRST_WRITE.get(kind, {}).items():
        status["default"] = {}
        status["properties"][name]["default"] = default
    return schema | {"required": ["spec"], "properties": properties}


def _spec_of(kind: Kind) -> Any:
    return kind.__annotations__["spec"]
