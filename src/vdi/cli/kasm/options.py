"""Options that several commands of `vdi kasm` share, and how they read files."""

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from vdi.cli.errors import COULD_NOT_LOOK, USAGE, CliError
from vdi.kasm.generations import ALL, by_letter, parse_version
from vdi.kasm.generations.model import Generation, Version
from vdi.kasm.values.render import merged

NEWEST = ALL[-1].letter
CHARTS = ", ".join(f"{generation.letter} ({generation.chart})" for generation in ALL)
GenerationOption = Annotated[str, typer.Option("--generation", "-g", help=f"Generation of the chart: {CHARTS}.")]
VersionOption = Annotated[
    str | None,
    typer.Option("--chart-version", metavar="VERSION", help="Version of the chart.", show_default="newest known"),
]
ReleaseOption = Annotated[str, typer.Option("--release", metavar="NAME", help="Name of the Helm release.")]
KasmNamespace = Annotated[
    str, typer.Option("--namespace", "-n", envvar="VDI_KASM_NAMESPACE", help="Namespace of Kasm Workspaces.")
]
KasmValues = Annotated[
    list[Path] | None,
    typer.Option("--values", "-f", metavar="FILE", help="Your values; the last file takes precedence. - is stdin."),
]
Hostname = Annotated[
    str | None, typer.Option(help="Host name for browsers.", show_default="the host name that is configured")
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


def read_values(files: list[Path] | None) -> dict[str, Any]:
    """All files together, as helm merges them."""
    return merged(*(_read(file) for file in files or ()))


def _read(file: Path) -> dict[str, Any]:
    """One YAML document that is a mapping; an empty file is an empty one. `-` is stdin."""
    try:
        text = typer.get_text_stream("stdin").read() if str(file) == "-" else file.read_text()
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{file}: {error}", COULD_NOT_LOOK) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise CliError(f"{file} is not a single YAML document{where}", USAGE) from error
    if found is None:
        return {}
    if not isinstance(found, dict) or any(not isinstance(key, str) for key in found):
        raise CliError(f"{file} has no values: allowed: a mapping, key by key", USAGE)
    return found
