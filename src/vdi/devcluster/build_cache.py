"""The cache of programs and images, and what those who fill it share.

An entry is a folder that appears complete or not at all: it is built under another name and then
renamed, while a lock file keeps every other process (and thread) from building the same one.
"""

import contextlib
import fcntl
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vdi.devcluster.progress import Progress, Step

ARCHITECTURES = ("amd64", "arm64")
_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_LOCK_POLL_SECONDS = 0.2


class SourceFailed(Exception):  # noqa: N818 - named for what happened
    """Raised when a source cannot provide what was requested, with the reason. The next source is
    tried then.
    """


def architecture() -> str:
    """Go's name of this machine's architecture. Raises SourceFailed for one that the cluster does
    not run on.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise SourceFailed(
            f"machine {machine!r} is not supported: the cluster runs on linux"
            f" {' and '.join(ARCHITECTURES)}"
        )
    return _MACHINES[machine]


def default_cache(env: Mapping[str, str]) -> Path:
    """The cache's folder: $VDI_CACHE, else $XDG_CACHE_HOME/vdi, else ~/.cache/vdi."""
    if env.get("VDI_CACHE"):
        return Path(env["VDI_CACHE"])
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "vdi"
    return Path.home() / ".cache" / "vdi"


@dataclass(frozen=True)
class BuildCache:
    """The cache's folder, with the progress display, the environment and the machine's
    architecture.
    """

    progress: Progress
    folder: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    arch: str = field(default_factory=architecture)

    def entry(self, key: str) -> Path:
        """The folder of the entry `key`; it exists only when it is complete."""
        return self.folder / f"{key}-{self.arch}"

    def obtain(self, key: str, title: str, fetch: Callable[[Step, Path], None]) -> Path:
        """The entry `key`: from the cache, else built by `fetch(step, folder)` as one step of the
        display.

        Raises what `fetch` raises, and leaves no incomplete entry then.
        """
        entry = self.entry(key)
        if entry.is_dir():
            return entry
        with self.lock(f"{key}-{self.arch}"):
            if entry.is_dir():  # built by another while we waited
                return entry
            scratch = self.folder / "unfinished" / entry.name
            # Of a killed process: no other one holds the lock.
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            try:
                with self.progress.step(title) as step:
                    fetch(step, scratch)
                    scratch.rename(entry)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return entry

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold the lock `name` against all other processes and threads. The kernel frees it when a
        process dies.
        """
        folder = self.folder / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                self.progress.wait(_LOCK_POLL_SECONDS)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder, removed afterwards."""
        (self.folder / "unfinished").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder / "unfinished") as folder:
            yield Path(folder)
