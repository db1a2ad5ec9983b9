"""A real node with the operator installed by the chart, as `make demo` makes it; the same for all
tests of a run.

`tests/run.sh e2e` takes it down afterwards; after a test run by hand it stays for the next one,
until `vdi demo down --name e2e`.
"""

import os
from collections.abc import Iterator

import pytest

from e2e.world import World, start_demo

# Another name lets two checkouts of this project test side by side.
NAME = os.environ.get("VDI_E2E_CLUSTER", "e2e")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that look back on the whole run come last."""
    items.sort(key=lambda item: item.path.name == "test_rights_used.py")


@pytest.fixture(scope="session")
def world() -> World:
    return start_demo(NAME)


@pytest.fixture
def sessions(world: World) -> Iterator[World]:
    """The world, with no session before the test and none after it."""
    world.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
    yield world
    world.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
