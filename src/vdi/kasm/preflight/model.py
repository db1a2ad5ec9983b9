"""Subject of a preflight: the planned release, the cluster, and what was measured outside its API.
Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from vdi.cluster.capacity import NodeCapacity
from vdi.kasm.capacity import free_capacity, running_pods
from vdi.kasm.installation import Installation, InstalledChart, release_of
from vdi.kasm.preflight.needs import PlannedRelease
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.network import Service
from vdi.snapshot.objects.storage import Node
from vdi.snapshot.objects.workloads import Pod, WorkloadObject


class Resolution(msgspec.Struct, frozen=True):
    """Addresses of a host name where the command runs."""

    host: str
    addresses: tuple[str, ...] = ()
    problem: str = ""


class Probe(msgspec.Struct, frozen=True):
    """The result of a TCP connection to a node: `open`, `refused`, or `silent` (no answer)."""

    address: str
    port: int
    outcome: str


class Tool(msgspec.Struct, frozen=True):
    """A program on this machine: its version, or why it was not found."""

    version: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Surroundings:
    """Measurements where the command runs."""

    resolution: Resolution | None = None
    probes: tuple[Probe, ...] = ()
    tools: Mapping[str, Tool] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Preflight:
    snapshot: Snapshot
    surroundings: Surroundings
    planned: PlannedRelease

    @cached_property
    def installed(self) -> InstalledChart | None:
        """The Kasm that the planned release replaces."""
        return Installation(self.snapshot, self.planned.namespace).installed

    @cached_property
    def running(self) -> list[Pod]:
        return running_pods(self.snapshot)

    @cached_property
    def replaced_pods(self) -> list[Pod]:
        """Pods of the Kasm that the planned release replaces."""
        installed = self.installed
        if installed is None:
            return []
        here = [pod for pod in self.running if pod.metadata.namespace == self.planned.namespace]
        return [pod for pod in here if installed.owns(pod)]

    def replaces(self, service: Service) -> bool:
        """Whether it belongs to the Kasm that the planned release replaces."""
        installed = self.installed
        is_here = service.metadata.namespace == self.planned.namespace
        return installed is not None and is_here and release_of(service) == installed.release

    def is_disabled(self, part: str) -> bool:
        """Whether K3s was told not to install it (`--disable`)."""
        return any(part in node.metadata.disabled for node in self.snapshot.objects.nodes)

    @cached_property
    def _capacities(self) -> list[NodeCapacity]:
        """Nodes with what is left of them once the planned release has replaced pods."""
        replaced = {pod.metadata.uid for pod in self.replaced_pods}
        nodes = free_capacity(self.snapshot, replaced)
        return [nodes[name] for name in sorted(nodes)]

    @cached_property
    def closed_nodes(self) -> dict[str, str]:
        """Nodes that accept no pods without a toleration, and why."""
        closed = {}
        for node in self._capacities:
            taints = ", ".join(taint.key for taint in node.taints)
            if node.closed or taints:
                closed[node.name] = node.closed or f"tainted {taints}"
        return closed

    @property
    def usable_capacities(self) -> list[NodeCapacity]:
        return [node for node in self._capacities if node.name not in self.closed_nodes]

    @property
    def usable_nodes(self) -> list[Node]:
        return [self.snapshot.nodes[node.name] for node in self.usable_capacities]


def name_of(item: Pod | Service | WorkloadObject) -> str:
    """`NAMESPACE/NAME`."""
    return f"{item.metadata.namespace}/{item.metadata.name}"


def node_addresses(node: Node) -> dict[str, str]:
    """Address -> type (`InternalIP`, `ExternalIP`, ...), without host names."""
    addresses = [address for address in node.status.addresses if address.type.endswith("IP")]
    return {address.address: address.type for address in addresses}
