"""Placement and free capacity of nodes: the scheduler's rules as numbers. Pure.

Used by the queue, the pre-pull, the doctor and the preflight of kasm. Taints that come and go with a node's state
are not part of the placement: they close the node (`NodeCapacity.closed`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vdi.api.template import Toleration
from vdi.cluster.features import Need, find_missing
from vdi.cluster.objects import Node, NodeInfo, NodeSelectorTerm, RuntimeHandler, Taint
from vdi.cluster.units import Amounts, amounts

# Taints of this prefix come and go with a node's state (cordoned, not ready, short of memory or disk).
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
        return cls(given.key or "", given.operator or "Equal", given.value or "", given.effect or "")

    def covers(self, taint: Taint) -> bool:
        """Whether a pod with it tolerates this taint, by the rules of Kubernetes."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True)
class Demand:
    """Capacity and placement that a pod needs. Sessions of equal demand form one group of the queue."""

    # Amounts by resource, sorted, without zeros: equal demands are equal values.
    takes: tuple[tuple[str, int], ...]
    selector: tuple[tuple[str, str], ...] = ()
    tolerances: tuple[Tolerance, ...] = ()
    # Terms that select the nodes that can reach its volume; empty: all.
    pin: tuple[NodeSelectorTerm, ...] = ()
    # Features that the node must have.
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
    info: NodeInfo = field(default_factory=NodeInfo)
    handlers: tuple[RuntimeHandler, ...] = ()

    def lacks(self, need: Need) -> str:
        """What this node lacks for a feature, as a clause; empty: nothing."""
        return find_missing(need, self.info, self.handlers)

    def fits(self, takes: Iterable[tuple[str, int]]) -> bool:
        """Whether this much is free."""
        free = self.free
        for name, number in takes:  # noqa: SIM110 -- the hottest loop of the queue: twice as fast as all()
            if free.get(name, 0) < number:
                return False
        return True

    def could_fit(self, takes: Iterable[tuple[str, int]]) -> bool:
        """Whether this much would be free on the empty node."""
        return all(self.allocatable.get(name, 0) >= number for name, number in takes)

    def take(self, takes: Amounts, sign: int) -> None:
        """Subtract (`sign` 1) or give back (-1) what a pod takes."""
        free = self.free
        for name, number in takes.items():
            free[name] = free.get(name, 0) - sign * number


def read_capacity(node: Node) -> NodeCapacity:
    """The capacity of the empty node. Raises ValueError if an allocatable resource is no quantity."""
    allocatable = amounts(node.status.allocatable)
    keeping = [taint for taint in node.spec.taints if taint.effect in _KEEPS_AWAY]
    return NodeCapacity(
        name=node.metadata.name,
        labels=node.metadata.labels,
        taints=tuple(one for one in keeping if not one.key.startswith(_OF_CONDITION)),
        closed=_why_closed(node, [one.key for one in keeping if one.key.startswith(_OF_CONDITION)]),
        allocatable=allocatable,
        free=dict(allocatable),
        info=node.status.node_info,
        handlers=node.status.runtime_handlers,
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
    if any(labels.get(key) != value for key, value in demand.selector) or any(map(capacity.lacks, demand.needs)):
        return False
    return all(any(tolerance.covers(taint) for tolerance in demand.tolerances) for taint in capacity.taints)


def reaches_home(demand: Demand, capacity: NodeCapacity) -> bool:
    """Whether this node can reach the volume of the home."""
    return not demand.pin or any(term.means(capacity.name, capacity.labels) for term in demand.pin)
