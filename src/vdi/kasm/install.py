"""Arguments of `helm upgrade --install` for Kasm's charts, and the next steps after a failure."""

import shlex
from pathlib import Path

import yaml

from vdi.helm.arguments import Change
from vdi.kasm.generations.model import Generation, Version, words_of


def after_failure(change: Change, *, was_there: bool) -> str:
    """Next steps after a failure. Nothing was undone: the remaining pods show why, and an uninstall
    may lose data.
    """
    undo, place = f"helm {'rollback' if was_there else 'uninstall'} {change.release}", change.place
    return (
        f"Why: vdi kasm diagnose {place.options}\nUndo: {undo} {place.helm_options}  (look at the"
        f" database's volume first: kubectl {place.options} get pvc)"
    )


def source_of(
    generation: Generation, version: Version | None, given: str
) -> tuple[str, tuple[str, ...]]:
    """Helm's arguments for the chart: the named one, else the generation's own. Raises
    ValueError.
    """
    if given:
        return given, (
            ()
            if version is None or Path(given).exists()
            else (
                "--version",
                words_of(version),
            )
        )
    if not generation.source:
        raise ValueError(
            f"generation {generation.letter} has no chart to download: check out the branch of its"
            " Kasm version from https://github.com/kasmtech/kasm-helm and name its folder: --chart"
            f" kasm-helm/{generation.chart}"
        )
    source, *more = shlex.split(generation.source)
    return source, (*more, "--version", words_of(version or generation.newest))


def version_in_folder(chart: str) -> str:
    """The version of a chart that is a folder; empty for anything else. Raises ValueError."""
    file = Path(chart, "Chart.yaml")
    if not chart or not file.is_file():
        return ""
    try:
        return str(yaml.safe_load(file.read_text())["version"])
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file} has no version: {error}") from error
