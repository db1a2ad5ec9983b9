"""A home on a node's disk keeps its desktop on that node: the queue says so when the node is
full.
"""

import pytest

from e2e.desktops import condition, message_of, reach, run_in, start, template
from nodes.several import Nodes, foreign_pod
from vdi.demo.run import FAKE_GPUS

pytestmark = pytest.mark.timeout(300)
GPU = "nvidia.com/gpu"


def test_queue_names_the_full_node_of_a_home(nodes: Nodes) -> None:
    world, (first, node, third) = nodes.world, nodes.names[:3]
    with template(world, "pinned", resources={"defaultGPU": 1}):
        with nodes.only(node):
            start(world, "alice", "pinned")
        run_in(world, "alice", "echo mine > ~/mine.txt")
        world.vdi("session", "suspend", "alice")
        reach(world, "alice", "Suspended")
        with foreign_pod(world, node, resources={"limits": {GPU: str(FAKE_GPUS)}}):
            world.vdi("session", "resume", "alice")
            reach(world, "alice", "Pending", f"the home is on node {node}")
            admitted = condition(world, "alice", "Admitted")
            assert admitted and admitted["reason"] == "HomeNodeFull"
            said = message_of(world, "alice")
            assert (
                f"all {FAKE_GPUS} {GPU} on node {node} are in use ({FAKE_GPUS} by other workloads)"
                in said
            )
            if not nodes.names[3:]:
                assert f"the capacity of nodes {first} and {third} does not help it" in said
        reach(world, "alice", "Running")
        assert nodes.of("alice") == node
        assert run_in(world, "alice", "cat ~/mine.txt") == "mine\n"
