"""The reference tables of `docs/api.md`, made from the CRDs."""

from collections.abc import Iterator
from itertools import groupby
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
# Rules that many fields share, by the first words of the rule: the tables have the name alone.
_FORMATS = {
    "the name of an object": "object name",
    "an e-mail address": "e-mail address",
    "must have only printable characters: no new line": "line",
    "must have only printable characters, new lines": "text",
    "an amount of at least 64Mi": "memory",
    "an amount": "amount",
    "a number of CPUs": "CPUs",
    "a duration": "duration",
    "a time zone": "time zone",
    "a time of day": "time of day",
    "five fields as in cron": "cron",
    "an absolute path": "path",
    "the name of a container image": "image",
}
# Said by the format of an e-mail address, or by the field's description.
_IMPLIED = ("must have only visible characters", "can't be changed", "create a new session")


def render() -> str:
    """The tables of all kinds as Markdown."""
    used: dict[str, str] = {}
    kinds = [_kind(crd, used) for crd in build_crds()]
    return "\n".join([*_formats(used), *kinds, *_reasons()])


def _formats(used: dict[str, str]) -> Iterator[str]:
    yield from ("### Formats", "", "| format | allowed |", "|---|---|")
    yield from (f"| {name} | {_cell(rule)} |" for name, rule in used.items())
    yield from ("", "A default is in parentheses. A required field is **bold**.", "")


def _reasons() -> Iterator[str]:
    yield "### Reasons of a VDISession's conditions"
    yield ""
    yield "A waiting container may also have a reason of the kubelet's own (PodReady)."
    of_sessions = [(reason.condition, reason.value, reason.meaning) for reason in Reason]
    of_pods = [
        (_CONDITIONS_OF_POD_REASONS.get(reason, "PodReady"), reason.value, reason.meaning)
        for reason in PodReason
    ]
    order = (*CONDITION_TYPES, *WARNING_TYPES)
    rows = sorted(
        of_sessions + of_pods,
        key=lambda row: (order.index(row[0].replace(":", ",").split(",")[0]), row[0]),
    )
    for condition, group in groupby(rows, key=lambda row: row[0]):
        yield from ("", f"| {condition} | |", "|---|---|")
        yield from (f"| `{code}` | {meaning} |" for _, code, meaning in group)


def _kind(crd: dict[str, Any], used: dict[str, str]) -> str:
    names, version = crd["spec"]["names"], crd["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    scope = "in a namespace" if crd["spec"]["scope"] == "Namespaced" else "for the whole cluster"
    lines = [
        f"### {names['kind']}",
        "",
        f"{schema['description']} Lives {scope}; short name `{names['shortNames'][0]}`.",
        "",
    ]
    if fields := [
        f"`{selectable_field['jsonPath'][1:]}`"
        for selectable_field in version.get("selectableFields", ())
    ]:
        lines += [
            f"Selectable with `--field-selector` (Kubernetes 1.31 and later): {', '.join(fields)}.",
            "",
        ]
    for part in ("spec", "status"):
        lines += [f"| `{part}` | allowed | meaning |", "|---|---|---|"]
        lines += [
            _row(*field, used, limits=part == "spec")
            for field in _fields(schema["properties"][part])
        ]
        lines.append("")
    return "\n".join(lines)


def _fields(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema, bool]]:
    """Each field below a schema, depth first: its path, its schema and whether it is required."""
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        yield f"{path}{name}", field, name in required
        if "properties" in field:
            yield from _fields(field, f"{path}{name}.")
        # Conditions are Kubernetes' own.
        if "properties" in field.get("items", ()) and name != "conditions":
            yield from _fields(field["items"], f"{path}{name}[].")


def _row(path: str, field: Schema, required: bool, used: dict[str, str], *, limits: bool) -> str:
    default = field.get("default", {})
    allowed = _allowed(field, used, limits=limits)
    if default != {}:
        allowed += f" (`{str(default).lower() if isinstance(default, bool) else _plain(default)}`)"
    name = f"**`{path}`**" if required and limits else f"`{path}`"
    return f"| {name} | {_cell(allowed)} | {_cell(field.get('description', ''))} |"


def _plain(default: object) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _allowed(field: Schema, used: dict[str, str], *, limits: bool) -> str:
    """Type or format, then what else the schema demands of those who write the field."""
    rules = [
        rule
        for rule in describe_allowed(field).split("; ")
        if rule and not rule.startswith(_IMPLIED)
    ]
    kind = _type_name(field)
    for start, name in _FORMATS.items():
        if allowed := next((rule for rule in rules if rule.startswith(start)), ""):
            used.setdefault(name, allowed)
            rules.remove(allowed)
            if name not in ("line", "text"):
                rules = [rule for rule in rules if not rule.endswith(" characters")]
            kind = kind.replace("string", name).replace("quantity", name)
    if "enum" in field:
        kind = ""
    if kind == "date-time" or not limits:
        rules = rules[:1] if "enum" in field else []
    if {"minimum", "maximum"} <= field.keys():
        rules = [rule for rule in rules if not rule.startswith(("at least ", "at most "))]
        kind += f" from {field['minimum']} to {field['maximum']}"
    return "; ".join(part for part in (kind, *rules) if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type_name(field: Schema) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "quantity"
    if field["type"] == "array":
        return f"list of {_type_name(field['items'])}"
    if "additionalProperties" in field:
        return f"map to {_type_name(field['additionalProperties'])}"
    return (
        str(field.get("format", field["type"])) if field["type"] == "string" else str(field["type"])
    )
