"""Those who want the same, and the nodes where they may have it. Pure; used by the queue and by who explains it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vdi.session.capacity_matching import Demand, NodeCapacity
from vdi.session.queueing.order import GroupQueue


@dataclass(slots=True)
class Group:
    """The waiting sessions of one demand, and the nodes that they may be on."""

    demand: Demand
    queue: GroupQueue
    capacities: dict[str, NodeCapacity] = field(default_factory=dict)
    """Where placement and home allow it, whatever is free there."""
    fresh: dict[str, None] = field(default_factory=dict)
    """Nodes where room may be, in the order in which they are to be tried."""
    withheld: set[str] = field(default_factory=set)
    """Nodes where there was room, but held for somebody before them."""
    hold: str = ""
    """The node that is kept for the first of this line."""

    def try_withheld_again(self) -> bool:
        """Have the withheld nodes tried too. False: no node is withheld."""
        found = bool(self.withheld)
        self.fresh.update(dict.fromkeys(self.withheld))
        self.withheld.clear()
        return found


def is_hopeless(group: Group) -> bool:
    """Whether no session's end would make room for this group."""
    takes = group.demand.takes
    return not any(capacity.could_fit(takes) for capacity in group.capacities.values())


def blocks(takes: Iterable[tuple[str, int]], capacity: NodeCapacity, other: Group) -> bool:
    """Whether something of this size, on this node, takes what the first of another line lacks there, or would lack."""
    if capacity.name not in other.capacities or not capacity.could_fit(other.demand.takes):
        return False
    taken = dict(takes)
    return any(name in taken and capacity.free.get(name, 0) - taken[name] < need for name, need in other.demand.takes)


def find_closest(group: Group) -> NodeCapacity | None:
    """The open node that lacks least; rather one where desktops alone stand in the way, for they end."""
    candidates = []
    for capacity in group.capacities.values():
        if capacity.closed or not capacity.could_fit(group.demand.takes):
            continue
        lacks = sum(max(0, need - capacity.free.get(name, 0)) / need for name, need in group.demand.takes)
        for_ever = any(
            capacity.allocatable[name] - capacity.foreign.get(name, 0) < need for name, need in group.demand.takes
        )
        candidates.append((for_ever, lacks, capacity.name, capacity))
    return min(candidates, key=lambda candidate: candidate[:3])[3] if candidates else None
