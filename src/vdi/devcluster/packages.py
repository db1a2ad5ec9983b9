"""Installs packages of the distribution with apt-get, one installation at a time. Called where a program is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Sequence

from vdi.devcluster.host_settings import PROXY_VARIABLES
from vdi.devcluster.progress import Step

SUDO = ("sudo", "-n", f"--preserve-env={','.join(PROXY_VARIABLES)}")
"""How a command gets root's rights without a question; whoever calls us has asked for them already."""

_LOCK_SECONDS = 300
_one_at_a_time = threading.Lock()  # apt-get waits for other processes' locks, but not for that of the package lists


class PackagesUnavailable(Exception):  # noqa: N818 - named for what is the case
    """Raised when packages can't be installed from here; says what somebody who may has to type."""


def install(step: Step, packages: Sequence[str]) -> None:
    """Install packages, with fresh package lists. Raises PackagesUnavailable, StepFailed."""
    command = f"apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise PackagesUnavailable(f"apt-get, which installs {', '.join(packages)}, is not on this machine")
    if os.geteuid() != 0 and not sudo_works():
        raise PackagesUnavailable(f"only root can install {', '.join(packages)}: sudo {command}")
    apt = [*root_rights(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
    with _one_at_a_time:
        step.update("waiting for packages")
        step.run([*apt, "update"])
        wait = ["-o", f"DPkg::Lock::Timeout={_LOCK_SECONDS}"]
        step.run([*apt, *wait, "install", "--yes", "--no-install-recommends", *packages])


def root_rights() -> tuple[str, ...]:
    """What goes before a command that only root may run."""
    return () if os.geteuid() == 0 else SUDO


def sudo_works() -> bool:
    """Whether sudo gives root's rights without a question."""
    if shutil.which("sudo") is None:
        return False
    return subprocess.run(["sudo", "-n", "true"], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
