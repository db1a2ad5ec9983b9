"""Installs packages of the distribution with apt-get, one installation at a time. Called where a program is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Mapping, Sequence

from vdi.devcluster.host_settings import PROXY_VARIABLES
from vdi.devcluster.progress import Step

SUDO = ("sudo", "-n", f"--preserve-env={','.join(PROXY_VARIABLES)}")
"""How a command gets root's rights without a question; whoever calls us has asked for them already."""

lists = threading.Lock()
"""Held while apt-get replaces the package lists or looks a package up in them: half-replaced lists have no package, and
apt-get waits for other processes' locks, but not for that of the lists."""

_LOCK_SECONDS = 300
_one_at_a_time = threading.RLock()  # an installation reads the lists too


class PackagesUnavailable(Exception):  # noqa: N818 - named for what is the case
    """Raised when packages can't be installed from here; says what somebody who may has to type."""


def install(step: Step, packages: Sequence[str]) -> None:
    """Install packages, with fresh package lists. Raises PackagesUnavailable, StepFailed."""
    command = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise PackagesUnavailable(f"apt-get, which installs {', '.join(packages)}, is not on this machine")
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
    """What goes before a command that only root may run."""
    return () if os.geteuid() == 0 else SUDO


def sudo_works() -> bool:
    """Whether sudo gives root's rights without a question."""
    if shutil.which("sudo") is None:
        return False
    return subprocess.run(["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def _apt() -> list[str]:
    return [*root_rights(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
