"""The Python that runs the operator, and where it is taken from: this folder, or the image that is
shipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bench.command import COULD_NOT_LOOK
from vdi.devcluster.build_cache import SourceFailed, default_cache
from vdi.devcluster.images import ImageFailed, ensure_image
from vdi.devcluster.images.archive import extract
from vdi.devcluster.images.builder import NoBuilder
from vdi.devcluster.progress import Progress, StepFailed

DEBIAN = Path("/usr/bin/python3")
CONTAINERFILE = Path(__file__).parents[1] / "images/vdi/Containerfile"
# What of the image an operator runs with.
NEEDED = ("usr/bin/python3", "usr/lib/", "etc/ssl/", "opt/vdi/lib/")


class Program(NamedTuple):
    """An operator that can be started."""

    argv: list[str]
    environment: dict[str, str]
    python: str


def from_here() -> Program:
    """The operator of this folder.

    Debian's Python runs it where it has the version of the bench's own: one that a version manager
    has compiled without `--enable-optimizations` is slower, and no image has it.
    """
    program, version = _interpreter()
    own = (Path(entry or ".").resolve() for entry in sys.path)
    path = os.pathsep.join(str(entry) for entry in own if not entry.is_relative_to(sys.base_prefix))
    argv = [str(program), "-m", "vdi", "operator", "run"]
    return Program(argv, {"PYTHONPATH": path, **_allocator()}, f"{version} ({program})")


@contextmanager
def operator_program(*, from_image: bool) -> Iterator[Program]:
    """The operator of this folder, or out of its image, which is built where it is missing (that
    needs root).

    Ends the program with 3, in words, when the image cannot be had.
    """
    if not from_image:
        yield from_here()
        return
    with tempfile.TemporaryDirectory(prefix="vdi-bench-image-") as folder:
        with Progress(default_cache(os.environ) / "logs") as progress:
            try:
                archive = ensure_image("vdi", progress=progress)
            except (StepFailed, NoBuilder, ImageFailed, SourceFailed) as error:
                progress.say(str(error))
                raise SystemExit(COULD_NOT_LOOK) from error
        yield unpacked(archive, Path(folder))


def unpacked(archive: Path, root: Path) -> Program:
    """The operator of an image, unpacked into `root` and started by the image's own loader: no
    container, no root.
    """
    extract(archive, root, NEEDED)
    [loader] = root.glob("usr/lib/*/ld-linux-*.so.*")
    [python] = root.glob("usr/bin/python3.*[0-9]")
    [packages] = root.glob("opt/vdi/lib/python3.*/site-packages")
    environment = {
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": str(packages),
        "OPENSSL_CONF": str(root / "etc/ssl/openssl.cnf"),
        **_allocator(),
    }
    start = [str(loader), "--library-path", str(loader.parent), str(python)]
    version = _version(start, environment)
    # what `vdi operator run` becomes: that command would start the interpreter again, without the
    # image's loader
    return Program([*start, "-m", "vdi.operator"], environment, f"{version} (of the image)")


def _allocator() -> dict[str, str]:
    """The C library set as the image sets it."""
    return dict(re.findall(r"(MALLOC_\w+)=(\d+)", CONTAINERFILE.read_text()))


@cache
def _interpreter() -> tuple[Path, str]:
    """The interpreter and its version. The bench's own where Debian's is another version, or not
    there.
    """
    own = sys.version_info
    try:
        version = _version([str(DEBIAN)], {})
    except (OSError, subprocess.CalledProcessError):
        return Path(sys.executable), f"{own.major}.{own.minor}.{own.micro}"
    if version.split(".")[:2] == [str(own.major), str(own.minor)]:
        return DEBIAN, version
    return Path(sys.executable), f"{own.major}.{own.minor}.{own.micro}"


def _version(start: list[str], environment: dict[str, str]) -> str:
    question = "import platform; print(platform.python_version())"
    asked = subprocess.run(
        [*start, "-c", question], env={**os.environ, **environment}, capture_output=True, check=True
    )
    return asked.stdout.decode().strip()
