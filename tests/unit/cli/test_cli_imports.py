"""A command imports what it uses: people feel each tenth of a second of a command that takes half a second."""

import subprocess
import sys
from pathlib import Path

import pytest

LOADED = """
import sys
from vdi.cli.main import main
main(sys.argv[1:])
print("loaded:", *sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (["--help"], {"asyncio", "pydantic", "httpx", "rich", "msgspec", "yaml"}),
        (["session", "ls"], {"httpx", "rich", "pygments", "vdi.gateway", "vdi.latency_probe"}),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_use(tmp_path: Path, words: list[str], unused: set[str]) -> None:
    config = ["--kubeconfig", str(tmp_path / "none")] if words != ["--help"] else []
    done = subprocess.run([sys.executable, "-c", LOADED, *words, *config], capture_output=True, text=True, timeout=30)
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "vdi.cli.main" in loaded, done.stderr
    assert unused.isdisjoint(loaded)
