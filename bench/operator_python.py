"""The Python that runs the operator: Debian's build, as in its image, where it has the version of the bench's own.

A Python that a version manager has compiled without `--enable-optimizations` is slower. What is measured is what is
shipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

DEBIAN = Path("/usr/bin/python3")
CONTAINERFILE = Path(__file__).parents[1] / "images/vdi/Containerfile"


def operator_command() -> list[str]:
    """How the operator is started."""
    return [str(interpreter()[0]), "-m", "vdi", "operator", "run"]


def operator_environment() -> dict[str, str]:
    """What it needs to find what the bench's own Python finds, and the C library set as its image sets it."""
    own = (Path(entry or ".").resolve() for entry in sys.path)
    path = os.pathsep.join(str(entry) for entry in own if not entry.is_relative_to(sys.base_prefix))
    return {"PYTHONPATH": path, **dict(re.findall(r"(MALLOC_\w+)=(\d+)", CONTAINERFILE.read_text()))}


@cache
def interpreter() -> tuple[Path, str]:
    """The interpreter and its version. The bench's own where Debian's is another version, or not there."""
    own = sys.version_info
    try:
        asked = subprocess.run(
            [DEBIAN, "-c", "import platform; print(platform.python_version())"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return Path(sys.executable), f"{own.major}.{own.minor}.{own.micro}"
    version = asked.stdout.decode().strip()
    if version.split(".")[:2] == [str(own.major), str(own.minor)]:
        return DEBIAN, version
    return Path(sys.executable), f"{own.major}.{own.minor}.{own.micro}"
