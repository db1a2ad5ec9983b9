"""A checkout of ours with a tag, and images small enough for each test: what a release is made
from.
"""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from vdi.devcluster.images.archive import ImageConfig, write_archive

ROOT = Path(__file__).parents[2]
VERSION = "0.2.0-rc.1"
TAG = f"v{VERSION}"
_BUILT_FROM = (
    "pyproject.toml", "README.md", "LICENSE", ".gitignore", "src", "charts", "manifests", "requirements", "tools",
    "docs/examples", "docs/use",
)  # fmt: skip
_STATUS = (
    "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2.37-2\n\n"
    "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
)


def git(folder: Path, *words: str) -> str:
    """Output of git in `folder`, as somebody."""
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


def make_checkout(folder: Path) -> Path:
    """A repository of our files whose one commit has the tag v0.2.0-rc.1."""
    folder.mkdir()
    for name in _BUILT_FROM:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## {VERSION} - 2026-11-22\n- A\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=A")
    git(folder, "tag", "--annotate", "--message=A", TAG)
    return folder


def make_image(folder: Path, name: str, *, package: str = "bash") -> Path:
    """The archive of an image with two packages of Debian, of which one is removed, and a Python
    distribution.
    """
    layer, target = folder / f"{name}.layer", folder / f"{name}.tar"
    files = {
        "var/lib/dpkg/status": _STATUS.replace("bash", package),
        "opt/vdi/lib/httpx-0.28.1.dist-info/METADATA": (
            "Metadata-Version: 2.4\nName: httpx\nVersion: 0.28.1\n\nText\n"
        ),
        "name": name,
    }
    with tarfile.open(layer, "w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    tag = f"localhost/vdi/{name}:dev"
    write_archive(
        target,
        name=tag,
        layer=layer,
        config=ImageConfig(user="65532"),
        arch="amd64",
        comment="a test's",
    )
    return target


def sbom_names(path: Path) -> list[str]:
    """The names in a bill of materials."""
    return [part["purl"] for part in json.loads(path.read_text())["components"] if "purl" in part]
