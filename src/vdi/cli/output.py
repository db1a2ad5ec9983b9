"""Data for people and scripts: tables, JSON, YAML, ages. Called by every command that prints
data.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from vdi.api.meta import Condition
from vdi.cli.terminal import style
from vdi.printable import escape, is_printable

# An object as the API server sent it.
Raw = Mapping[str, Any]

PHASE_COLOURS = {
    "Pending": typer.colors.YELLOW,
    "Creating": typer.colors.YELLOW,
    "Running": typer.colors.GREEN,
    "Suspended": typer.colors.BLUE,
    "Terminating": typer.colors.MAGENTA,
    "Failed": typer.colors.RED,
}
_GAP = "   "


class ListOutput(StrEnum):
    """`-o` of commands that list objects."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Output(StrEnum):
    """`-o` of commands that print one thing."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Output format.")]
ListOutputOption = Annotated[ListOutput, typer.Option("--output", "-o", help="Output format.")]


def duration(seconds: float) -> str:
    """A span in at most two units: `45s`, `3m12s`, `8h`, `2d4h`. A negative span is `0s`."""
    rest = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (parts and len(parts) < 2):
            parts.append((count, unit))
        if len(parts) == 2:
            break
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def parse_time(timestamp: str) -> datetime | None:
    """An RFC 3339 time of the API; None for an empty one. Raises ValueError for anything else."""
    if timestamp:
        return datetime.fromisoformat(timestamp)
    return None


def age(timestamp: str, now: datetime) -> str:
    """The time since then, such as `3m12s`; `-` for no time."""
    then = parse_time(timestamp)
    if then:
        return duration((now - then).total_seconds())
    return "-"


def now_utc() -> datetime:
    """The current time; the one clock of the commands' output."""
    return datetime.now(UTC)


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Aligned lines, header first, nothing cut off; a column named PHASE is coloured by its value.

    Each row is one line: new lines in a cell, which could pretend to be rows, are escaped too.
    """
    table = [header, *([escape(cell.rstrip()) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for number, row in enumerate(table):
        cells = [
            _paint(header[i], cell, cell.ljust(widths[i]), number == 0)
            for i, cell in enumerate(row)
        ]
        lines.append(_GAP.join(cells).rstrip())
    return lines


def _paint(column: str, cell: str, padded: str, is_header: bool) -> str:
    if column != "PHASE" or is_header or cell not in PHASE_COLOURS:
        return padded
    return style(padded, fg=PHASE_COLOURS[cell])


def fact_lines(facts: Mapping[str, str]) -> list[str]:
    """One line for each fact that has a value. Further lines of a value are indented: none can
    pretend to be a fact.
    """
    width = 11
    return [
        f"{name + ':':<{width}}" + f"\n{'':{width}}".join(escape(value.rstrip(), "\n").split("\n"))
        for name, value in facts.items()
        if value
    ]


def condition_lines(conditions: Sequence[Condition], now: datetime) -> list[str]:
    """The conditions of an object as a part of its page."""
    rows = [
        [
            condition.type,
            condition.status,
            condition.reason,
            age(condition.last_transition_time, now),
            condition.message or "-",
        ]
        for condition in conditions
    ]
    table = columns(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows)
    return ["", "Conditions", *(f"  {line}" for line in table)]


def without_managed_fields(obj: Raw) -> Raw:
    """The object without the bookkeeping of server-side apply, which no one reads."""
    metadata = {
        key: value for key, value in obj.get("metadata", {}).items() if key != "managedFields"
    }
    if "metadata" in obj:
        return {**obj, "metadata": metadata}
    return obj


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def print_data(data: Any, output: str) -> None:
    """Print as JSON or YAML; keys keep their order."""
    if output == Output.YAML:
        import yaml

        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        # The stream's escapes would be part of a value in YAML without quotes; with YAML's own it
        # is read as it was.
        if not is_printable(text, "\n"):
            text = yaml.safe_dump(data, sort_keys=False, allow_unicode=False)
        typer.echo(text, nl=False)
    else:
        typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_object(data: Any, output: str, lines: Callable[[], Iterable[str]]) -> None:
    """Print one object as JSON or YAML, or its page for people."""
    if output in (ListOutput.TABLE, ListOutput.WIDE):
        print_lines(lines())
    else:
        print_data(data, output)


def print_objects(
    items: Sequence[Raw],
    output: ListOutput,
    *,
    name: Callable[[Raw], str],
    table: Callable[[Sequence[Raw], bool], list[str]],
    empty: str = "",
) -> None:
    """Print a list of objects in the requested form.

    `table` gets the objects and whether the wide form is requested; `empty` is printed instead of
    an empty table.
    """
    match output:
        case ListOutput.JSON | ListOutput.YAML:
            # The `List` that kubectl prints too.
            shown = [without_managed_fields(item) for item in items]
            print_data({"apiVersion": "v1", "kind": "List", "items": shown}, output)
        case ListOutput.NAME:
            print_lines(map(name, items))
        case ListOutput.TABLE | ListOutput.WIDE if empty and not items:
            typer.echo(empty, err=True)
        case ListOutput.TABLE | ListOutput.WIDE:
            print_lines(table(items, output is ListOutput.WIDE))
