"""The cache that every source fills, and what the sources share. Used by `binaries` and the `sources_*` beside it.

An entry is a folder that appears complete or not at all: it is made under another name and renamed at its end, while a
lock file keeps every other process (and thread) from making the same one.
"""

from __future__ import annotations

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
from vdi.devcluster.sources_table import ARCHITECTURES

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_LOCK_POLL_SECONDS = 0.2


class SourceFailed(Exception):  # noqa: N818 - named for what happened
    """Raised when one source cannot give what was asked: its text is the reason. The next source is tried then."""


class BinaryUnavailable(Exception):  # noqa: N818 - named for what happened
    """Raised when no source could give a binary: lists each source that was tried with its reason."""

    def __init__(self, name: str, reasons: Iterator[str] | list[str]) -> None:
        self.name, self.reasons = name, list(reasons)
        super().__init__(f"{name} could not be had. Tried:" + "".join(f"\n  - {reason}" for reason in self.reasons))


def architecture(machine: str | None = None) -> str:
    """Go's name of this machine's architecture. Raises SourceFailed for one that the cluster does not run on."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise SourceFailed(
            f"machine {machine!r} is not supported: the cluster runs on linux {' and '.join(ARCHITECTURES)}"
        )
    return _MACHINES[machine]


def default_cache(env: Mapping[str, str]) -> Path:
    """Where entries are kept: $VDI_CACHE, else $XDG_CACHE_HOME/vdi, else ~/.cache/vdi."""
    if env.get("VDI_CACHE"):
        return Path(env["VDI_CACHE"])
    if env.get("XDG_CACHE_HOME"):
        return Path(env["XDG_CACHE_HOME"]) / "vdi"
    return Path.home() / ".cache" / "vdi"


@dataclass(frozen=True)
class Workshop:
    """What a source works with: the display, the cache, the environment and the machine's architecture."""

    progress: Progress
    cache: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    arch: str = field(default_factory=architecture)

    def entry(self, key: str) -> Path:
        """The folder of the entry `key`; it exists only when it is complete."""
        return self.cache / f"{key}-{self.arch}"

    def obtain(self, key: str, title: str, fetch: Callable[[Step, Path], None]) -> Path:
        """The entry `key`: as it is in the cache, else made by `fetch(step, folder)` as one step of the display.

        Raises what `fetch` raises, and leaves nothing half made then.
        """
        entry = self.entry(key)
        if entry.is_dir():
            return entry
        with self.lock(f"{key}-{self.arch}"):
            if entry.is_dir():  # made by another while we waited
                return entry
            scratch = self.cache / "unfinished" / entry.name
            shutil.rmtree(scratch, ignore_errors=True)  # of one that was killed: nobody else holds the lock
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
        """Hold the lock `name`, alone among all processes and threads. The system frees it when a process dies."""
        folder = self.cache / "locks"
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
        """A folder for this moment's work, gone afterwards."""
        (self.cache / "unfinished").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.cache / "unfinished") as folder:
            yield Path(folder)
