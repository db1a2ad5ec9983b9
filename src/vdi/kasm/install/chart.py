"""The chart that helm would install: what it is, and what values it has. Read with `helm show`."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vdi.findings.model import Finding
from vdi.helm.binary import Helm
from vdi.helm.run import run_helm
from vdi.kasm.errors import KasmRefusedError
from vdi.kasm.generations import ALL, Generation, Version, of_chart, parse_version
from vdi.kasm.values.rules import Code


@dataclass(frozen=True, slots=True)
class KasmChart:
    """One version of one generation's chart, as helm finds it."""

    source: str
    """A folder, an archive, an OCI address, or a name in a repository."""
    more: tuple[str, ...]
    """Further arguments of helm: --version, --repo."""
    generation: Generation
    version: Version
    app_version: str
    defaults: Mapping[str, Any]

    @property
    def words(self) -> str:
        """`kasm-helm 1.1190.6 (Kasm 1.19.0)`."""
        return f"{self.generation.chart} {'.'.join(map(str, self.version))} (Kasm {self.app_version})"


def source_of(generation: Generation, version: Version | None, given: str) -> tuple[str, tuple[str, ...]]:
    """What helm is given for a chart: the one that is named, else the generation's own. Raises KasmRefusedError."""
    if given:
        is_local = Path(given).exists()
        return given, () if version is None or is_local else ("--version", _text(version))
    if not generation.is_published:
        raise KasmRefusedError(
            f"generation {generation.letter} has no chart to download: check out the branch of its Kasm version from"
            " https://github.com/kasmtech/kasm-helm and name its folder: --chart kasm-helm/kasm-single-zone"
        )
    source, *more = shlex.split(generation.source)
    return source, (*more, "--version", _text(version or generation.newest))


async def read_chart(helm: Helm, source: str, more: tuple[str, ...]) -> KasmChart:
    """Raises KasmRefusedError for a chart that is not one of Kasm's, and HelmFailed."""
    shown = await run_helm(helm, ["show", "chart", source, *more])
    meta = yaml.safe_load(shown.stdout) or {}
    name, version = str(meta.get("name", "")), str(meta.get("version", ""))
    generation = of_chart(name, version)
    if generation is None or name != generation.chart:
        allowed = ", ".join(f"{each.chart} from {_text(each.oldest)} on" for each in ALL)
        raise KasmRefusedError(
            f"chart {source} is {name!r} {version}, which is not one of Kasm's charts; allowed: {allowed}"
        )
    if helm.version[: len(generation.minimum_helm)] < generation.minimum_helm:
        least = _text(generation.minimum_helm)
        raise KasmRefusedError(f"chart {name} needs Helm {least} or newer; installed is {helm.words}")
    values = await run_helm(helm, ["show", "values", source, *more])
    return KasmChart(
        source, more, generation, parse_version(version), str(meta.get("appVersion", "")), _mapping(values.stdout)
    )


def without_own_keys(findings: Iterable[Finding], defaults: Mapping[str, Any]) -> list[Finding]:
    """Findings without those about keys that this chart has after all: it may be newer than what is known here."""
    return [
        finding for finding in findings if not (finding.code == Code.UNKNOWN_KEY and _has(defaults, finding.object))
    ]


def _has(values: Mapping[str, Any], path: str) -> bool:
    node: Any = values
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return isinstance(node, Mapping) and not node and path != key  # a free-form block
        node = node[key]
    return True


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: key by key, the last wins, lists as a whole."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            before = result.get(key)
            both = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _mapping(text: str) -> dict[str, Any]:
    found = yaml.safe_load(text)
    return found if isinstance(found, dict) else {}


def _text(version: Version) -> str:
    return ".".join(map(str, version))
