"""`helm upgrade --install` with one of Kasm's charts. What stands in its way is found before, by the preflight."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from vdi.helm import arguments
from vdi.helm.arguments import Change, Values
from vdi.helm.binary import Helm
from vdi.helm.place import Place
from vdi.kasm.generations.model import Generation, Version, words_of


class NoChartError(ValueError):
    """Raised where there is no chart to give to helm; the message says what to name."""


@dataclass(frozen=True, slots=True)
class HelmInstall:
    """What helm is run with."""

    release: str
    place: Place
    source: str
    more: tuple[str, ...]
    """Further arguments of helm: --version, --repo."""
    values: tuple[Path, ...]
    seconds: float

    def arguments(self, helm: Helm) -> list[str]:
        """Of helm. A failure is not undone: the pods that are left say why, and an uninstallation may delete data."""
        change = Change(self.release, self.source, self.place, Values(files=self.values), self.more)
        return arguments.upgrade(helm, change, seconds=self.seconds, undo_on_failure=False)

    def after_failure(self, *, was_there: bool) -> str:
        """How to go on."""
        undo = f"helm rollback {self.release}" if was_there else f"helm uninstall {self.release}"
        return (
            f"Why: vdi kasm diagnose {self.place.options}\n"
            f"Undo: {undo} {shlex.join(self.place.arguments)}  (look at the database's volume first: kubectl "
            f"{self.place.options} get pvc)"
        )


def source_of(generation: Generation, version: Version | None, given: str) -> tuple[str, tuple[str, ...]]:
    """What helm is given for a chart: the one that is named, else the generation's own. Raises NoChartError."""
    if given:
        return given, () if version is None or Path(given).exists() else ("--version", words_of(version))
    if not generation.source:
        raise NoChartError(
            f"generation {generation.letter} has no chart to download: check out the branch of its Kasm version from"
            f" https://github.com/kasmtech/kasm-helm and name its folder: --chart kasm-helm/{generation.chart}"
        )
    source, *more = shlex.split(generation.source)
    return source, (*more, "--version", words_of(version or generation.newest))
