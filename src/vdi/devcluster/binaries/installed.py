"""Binaries that are on the machine already: in a folder that the user names, or installed by the distribution."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from vdi.devcluster.binaries.components import CNI_PLUGINS, CNI_PROTOCOL, CONTAINERD_PROGRAMS, SUPPORTED
from vdi.devcluster.build_cache import SourceFailed

ENVTEST_NAMES = ("etcd", "kube-apiserver", "kubectl")
"""What a folder made by setup-envtest holds."""

SYSTEM_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin")
_VERSION = re.compile(r"\bv?(\d+)\.(\d+)(?:\.\d+)?")


def from_named_folder(name: str, env: Mapping[str, str]) -> tuple[Path | None, list[str]]:
    """`name` in the folder that VDI_BINARIES or KUBEBUILDER_ASSETS names, or why it is not taken from there."""
    reasons = []
    for variable in ("VDI_BINARIES", "KUBEBUILDER_ASSETS"):
        folder = env.get(variable)
        if not folder or (variable == "KUBEBUILDER_ASSETS" and name not in ENVTEST_NAMES):
            continue
        path = Path(folder) / name
        missing = [plugin for plugin in CNI_PLUGINS if not _executable(path / plugin)] if name == "cni" else []
        if missing:
            reasons.append(f"{variable}={folder}: the folder {path} lacks the plugins {', '.join(missing)}")
        elif name == "cni" or _executable(path) or (path.is_file() and path.suffix == ".yaml"):
            return path.absolute(), []
        else:
            reasons.append(f"{variable}={folder}: contains no executable {name}")
    return None, reasons


def from_system(name: str, env: Mapping[str, str], folders: tuple[str, ...] = SYSTEM_FOLDERS + CNI_FOLDERS) -> Path:
    """containerd, runc or the CNI plugins as the system has them, if we support them. Raises SourceFailed."""
    part = "containerd" if name in CONTAINERD_PROGRAMS else name
    searched = [folder for folder in env.get("PATH", "").split(os.pathsep) if folder] + list(folders)
    programs = {"containerd": CONTAINERD_PROGRAMS, "runc": ("runc",), "cni": CNI_PLUGINS}[part]
    for folder in dict.fromkeys(Path(path) for path in searched):
        if not all(_executable(folder / program) for program in programs):
            continue
        if part == "cni":
            require_protocol(folder / "bridge", _answer(folder / "bridge"))
            return folder
        require_version(part, folder / part, _answer(folder / part))
        return folder / name
    raise SourceFailed(f"the system has no {', '.join(programs)} in PATH or in {', '.join(folders)}")


def require_version(part: str, program: Path, answer: str) -> None:
    """Raises SourceFailed when what `program --version` answered is not a version of `part` that we support."""
    found = _VERSION.search(answer)
    low, high = SUPPORTED[part]
    if found is None or not low <= (int(found[1]), int(found[2])) < high:
        shown = f"version {found[1]}.{found[2]}" if found else "an unknown version"
        allowed = f"{low[0]}.{low[1]} or newer, below {high[0]}.{high[1]}"
        raise SourceFailed(f"the system's {program} is {shown}, supported: {allowed}")


def require_protocol(plugin: Path, answer: str) -> None:
    """Raises SourceFailed when a CNI plugin doesn't speak our protocol. Its own version is not always built in."""
    if CNI_PROTOCOL not in answer.partition("supported:")[2].replace(",", " ").split():
        raise SourceFailed(f"the system's {plugin} does not report support for CNI {CNI_PROTOCOL}")


def _executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _answer(program: Path) -> str:
    try:  # a CNI plugin that gets no command in its environment names what it speaks, the others want --version
        said = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SourceFailed(f"the system's {program} cannot be run: {error}") from error
    return said.stdout + said.stderr
