"""The operator as a process: how it ends, and what it does not carry with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.waiting import PATIENCE

SOURCE = Path(__file__).parents[3] / "src"


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("VDI_", "KUBE"))
    }
    everything = clean | {"PYTHONPATH": str(SOURCE), "HOME": "/nonexistent"} | environment
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=everything, capture_output=True, text=True, timeout=PATIENCE)


def test_operator_imports_nothing_of_other_programs() -> None:
    heavy = ("typer", "pydantic", "rich", "yaml", "cryptography", "kubernetes", "aiohttp", "httpx")
    show = (
        f"import sys, vdi.operator.__main__; print([one for one in {heavy} if one in sys.modules])"
    )
    assert start("-c", show).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("environment", "code", "words"),
    [
        ({"VDI_WORKERS": "0"}, 2, "Error: VDI_WORKERS='0': allowed: a whole number from 1 to 1000"),
        ({}, 3, "kubeconfig /nowhere: No such file"),
    ],
)
def test_vdi_operator_run_becomes_the_operator(
    environment: dict[str, str], code: int, words: str
) -> None:
    ended = start("-m", "vdi", "operator", "run", "--kubeconfig", "/nowhere", **environment)
    assert words in ended.stderr
    assert ended.returncode == code
