"""Fixture of the helm program, for suites that render charts. Their conftest imports it."""

from pathlib import Path

import pytest

from vdi.devcluster import binaries
from vdi.devcluster.progress import Progress


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program; a machine's first run builds it."""
    with Progress(tmp_path_factory.mktemp("helm")) as progress:
        return binaries.ensure(["helm"], progress=progress)["helm"]
