"""Findings on the terminal: one option and one page for every command that runs checks."""

import json
from enum import StrEnum
from typing import Annotated

import typer

from vdi.cli.terminal import style
from vdi.findings.render import Report, as_data, as_junit, as_text

_COLOURS = {
    "ERROR": typer.colors.RED,
    "WARNING": typer.colors.YELLOW,
    "UNKNOWN": typer.colors.MAGENTA,
}


class FindingsOutput(StrEnum):
    """`-o` of commands that run checks."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


FindingsOption = Annotated[FindingsOutput, typer.Option("--output", "-o", help="What to print.")]


def print_report(report: Report, output: FindingsOutput) -> None:
    """Print all findings of a run."""
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
    if colour:
        return style(line, fg=colour, bold=True)
    return line
