"""Fixtures of the chaos suite: the cluster tests' control plane, and a world on it."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from chaos.world import ChaosWorld, open_world
from cluster.conftest import administrator, control_plane, kubeconfig, kubectl, namespace

__all__ = ["administrator", "control_plane", "kubeconfig", "kubectl", "namespace"]


@pytest.fixture
async def world(kubeconfig: Path, namespace: str, tmp_path: Path) -> AsyncIterator[ChaosWorld]:
    """A namespace with templates, nodes, a kubelet and a checker."""
    async with open_world(kubeconfig, namespace, tmp_path) as world:
        yield world


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line, though pytest captures."""

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"  {line}\n")
            sys.stdout.flush()

    return say
