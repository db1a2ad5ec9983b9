"""Platforms that this machine can build images for, with the builder that `vdi.devcluster`
finds.
"""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vdi.devcluster.build_cache import ARCHITECTURES, architecture
from vdi.devcluster.images.builder import Storage, find_builder

_PLATFORMS_SECONDS = 60.0
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
_EMULATORS = {"amd64": "qemu-x86_64", "arm64": "qemu-aarch64"}


@dataclass(frozen=True)
class Platforms:
    """Builder, architectures it can build for, and reasons for those left out, one line each."""

    builder: str
    architectures: tuple[str, ...]
    left_out: tuple[str, ...]


def find_platforms(env: Mapping[str, str], *, docker: bool, binfmt: Path = _BINFMT) -> Platforms:
    """Look for a builder and its platforms. `docker`: whether Docker may build, as `find_builder`
    takes it.

    Without any builder Debian's Buildah is named, which a build then installs.
    """
    builder, left_out = find_builder(Storage(Path(), Path()), env, docker=docker)
    name = builder.name if builder else "buildah"
    built = []
    for arch in ARCHITECTURES:
        reason = None if arch == architecture() else _foreign_problem(name, arch, env, binfmt)
        if reason is None:
            built.append(arch)
        else:
            left_out.append(f"linux/{arch}: {reason}")
    return Platforms(name, tuple(built), tuple(left_out))


def _foreign_problem(builder: str, arch: str, env: Mapping[str, str], binfmt: Path) -> str | None:
    """The reason why `builder` cannot build for another architecture than this machine's; None when
    it can.
    """
    advice = f"install QEMU's user mode for {arch} (Debian: qemu-user-static and binfmt-support)"
    if builder == "docker":
        platforms = _docker_platforms(env)
        if f"linux/{arch}" in platforms:
            return None
        return f"docker buildx offers {', '.join(platforms) or 'none'}; {advice}"
    handler = binfmt / _EMULATORS[arch]
    try:
        is_enabled = handler.read_text().startswith("enabled")
    except OSError:
        return f"this machine cannot run its programs: {handler} does not exist; {advice}"
    return None if is_enabled else f"{handler} is disabled; write 1 to it"


def _docker_platforms(env: Mapping[str, str]) -> list[str]:
    """The platforms of Docker's current builder; empty without buildx."""
    try:
        done = subprocess.run(
            ["docker", "buildx", "inspect", "--bootstrap"],
            env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PLATFORMS_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    platforms: list[str] = []
    for line in done.stdout.splitlines():
        if line.startswith("Platforms:"):
            names = map(str.strip, line.removeprefix("Platforms:").split(","))
            platforms += [name.rstrip("*") for name in names if name]
    return platforms
