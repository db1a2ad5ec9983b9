"""How every command that runs checks prints its findings: one option, one page, one set of exit codes."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from vdi.cli.terminal import style
from vdi.findings.render import Report, as_data, as_junit, as_text


class FindingsOutput(StrEnum):
    """How findings are printed."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"

    @classmethod
    def _missing_(cls, value: object) -> "FindingsOutput | None":
        return cls.TEXT if value == "table" else None  # what `-o text` was called by some commands


def _parse_output(text: str | FindingsOutput) -> FindingsOutput:
    try:
        return FindingsOutput(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}; allowed: {', '.join(FindingsOutput)}") from None


FindingsOption = Annotated[
    FindingsOutput,
    typer.Option("--output", "-o", parser=_parse_output, metavar="|".join(FindingsOutput), help="What to print."),
]

_COLOURS = {"ERROR": typer.colors.RED, "WARNING": typer.colors.YELLOW, "UNKNOWN": typer.colors.MAGENTA}


def print_report(report: Report, output: FindingsOutput) -> None:
    """All findings of a run."""

    match output:
        case FindingsOutput.JSON:
            typer.echo(json.dumps(as_data(report), indent=2, ensure_ascii=False))
        case FindingsOutput.JUNIT:
            typer.echo(as_junit(report))
        case FindingsOutput.TEXT:
            for line in as_text(report):
                typer.echo(paint(line))


def paint(line: str) -> str:
    """A line of findings, coloured where one begins."""
    colour = _COLOURS.get(line.split(" ", 1)[0])
    return style(line, fg=colour, bold=True) if colour else line
