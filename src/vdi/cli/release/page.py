"""How differences and revisions of the release are shown: lines for people, data for programs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from vdi.cli.terminal import style
from vdi.helm.releases import Revision
from vdi.release.diff import Change
from vdi.release.plan import Plan

_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW}
_FIELDS = 25
"""Of one object; a new schema has hundreds, and `-o json` has them all."""


def summary_line(changes: Sequence[Change]) -> str:
    """`12 new, 3 changed, 1 removed`."""
    counted = Counter(change.action for change in changes)
    words = {"+": "new", "~": "changed", "-": "removed", "=": "remains on the cluster"}
    shown = ", ".join(f"{counted[sign]} {word}" for sign, word in words.items() if counted[sign])
    return shown or "chart and values are the same"


def plan_lines(plan: Plan) -> list[str]:
    """What an install brings about."""
    facts = {
        "Release": f"{plan.release} in namespace {plan.namespace} at {plan.server}",
        "Portal": plan.portal,
        "Desktops": f"{plan.desktops}, in namespace {', '.join(plan.sessions_namespaces)}",
        "Certificate": plan.certificate,
        "Administrators": ", ".join(plan.admins) or ("none" if plan.portal else ""),
        "New namespaces": ", ".join(plan.new_namespaces),
        "Images": f"\n{'':16}".join(plan.images),
    }
    return [f"{name:<16}{text}" for name, text in facts.items() if text]


def plan_data(plan: Plan) -> dict[str, Any]:
    """For programs."""
    return {
        "release": plan.release,
        "namespace": plan.namespace,
        "newNamespaces": plan.new_namespaces,
        "sessionsNamespace": plan.sessions_namespaces[0],
        "sessionsNamespaces": plan.sessions_namespaces,
        "portal": plan.portal,
        "certificate": plan.certificate,
        "administrators": plan.admins,
        "images": plan.images,
    }


def new_lines(changes: Sequence[Change]) -> Iterator[str]:
    """What a first install makes, by kind."""
    kinds: dict[str, list[str]] = {}
    for change in changes:
        kinds.setdefault(change.kind, []).append(change.title.partition(" ")[2])
    for kind, names in sorted(kinds.items()):
        yield style(f"+ {kind}", fg=typer.colors.GREEN) + f": {', '.join(names)}"


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """Object by object, field by field."""
    for change in changes:
        yield style(f"{change.action} {change.title}", fg=_COLOURS.get(change.action), bold=True) + _AFTER.get(
            change.action, ""
        )
        lines = [line for field in change.fields for line in field.lines]
        for line in lines[:_FIELDS]:
            yield "    " + style(line, fg=_COLOURS.get(line.strip()[:1]))
        if len(lines) > _FIELDS:
            yield f"    ... and {len(lines) - _FIELDS} lines more (-o json has every field)"


_AFTER = {"=": "  (leaves the release, remains on the cluster)"}


def change_data(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "action": {"+": "create", "~": "change", "-": "delete", "=": "keep"}[change.action],
            "kind": change.kind,
            "namespace": change.namespace,
            "name": change.name,
            "fields": [{"path": field.path, "before": field.before, "after": field.after} for field in change.fields],
        }
        for change in changes
    ]


def revision_data(revision: Revision | None) -> dict[str, Any] | None:
    """For programs."""
    if revision is None:
        return None
    return {
        "release": revision.name,
        "namespace": revision.namespace,
        "revision": revision.version,
        "status": revision.status,
        "chart": revision.chart_words,
        "appVersion": revision.chart.metadata.app_version,
        "updated": revision.info.last_deployed,
        "description": revision.info.description,
    }
