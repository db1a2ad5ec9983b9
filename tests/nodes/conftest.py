"""Three nodes with the operator installed by the chart; the same cluster for all tests of a run,
made once.

`tests/run.sh nodes` takes it down afterwards; after a test run by hand it stays for the next one,
until `vdi demo down --name nodes`.
"""

import os
from collections.abc import Iterator

import pytest

from e2e.release import upgrade
from e2e.world import start_demo
from nodes.several import Nodes
from support.waiting import wait_until
from vdi.devcluster import cluster

# Another name lets two checkouts of this project test side by side.
NAME = os.environ.get("VDI_E2E_CLUSTER", "nodes")
# A third of the usual time, so that tests of a drain wait for less.
DRAIN_NOTICE = "20s"


@pytest.fixture(scope="session")
def all_nodes() -> Nodes:
    world = start_demo(NAME, nodes=3 if cluster.status(NAME).state == "absent" else None)
    upgrade(world, f"drainNotice={DRAIN_NOTICE}")
    return Nodes(NAME, world)


@pytest.fixture
def nodes(all_nodes: Nodes) -> Iterator[Nodes]:
    """All nodes in service, with no session and no home on them before the test and after it."""
    _clear(all_nodes)
    yield all_nodes
    _clear(all_nodes)


def _clear(nodes: Nodes) -> None:
    world = nodes.world
    for node in cluster.status(nodes.cluster).nodes[1:]:
        if node.state != "running" or not node.ready:
            nodes.bring_back(node.name)
    for kind in ("vdi", "pvc"):
        world.kubectl("delete", kind, "--all", "--wait=true", "--timeout=90s")
    wait_until("no pod of a desktop is left", lambda: not world.items("pod", "vdi.kasm.io/session"))
    world.kubectl("uncordon", *nodes.names)
