"""Which helm is used, and its version."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vdi.helm.errors import HelmUnavailable

OLDEST = (3, 14, 0)
"""The first whose `template --dry-run=server` reads the cluster, and which upgrades what server-side apply has made."""
MAJORS = (3, 4)
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Helm:
    """A helm that can be run."""

    path: Path
    version: tuple[int, int, int]

    @property
    def major(self) -> int:
        """3 or 4: their flags differ."""
        return self.version[0]

    @property
    def words(self) -> str:
        """`Helm 4.3.1 (/usr/bin/helm)`."""
        return f"Helm {'.'.join(map(str, self.version))} ({self.path})"


def find_helm(given: Path | None = None) -> Helm:
    """The helm that is named, else the one in PATH. Raises HelmUnavailable, which says what was looked at."""
    driver = os.environ.get("HELM_DRIVER", "")
    if driver not in ("", "secret", "secrets"):
        raise HelmUnavailable(f"HELM_DRIVER is {driver!r}: releases are read from Secrets only; allowed: unset, secret")
    if given is not None:
        found = given.expanduser().absolute()
        if not (found.is_file() and os.access(found, os.X_OK)):
            raise HelmUnavailable(f"helm: {given} is not a program; allowed: the path of a Helm 3 or 4")
    else:
        in_path = shutil.which("helm")
        if in_path is None:
            raise HelmUnavailable(
                "helm is not in PATH; install Helm 3 or 4 (https://helm.sh/docs/intro/install), or pass its path: "
                "--helm PATH"
            )
        found = Path(in_path)
    return Helm(found, _version_of(found))


def parse_version(text: str) -> tuple[int, int, int] | None:
    """`v4.3.1`, also with a suffix, as numbers."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _version_of(path: Path) -> tuple[int, int, int]:
    command = [str(path), "version", "--template", "{{.Version}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HelmUnavailable(f"{path} version: {error}") from error
    version = parse_version(done.stdout)
    if done.returncode != 0 or version is None:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise HelmUnavailable(f"{path} does not report its version as Helm 3 and 4 do: {said}")
    if version[0] not in MAJORS or version < OLDEST:
        shown = ".".join(map(str, version))
        raise HelmUnavailable(f"{path} is Helm {shown}; allowed: Helm 3 from {OLDEST[0]}.{OLDEST[1]} on, and Helm 4")
    return version
