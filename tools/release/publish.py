"""Pushes images and chart of a release to a registry, by digest, with their signatures and attestations.

crane pushes: it knows registries' ways to log in and reads the credentials of `docker login`.
"""

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.release import oci


class PublishError(Exception):
    """Raised when a registry refuses something, or has something else under a digest."""


def publish(folder: Path, registry: str, crane: Path, report: Callable[[str], None]) -> list[str]:
    """Push everything; gives the references of images and chart by digest.

    What the registry has already is not sent again.
    """
    pushed = []
    for artifact in oci.artifacts(folder):
        target = f"{registry}/{artifact.target}"
        report(f"pushing {target}")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            oci.unpack(artifact.layout, Path(scratch))
            _push(crane, Path(scratch), artifact.digest, target)
        pushed.append(f"{target.rpartition(':')[0]}@{artifact.digest}")
    for layout in folder.glob("vdi-signatures-*.tar"):
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            oci.unpack(layout, Path(scratch))
            for descriptor in oci.descriptors(layout):
                target = f"{registry}/{oci.name_in(descriptor)}"
                report(f"pushing {target}")
                oci.choose(Path(scratch), descriptor)
                _push(crane, Path(scratch), str(descriptor["digest"]), target)
    return pushed


def _push(crane: Path, folder: Path, digest: str, target: str) -> None:
    """Push the one entry of an unpacked layout. Raises PublishError."""
    _crane(crane, "push", str(folder), target)
    found = _crane(crane, "digest", target)
    if found != digest:
        raise PublishError(f"{target}: the registry has {found}, the release {digest}")


def _crane(crane: Path, *words: str) -> str:
    done = subprocess.run([crane, *words], capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode != 0:
        raise PublishError(f"crane {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()
