"""Packages of npm that tests use, in the versions that a lock file names; npm runs no script of
theirs.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from vdi.devcluster.build_cache import default_cache

INSTALL_SECONDS = 300
_PINNED = ("package.json", "package-lock.json")


def install_packages(pinned: Path, name: str) -> Path:
    """The folder `node_modules` of what the lock file in `pinned` names; filled at the first call
    on a machine.

    Raises RuntimeError without node and npm, and when npm fails.
    """
    digest = hashlib.sha256(b"".join((pinned / file).read_bytes() for file in _PINNED)).hexdigest()[
        :16
    ]
    folder = default_cache(os.environ) / f"{name}-{digest}"
    if not folder.exists():
        if shutil.which("npm") is None or shutil.which("node") is None:
            raise RuntimeError(f"node and npm are needed for {name}: install nodejs and npm")
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{name}-"))
        try:
            for file in _PINNED:
                shutil.copy(pinned / file, made)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(
                command, cwd=made, timeout=INSTALL_SECONDS, capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"npm ci failed: {done.stderr[-2000:]}")
            with suppress(OSError):  # another run was faster: what it made is the same
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder / "node_modules"
