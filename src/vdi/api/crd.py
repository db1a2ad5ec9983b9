"""The CustomResourceDefinitions, generated from the structs: `python -m vdi.api.crd DIRECTORY` writes one file a kind.

The chart carries the written copy (`charts/vdi/files/crds`); a unit test holds the two equal.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

from vdi.api.meta import GROUP, VERSION
from vdi.api.schema import Schema, struct_schema
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate

_HEADER = "# Generated from src/vdi/api by `python -m vdi.api.crd`. Edit there.\n"


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
        _column("Description", ".spec.description", priority=1),
    ]
    return _crd(VDITemplate, "Cluster", {"shortNames": ["vdit"], "categories": ["kasm"]}, columns, ())


def build_crds() -> tuple[dict[str, Any], ...]:
    """Every CustomResourceDefinition of the project, ready to be sent to an API server."""
    return session_crd(), template_crd()


def render_files() -> dict[str, str]:
    """File name to content, for each kind."""
    return {f"{crd['spec']['names']['plural']}.yaml": _HEADER + _yaml(crd) for crd in build_crds()}


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, width=140, allow_unicode=True)


def _column(name: str, path: str, *, type: str = "string", priority: int = 0) -> dict[str, Any]:
    return {"name": name, "type": type, "jsonPath": path} | ({"priority": priority} if priority else {})


def _crd(
    kind: type[VDISession] | type[VDITemplate],
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
        "additionalPrinterColumns": columns,
    }
    if "status" in kind.__struct_fields__:
        version["subresources"] = {"status": {}}
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


def _object_schema(kind: type[VDISession] | type[VDITemplate]) -> Schema:
    """The whole object's schema; metadata is the API server's own, and status has no defaults."""
    schema = struct_schema(kind, defaults=False)
    properties = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
    properties["spec"] = struct_schema(_spec_of(kind), defaults=True)
    if "status" in schema["properties"]:
        properties["status"] = schema["properties"]["status"]
    return schema | {"required": ["spec"], "properties": properties}


def _spec_of(kind: type[VDISession] | type[VDITemplate]) -> Any:
    return kind.__annotations__["spec"]


def main(arguments: list[str]) -> int:
    """Write the files into the directory that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m vdi.api.crd DIRECTORY   (the chart's: charts/vdi/files/crds)\n")
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in render_files().items():
        (directory / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
