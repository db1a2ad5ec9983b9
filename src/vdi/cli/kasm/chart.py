"""Which chart of Kasm's is meant, and where it is: the options of several commands, and what is typed there."""

from typing import Annotated

import typer

from vdi.cli.errors import USAGE, CliError
from vdi.kasm.generations import ALL, Generation, Version, by_letter, parse_version

NEWEST = ALL[-1].letter
CHARTS = ", ".join(f"{generation.letter} ({generation.chart})" for generation in ALL)
GenerationOption = Annotated[str, typer.Option("--generation", "-g", help=f"Generation of the chart: {CHARTS}.")]
VersionOption = Annotated[
    str | None,
    typer.Option("--chart-version", metavar="VERSION", help=("Version of the chart."), show_default="newest known"),
]
KasmNamespace = Annotated[
    str, typer.Option("--namespace", "-n", envvar="VDI_KASM_NAMESPACE", help="Namespace of Kasm Workspaces.")
]


def generation_of(letter: str) -> Generation:
    """The generation that was typed, by letter or by its chart's name."""
    try:
        return by_letter(letter)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error


def version_of(text: str | None) -> Version | None:
    """The version that was typed; None for none."""
    try:
        return parse_version(text) if text else None
    except ValueError as error:
        raise CliError(f"--chart-version: {error}", USAGE) from error
