"""A home on a node's disk keeps its desktop on that node: the queue says so when the node is full."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import yaml

from e2e.desktops import condition, reach, run_in, start, template
from e2e.world import World
from nodes.several import Nodes, message_of
from vdi.demo.run import FAKE_GPUS

pytestmark = pytest.mark.timeout(300)
GPU = "nvidia.com/gpu"


@contextmanager
def gpus_taken(world: World, node: str) -> Iterator[None]:
    """All GPUs of the node are in use by a pod of someone else."""
    container = {
        "name": "training",
        "image": "docker.io/library/debian:13-slim",
        "command": ["sleep", "infinity"],
        "resources": {"limits": {GPU: str(FAKE_GPUS)}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "training", "namespace": "default"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
    world.kubectl("-n", "default", "apply", "-f", "-", stdin=yaml.safe_dump(pod))
    try:
        world.kubectl("-n", "default", "wait", "pod/training", "--for=condition=Ready", "--timeout=60s")
        yield
    finally:
        world.kubectl("-n", "default", "delete", "pod", "training")


def test_queue_names_the_full_node_of_a_home(nodes: Nodes) -> None:
    world, (first, node, third) = nodes.world, nodes.names[:3]
    with template(world, "pinned", resources={"defaultGPU": 1}):
        with nodes.only(node):
            start(world, "alice", "pinned")
        run_in(world, "alice", "echo mine > ~/mine.txt")
        world.vdi("session", "suspend", "alice")
        reach(world, "alice", "Suspended")
        with gpus_taken(world, node):
            world.vdi("session", "resume", "alice")
            reach(world, "alice", "Pending", f"the home is on node {node}")
            admitted = condition(world, "alice", "Admitted")
            assert admitted and admitted["reason"] == "HomeNodeFull"
            said = message_of(world, "alice")
            taken = f"all {FAKE_GPUS} {GPU} on node {node} are in use ({FAKE_GPUS} by other workloads)"
            assert taken in said
            others = nodes.names[3:]
            if not others:
                assert f"the capacity of nodes {first} and {third} does not help it" in said
        reach(world, "alice", "Running")
        assert nodes.of("alice") == node
        assert run_in(world, "alice", "cat ~/mine.txt") == "mine\n"
