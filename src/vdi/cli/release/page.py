"""How differences and revisions of the release are shown: lines for people, data for programs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from vdi.cli.output import age, columns, now_utc
from vdi.helm.releases import Revision
from vdi.release.diff import Change

_COLOURS = {"+": typer.colors.GREEN, "-": typer.colors.RED, "~": typer.colors.YELLOW}
_FIELDS = 25
"""Of one object; a new schema has hundreds, and `-o json` has them all."""


def summary_line(changes: Sequence[Change]) -> str:
    """`12 new, 3 changed, 1 removed`."""
    counted = Counter(one.action for one in changes)
    words = {"+": "new", "~": "changed", "-": "removed", "=": "left on the cluster"}
    return ", ".join(f"{counted[sign]} {word}" for sign, word in words.items() if counted[sign]) or "nothing changes"


def new_lines(changes: Sequence[Change]) -> Iterator[str]:
    """What a first install makes, by kind."""
    kinds: dict[str, list[str]] = {}
    for one in changes:
        kinds.setdefault(one.kind, []).append(one.title.partition(" ")[2])
    for kind, names in sorted(kinds.items()):
        yield typer.style(f"+ {kind}", fg=typer.colors.GREEN) + f": {', '.join(names)}"


def change_lines(changes: Sequence[Change]) -> Iterator[str]:
    """Object by object, field by field."""
    for one in changes:
        yield typer.style(f"{one.action} {one.title}", fg=_COLOURS.get(one.action), bold=True) + _AFTER.get(
            one.action, ""
        )
        lines = [line for field in one.fields for line in field.lines]
        for line in lines[:_FIELDS]:
            yield "    " + typer.style(line, fg=_COLOURS.get(line.strip()[:1]))
        if len(lines) > _FIELDS:
            yield f"    ... and {len(lines) - _FIELDS} lines more (-o json has every field)"


_AFTER = {"=": "  (leaves the release, stays on the cluster)"}


def change_data(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """For programs."""
    return [
        {
            "action": {"+": "create", "~": "change", "-": "delete", "=": "keep"}[one.action],
            "kind": one.kind,
            "namespace": one.namespace,
            "name": one.name,
            "fields": [{"path": each.path, "before": each.before, "after": each.after} for each in one.fields],
        }
        for one in changes
    ]


def revision_data(one: Revision | None) -> dict[str, Any] | None:
    """For programs."""
    if one is None:
        return None
    return {
        "release": one.name,
        "namespace": one.namespace,
        "revision": one.version,
        "status": one.status,
        "chart": one.chart_words,
        "appVersion": one.chart.metadata.app_version,
        "updated": one.info.last_deployed,
        "description": one.info.description,
    }


def revision_lines(revisions: Sequence[Revision]) -> list[str]:
    """A table, the newest first."""
    rows = [
        [str(one.version), one.status, one.chart_words, _age(one.info.last_deployed), one.summary] for one in revisions
    ]
    return columns(["REVISION", "STATUS", "CHART", "AGE", "DESCRIPTION"], rows)


def _age(timestamp: str) -> str:
    """Helm's times have nanoseconds, of which Python takes six digits."""
    import re

    return age(re.sub(r"(\.\d{6})\d+", r"\1", timestamp), now_utc()) if timestamp else "-"
