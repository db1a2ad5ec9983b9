"""Placement and free capacity of nodes: the scheduler's rules as numbers. Pure.

Used by the queue, the pre-pull, the doctor and the preflight of kasm. Taints that come and go with
a node's state are not part of the placement: they close the node (`NodeCapacity.closed`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from vdi.api.template import Toleration
from vdi.cluster.objects import Node, NodeSelectorTerm, NodeStatus, Taint
from vdi.cluster.units import Amounts, amounts

# Taints of this prefix come and go with a node's state (cordoned, not ready, short of memory or
# disk).
_OF_CONDITION = "node.kubernetes.io/"
# Phrases for taints whose names do not fit after "node n is".
_STATES = {
    "memory-pressure": "short of memory",
    "disk-pressure": "short of disk",
    "pid-pressure": "short of process IDs",
    "network-unavailable": "without a network",
    "out-of-service": "out of service",
}
_KEEPS_AWAY = frozenset({"NoSchedule", "NoExecute"})
USER_NAMESPACES, IMAGE_VOLUMES = "user namespaces", "image volumes"
# The oldest versions whose default has the feature. Kernel: idmapped tmpfs, for /dev/shm and
# Secrets.
_OLDEST = {
    USER_NAMESPACES: {"kubelet": "1.33", "kernel": "6.3"},
    IMAGE_VOLUMES: {"kubelet": "1.35", "containerd": "2.1"},
}


class Need(NamedTuple):
    """A feature that a node must have, of one handler of its container runtime (a RuntimeClass;
    empty: the default).
    """

    feature: str
    handler: str = ""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A toleration with its defaults, hashable."""

    key: str
    operator: str
    value: str
    effect: str

    @classmethod
    def of(cls, given: Toleration) -> "Tolerance":
        """From a template or a pod."""
        return cls(
            given.key or "", given.operator or "Equal", given.value or "", given.effect or ""
        )

    def covers(self, taint: Taint) -> bool:
        """Whether a pod with it tolerates this taint, by the rules of Kubernetes."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True)
class Demand:
    """Capacity and placement that a pod needs. Sessions of equal demand form one group of the
    queue.
    """

    # Amounts by resource, sorted, without zeros: equal demands are equal values.
    takes: tuple[tuple[str, int], ...]
    selector: tuple[tuple[str, str], ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    # Terms that select the nodes that can reach its volume; empty: all.
    pin: tuple[NodeSelectorTerm, ...] = ()
    needs: tuple[Need, ...] = ()


def demand_of(
    takes: Amounts,
    selector: Iterable[tuple[str, str]] = (),
    tolerations: Iterable[Toleration] = (),
    pin: tuple[NodeSelectorTerm, ...] = (),
    needs: tuple[Need, ...] = (),
) -> Demand:
    """A demand in its canonical form."""
    return Demand(
        takes=tuple(sorted((name, number) for name, number in takes.items() if number > 0)),
        selector=tuple(sorted(selector)),
        tolerances=tuple(Tolerance.of(toleration) for toleration in tolerations),
        pin=pin,
        needs=needs,
    )


@dataclass(slots=True)
class NodeCapacity:
    """The capacity of one node, and what is left of it."""

    name: str
    labels: dict[str, str]
    # Taints that keep pods away, without those of the node's state.
    taints: tuple[Taint, ...]
    # The reason why it accepts no pods now, such as "cordoned"; empty: it does.
    closed: str
    allocatable: dict[str, int]
    free: dict[str, int]
    # Used by other pods than desktops: no one knows when they end.
    foreign: dict[str, int] = field(default_factory=dict)
    status: NodeStatus = field(default_factory=NodeStatus)
    # Results of `find_lack`, which each start needs of each node.
    _lacks: dict[Need, str] = field(default_factory=dict, compare=False)

    def find_lack(self, need: Need) -> str:
        """As the function `find_lack`, for this node."""
        lack = self._lacks.get(need)
        if lack is None:
            lack = self._lacks[need] = find_lack(self.status, need)
        return lack

    def fits(self, takes: Iterable[tuple[str, int]]) -> bool:
        """Whether this much is free."""
        free = self.free
        # The hottest loop of the queue: twice as fast as all().
        for name, number in takes:  # noqa: SIM110
            if free.get(name, 0) < number:
                return False
        return True

    def could_fit(self, takes: Iterable[tuple[str, int]]) -> bool:
        """Whether this much would be free on the empty node."""
        allocatable = self.allocatable
        for name, number in takes:  # noqa: SIM110 -- as in `fits`
            if allocatable.get(name, 0) < number:
                return False
        return True

    def take(self, takes: Amounts, sign: int) -> None:
        """Subtract (`sign` 1) or give back (-1) what a pod takes."""
        free = self.free
        for name, number in takes.items():
            free[name] = free.get(name, 0) - sign * number


def find_lack(status: NodeStatus, need: Need) -> str:
    """A node's lack for a feature, such as "kernel 5.15.0 (6.3 or newer is needed)"; empty: the
    feature works.
    """
    # Fails closed: what a node does not report, it does not have. The kubelet refuses `hostUsers:
    # false` by the same report of its runtime.
    info = status.node_info
    runtime, _, version = info.container_runtime_version.partition("://")
    versions = {"kubelet": info.kubelet_version, "kernel": info.kernel_version, runtime: version}
    lacks = []
    for program, oldest in _OLDEST[need.feature].items():
        if program in versions and _numbers(versions[program]) < _numbers(oldest):
            lacks.append(
                f"{program} {versions[program] or 'of unknown version'} ({oldest} or newer is needed)"
            )
    able = []
    for one in status.runtime_handlers:
        if one.features.get("userNamespaces"):
            able.append(one.name)
    if need.feature == USER_NAMESPACES and need.handler not in able:
        of_handler = ""
        if need.handler:
            of_handler = f" for the runtime class {need.handler}"
        lacks.append(
            f"{runtime or 'a runtime'} {version}".rstrip() + f" without user namespaces{of_handler}"
        )
    return " and ".join(lacks)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall("[0-9]{1,9}", version)[:2]))


def read_capacity(node: Node) -> NodeCapacity:
    """The capacity of the empty node. Raises ValueError if an allocatable resource is no
    quantity.
    """
    allocatable = amounts(node.status.allocatable)
    keeping = [taint for taint in node.spec.taints if taint.effect in _KEEPS_AWAY]
    return NodeCapacity(
        name=node.metadata.name,
        labels=node.metadata.labels,
        taints=tuple(one for one in keeping if not one.key.startswith(_OF_CONDITION)),
        closed=_why_closed(node, [one.key for one in keeping if one.key.startswith(_OF_CONDITION)]),
        allocatable=allocatable,
        free=dict(allocatable),
        status=node.status,
    )


def _why_closed(node: Node, taints: list[str]) -> str:
    if node.metadata.deletion_timestamp:
        return "being deleted"
    if node.spec.unschedulable:
        return "cordoned"
    if not node.ready:
        return "not ready"
    names = (key.removeprefix(_OF_CONDITION) for key in taints)
    return " and ".join(_STATES.get(name, name) for name in names)


def allows_placement(demand: Demand, capacity: NodeCapacity) -> bool:
    """Whether labels, taints and features of this node fit, whatever its state."""
    labels = capacity.labels
    if any(labels.get(key) != value for key, value in demand.selector):
        return False
    if any(capacity.find_lack(need) for need in demand.needs):
        return False
    return all(
        any(tolerance.covers(taint) for tolerance in demand.tolerances) for taint in capacity.taints
    )


def reaches_home(demand: Demand, capacity: NodeCapacity) -> bool:
    """Whether this node can reach the volume of the home."""
    return not demand.pin or any(term.means(capacity.name, capacity.labels) for term in demand.pin)
