"""A command imports what it uses: people feel each tenth of a second of a command that takes half a
second.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from unit.cli.fake_cluster import FakeCluster

# Each takes longer to load than the rest of the command takes to run.
HEAVY = {
    "pydantic",
    "httpx",
    "rich",
    "pygments",
    "cryptography",
    "prometheus_client",
    "sqlalchemy",
    "kubernetes",
    "uvloop",
}

LOADED = """
import sys
from vdi.cli.main import main
main(sys.argv[1:])
print("loaded:", *sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        (["--help"], HEAVY | {"asyncio", "msgspec", "yaml"}),
        (
            ["session", "ls"],
            HEAVY | {"vdi.gateway", "vdi.latency_probe", "vdi.doctor", "vdi.devcluster"},
        ),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_use(
    fake: FakeCluster, tmp_path: Path, words: list[str], unused: set[str]
) -> None:
    config = ["--kubeconfig", str(fake.kubeconfig(tmp_path))] if words != ["--help"] else []
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words, *config], capture_output=True, text=True, timeout=30
    )
    assert "Error" not in done.stderr
    loaded = done.stdout.rpartition("loaded:")[2].split()
    assert "vdi.cli.main" in loaded
    assert unused.isdisjoint(loaded), unused & set(loaded)
