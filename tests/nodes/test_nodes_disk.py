"""The disk of one node is full: desktops go elsewhere, and the session of one that cannot says
why.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.desktops import reach, run_in, start, template
from nodes.several import LIGHT, Nodes
from support.waiting import wait_until
from vdi.devcluster import cluster
from vdi.devcluster.layout import layout_of

pytestmark = pytest.mark.timeout(900)
GIB = 1 << 30


@contextmanager
def own_disk(nodes: Nodes, node: str) -> Iterator[Path]:
    """The node's kubelet has a disk of its own, of 2 GiB, while the context lasts; all share one
    otherwise.
    """
    disk = layout_of(nodes.cluster).of_node(nodes.names.index(node) + 1).node / "kubelet"
    cluster.stop_node(nodes.cluster, node)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "vdi-disk", disk], check=True)
    try:
        nodes.bring_back(node)
        yield disk
    finally:
        cluster.stop_node(nodes.cluster, node)
        subprocess.run(["umount", disk], check=True)
        nodes.bring_back(node)


def test_a_node_whose_disk_is_full_gets_no_desktops(nodes: Nodes) -> None:
    world, node = nodes.world, nodes.spare
    with (
        own_disk(nodes, node) as disk,
        template(world, "roams", resources=LIGHT, persistence={"enabled": False}),
        template(world, "stays", resources=LIGHT),
    ):
        with nodes.only(node):
            start(world, "lea", "roams", wait=False)
            start(world, "abe", "stays")
            reach(world, "lea", "Running")
        run_in(world, "abe", "echo mine > ~/mine.txt")
        with (filling := disk / "filling").open("wb") as file:
            # The kubelet evicts when less than 1 GiB is left.
            os.posix_fallocate(file.fileno(), 0, 5 * GIB // 4)

        nodes.wait_moved("lea", node, 120)
        full = f"node {node} is short of disk"
        reach(world, "abe", "Pending", f"the home is on node {node}, and {full}", 120)
        start(world, "leo", "roams")
        assert nodes.of("leo") != node
        said = world.vdi("doctor", check=False)
        assert "node_under_pressure" in said and f"{node} is short of disk" in said.replace(
            "\n", " "
        ), said

        filling.unlink()
        reach(world, "abe", "Running", seconds=120)
        assert nodes.of("abe") == node
        assert run_in(world, "abe", "cat ~/mine.txt") == "mine\n"
        wait_until(
            "the doctor says so",
            lambda: "node_under_pressure" not in world.vdi("doctor", check=False),
        )
