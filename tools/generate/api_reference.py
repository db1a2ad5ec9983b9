"""The reference tables of `docs/api.md`, made from the CRDs."""

from collections.abc import Iterator
from typing import Any

from vdi.api.crd import Schema, build_crds, describe_allowed
from vdi.cluster.reasons import PodReason
from vdi.session.conditions import CONDITION_TYPES, WARNING_TYPES, Reason

# PodReady has each reason of a pod; other conditions have some of them too.
_CONDITIONS_OF_POD_REASONS = {
    PodReason.HOME_PENDING: "HomeBound, PodReady",
    PodReason.HOME_LOST: "HomeBound, PodReady",
    PodReason.HOME_LEAVING: "HomeBound, PodReady",
    PodReason.STARTING: "PodReady, Ready",
}


def render() -> str:
    """The tables of all kinds as Markdown."""
    return "\n".join([*(_kind(crd) for crd in build_crds()), *_reasons()])


def _reasons() -> Iterator[str]:
    yield "### Reasons of a VDISession's conditions"
    yield ""
    yield "A waiting container may also have a reason of the kubelet's own (PodReady)."
    yield ""
    yield "| reason | condition | meaning |"
    yield "|---|---|---|"
    of_sessions = [(reason.condition, reason.value, reason.meaning) for reason in Reason]
    of_pods = [
        (_CONDITIONS_OF_POD_REASONS.get(reason, "PodReady"), reason.value, reason.meaning) for reason in PodReason
    ]
    order = (*CONDITION_TYPES, *WARNING_TYPES)
    for condition, code, meaning in sorted(
        of_sessions + of_pods, key=lambda row: order.index(row[0].replace(":", ",").split(",")[0])
    ):
        yield f"| `{code}` | {condition} | {meaning} |"


def _kind(crd: dict[str, Any]) -> str:
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    scope = "in a namespace" if crd["spec"]["scope"] == "Namespaced" else "for the whole cluster"
    lines = [
        f"### {names['kind']}",
        "",
        f"{schema['description']} Lives {scope}; short name `{names['shortNames'][0]}`.",
        "",
    ]
    if fields := [f"`{selectable_field['jsonPath'][1:]}`" for selectable_field in version.get("selectableFields", ())]:
        lines += [f"Selectable with `--field-selector` (Kubernetes 1.31 and later): {', '.join(fields)}.", ""]
    for part in ("spec", "status"):
        if part not in schema["properties"]:
            continue
        lines += [f"| `{part}` | type | default | allowed | meaning |", "|---|---|---|---|---|"]
        lines += [_row(*field) for field in _fields(schema["properties"][part])]
        lines.append("")
    return "\n".join(lines)


def _fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Each field below a schema, depth first: its path, its schema and whether it is required."""
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        yield f"{path}{name}", field, name in required
        if "properties" in field:
            yield from _fields(field, f"{path}{name}.")
        if "properties" in field.get("items", ()):
            yield from _fields(field["items"], f"{path}{name}[].")


def _row(path: str, field: Schema, required: bool) -> str:
    default = field.get("default", {})
    cells = (
        f"`{path}`" + (" **required**" if required else ""),
        _type_name(field),
        "" if default == {} else f"`{str(default).lower() if isinstance(default, bool) else default}`",
        describe_allowed(field),
        field.get("description", ""),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type_name(field: Schema) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "quantity"
    if field["type"] == "array":
        return f"list of {_type_name(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type_name(field['additionalProperties'])}"
    return str(field.get("format", field["type"])) if field["type"] == "string" else str(field["type"])
