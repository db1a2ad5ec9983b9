"""Pushes images and chart of a release to a registry, by the digests that are in the release's files.

crane pushes: it knows registries' ways to log in and reads the credentials of `docker login`.
"""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.release import oci


class PublishError(Exception):
    """Raised when a registry refuses something, or has something else under a digest."""


def layouts(folder: Path) -> dict[str, Path]:
    """NAME:TAG below the registry -> layout, of everything that is pushed."""
    images = {oci.name_of(path).rpartition("/")[2]: path for path in sorted(folder.glob("vdi-image-*.tar"))}
    charts = {f"charts/{oci.name_of(path).rpartition('/')[2]}": path for path in folder.glob("vdi-chart-*.tar")}
    return images | charts


def publish(folder: Path, registry: str, crane: Path, report: Callable[[str], None]) -> list[str]:
    """Push everything; gives the references by digest. What the registry has already is not sent again."""
    pushed = []
    for name, layout in layouts(folder).items():
        target = f"{registry}/{name}"
        report(f"pushing {target}")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            oci.unpack(layout, Path(scratch))
            _crane(crane, "push", scratch, target)
        digest = oci.digest_of(layout)
        found = _crane(crane, "digest", target)
        if found != digest:
            raise PublishError(f"{target}: the registry has {found}, the release {digest}")
        pushed.append(f"{target.rpartition(':')[0]}@{digest}")
    return pushed


def _crane(crane: Path, *words: str) -> str:
    done = subprocess.run([crane, *words], capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode != 0:
        raise PublishError(f"crane {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
