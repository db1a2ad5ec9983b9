"""GPU slots by node, for administrators: what nodes offer, and what desktops have of it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from vdi.gateway.context import GatewayContext
from vdi.gateway.limits import gpus_of
from vdi.gpu.sharing.config import RENAMED, RESOURCE
from vdi.gpu.sharing.state import Node
from vdi.kube.errors import Forbidden, KubeError
from vdi.kube.resource import NODES


@dataclass(frozen=True, slots=True)
class NodeSlots:
    """One node with GPUs."""

    name: str
    total: int
    used: int
    cordoned: bool

    @property
    def nearly_full(self) -> float:
        """From where on its bar warns."""
        return self.total * 0.9


@dataclass(frozen=True, slots=True)
class Slots:
    """All nodes with GPUs; or why they could not be looked at."""

    nodes: tuple[NodeSlots, ...] = ()
    unknown: str = ""

    @property
    def total(self) -> int | None:
        """GPUs (or shares of one) in the cluster; None: not known."""
        return None if self.unknown else sum(node.total for node in self.nodes)


class GpuSlots:
    """Reads the GPU slots of the nodes, and remembers their number."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self.total: int | None = None
        """GPUs (or shares of one) in the cluster at the last reading; None: not known."""

    async def read(self) -> Slots:
        """Read the nodes from the API server. What may not be read is in `Slots.unknown`."""
        slots = await self._read()
        self.total = slots.total
        return slots

    async def _read(self) -> Slots:
        cluster = self._context.cluster
        try:
            raw: list[dict[str, Any]] = await self._context.client.list(NODES, into=dict[str, Any])
        except Forbidden as error:
            return Slots(unknown=f"The gateway may not read nodes: {error.message} (chart value gateway.doctor)")
        except (KubeError, OSError, TimeoutError) as error:
            return Slots(unknown=f"The nodes cannot be read now: {error}")
        used: Counter[str] = Counter()
        for session in cluster.sessions.values():
            if session.status.node_name and session.status.pod_name:
                template = cluster.template(session.spec.template)
                used[session.status.node_name] += gpus_of(session, template)
        nodes = [_slots(node, used) for node in raw]
        return Slots(tuple(sorted((node for node in nodes if node.total or node.used), key=lambda node: node.name)))


def _slots(raw: dict[str, Any], used: Counter[str]) -> NodeSlots:
    node = Node(raw)
    total = sum(node.count(resource) for resource in (RESOURCE, RENAMED, *node.mig_resources))
    return NodeSlots(node.name, total, used[node.name], bool(raw.get("spec", {}).get("unschedulable")))
