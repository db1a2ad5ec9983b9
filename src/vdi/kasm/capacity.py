"""Free capacity of the nodes in a snapshot. Pure."""

from collections.abc import Collection

from vdi.cluster.capacity import NodeCapacity, read_capacity
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.workloads import Pod


def running_pods(snapshot: Snapshot) -> list[Pod]:
    """Pods that are on a node and have not ended."""
    placed = [pod for pod in snapshot.pods if pod.spec.node_name]
    return [pod for pod in placed if pod.status.phase not in ("Succeeded", "Failed")]


def free_capacity(snapshot: Snapshot, replaced: Collection[str] = ()) -> dict[str, NodeCapacity]:
    """Nodes by name, with what is left of them. `replaced`: uids of pods that count as gone."""
    nodes = {name: read_capacity(node) for name, node in snapshot.nodes.items()}
    for pod in running_pods(snapshot):
        node = nodes.get(pod.spec.node_name)
        if node and pod.metadata.uid not in replaced:
            node.take(pod.spec.takes, 1)
    return nodes
