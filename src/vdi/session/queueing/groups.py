"""Those who want the same, and the nodes where they may have it. Pure; used by the queue and by who explains it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vdi.session.capacity_matching import Demand, Room
from vdi.session.queueing.order import Line


@dataclass(slots=True)
class Group:
    """The line of those with one demand, and the nodes that they may be on."""

    demand: Demand
    line: Line
    rooms: dict[str, Room] = field(default_factory=dict)
    """Where placement and home allow it, whatever is free there."""
    fresh: dict[str, None] = field(default_factory=dict)
    """Nodes where room may be, in the order in which they are to be tried."""
    withheld: set[str] = field(default_factory=set)
    """Nodes where there was room, but held for somebody before them."""
    hold: str = ""
    """The node that is kept for the first of this line."""


def is_hopeless(group: Group) -> bool:
    """Whether nobody's end would make room for this line."""
    takes = group.demand.takes
    return not any(room.could_hold(takes) for room in group.rooms.values())


def stands_in_way(takes: Iterable[tuple[str, int]], room: Room, other: Group) -> bool:
    """Whether something of this size, on this node, takes what the first of another line lacks there, or would lack."""
    if room.name not in other.rooms or not room.could_hold(other.demand.takes):
        return False
    taken = dict(takes)
    return any(name in taken and room.free.get(name, 0) - taken[name] < need for name, need in other.demand.takes)


def find_closest(group: Group) -> Room | None:
    """The open node that lacks least; rather one where desktops alone stand in the way, for they end."""
    candidates = []
    for room in group.rooms.values():
        if room.closed or not room.could_hold(group.demand.takes):
            continue
        lacks = sum(max(0, need - room.free.get(name, 0)) / need for name, need in group.demand.takes)
        for_ever = any(room.has[name] - room.lasting.get(name, 0) < need for name, need in group.demand.takes)
        candidates.append((for_ever, lacks, room.name, room))
    return min(candidates, key=lambda one: one[:3])[3] if candidates else None
