"""cosign, syft, oras and helm: those in PATH, else a download, else a build from the locked modules
in `go/`.
"""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from vdi.devcluster import binaries
from vdi.devcluster.binaries.components import Download, archive, github_file, go_tool
from vdi.devcluster.progress import Progress

COSIGN = "v3.1.3"  # renovate: go github.com/sigstore/cosign/v3
SYFT = "v1.52.0"  # renovate: go github.com/anchore/syft
ORAS = "v1.3.4"  # renovate: go oras.land/oras

# Options of cosign: a key signs, without Sigstore's services and without a network.
KEY_ALONE = ("--tlog-upload=false", "--use-signing-config=false")
_MODULES = Path(__file__).parent / "go"


class ProgramError(Exception):
    """Raised when one of the programs fails; the message is its own."""


def _tar(name: str, version: str, repository: str) -> Download:
    stem = f"{name}_{version.removeprefix('v')}"
    checksums = github_file(repository, version, f"{stem}_checksums.txt")
    return archive(
        name,
        version,
        github_file(repository, version, f"{stem}_linux_{{arch}}.tar.gz"),
        checksums,
        {name: name},
    )


_COSIGN = Download(
    key=f"cosign-{COSIGN}",
    title=f"download cosign {COSIGN}",
    provides={"cosign": "cosign"},
    url=github_file("sigstore/cosign", COSIGN, "cosign-linux-{arch}"),
    checksum=github_file("sigstore/cosign", COSIGN, "cosign_checksums.txt"),
)
RECIPES = {
    "cosign": (
        _COSIGN,
        go_tool("cosign", COSIGN, "github.com/sigstore/cosign/v3/cmd/cosign", modules=_MODULES),
    ),
    "syft": (
        _tar("syft", SYFT, "anchore/syft"),
        go_tool("syft", SYFT, "github.com/anchore/syft/cmd/syft", modules=_MODULES),
    ),
    "oras": (
        _tar("oras", ORAS, "oras-project/oras"),
        go_tool("oras", ORAS, "oras.land/oras/cmd/oras", modules=_MODULES),
    ),
    "helm": binaries.RECIPES["helm"],
}


class Programs:
    def __init__(self, names: Iterable[str], progress: Progress) -> None:
        """Raises BinaryUnavailable."""
        self._paths: dict[str, Path] = {}
        missing = []
        for name in names:
            if path := shutil.which(name):
                self._paths[name] = Path(path)
            else:
                missing.append(name)
        self._paths |= binaries.ensure(missing, progress=progress, recipes=RECIPES)

    def path(self, name: str) -> Path:
        return self._paths[name]

    def run(self, name: str, *arguments: str | Path, cwd: Path | None = None) -> str:
        """What it prints. Raises ProgramError."""
        done = subprocess.run(
            [self._paths[name], *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=3600,
        )
        if done.returncode != 0:
            raise ProgramError(f"{name} {arguments[0]}: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()
