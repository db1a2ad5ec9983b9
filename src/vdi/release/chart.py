"""Where the chart is."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from vdi.release.errors import NoChartError

NAME = "vdi"
_PLACES = (Path(__file__).resolve().parents[1] / "files", Path(__file__).resolve().parents[3])
"""What a wheel carries, and a checkout: `charts/vdi` is in one of the two."""
_ALLOWED = "allowed: --chart DIR, the folder of the chart vdi"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart of ours, as a folder."""

    folder: Path
    version: str
    app_version: str

    @property
    def words(self) -> str:
        """`vdi-0.2.0`."""
        return f"{NAME}-{self.version}"


def find_chart(given: Path | None = None) -> Chart:
    """The folder that is named, else the one that came with the package or its checkout. Raises NoChartError."""
    folders = [given] if given else [place / "charts" / "vdi" for place in _PLACES]
    folder = next((folder for folder in folders if (folder / "Chart.yaml").is_file()), folders[0])
    file = folder / "Chart.yaml"
    if not file.is_file():
        if given is None:
            words = "this installation of vdi does not include it, like the one in its image"
            raise NoChartError(f"no chart: {words}; {_ALLOWED}")
        raise NoChartError(f"--chart {given}: there is no {file.name} in it; {_ALLOWED}")
    try:
        meta = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise NoChartError(f"{file} cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("name") != NAME:
        found = meta.get("name") if isinstance(meta, dict) else None
        raise NoChartError(f"{file}: name is {found!r}, not {NAME!r}; {_ALLOWED}")
    return Chart(folder.absolute(), str(meta.get("version", "")), str(meta.get("appVersion", "")))


def version_numbers(version: str) -> tuple[int, ...]:
    """`0.10.1-rc.1` -> (0, 10, 1), to compare."""
    core = version.partition("-")[0].partition("+")[0]
    return tuple(int(part) for part in core.split(".") if part.isdigit())
