"""Why somebody waits for room, and until when at most: in words and times for the person who waits. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vdi.session.capacity import PODS, Amounts, Expression, Term
from vdi.session.capacity_matching import Demand, Room, is_home, is_placed
from vdi.session.conditions import Reason
from vdi.session.queueing.groups import Group

_USUAL = ("memory", "cpu", PODS)
_BUSY = {"memory": Reason.MEMORY_BUSY, "cpu": Reason.CPU_BUSY, PODS: Reason.PODS_BUSY}
_NAMED = 3
"""So many nodes are named; of more, how many there are."""


@dataclass(frozen=True, slots=True)
class Shortage:
    """What there is too little of."""

    reason: str
    """One of `conditions.QUEUE_REASONS`."""
    words: str
    """A clause: no capital at its beginning, no full stop."""
    hopeless: bool = False
    """Nobody's end would make room: the cluster, the template or the session has to change."""


@dataclass(frozen=True, slots=True)
class Ending:
    """A desktop that runs, and when it ends at the latest (milliseconds since the epoch)."""

    at: int
    node: str
    takes: Amounts


def explain_shortage(group: Group, rooms: Mapping[str, Room], roomy: Callable[[Demand], Sequence[Room]]) -> Shortage:
    """Why nobody in this line can go now. `roomy`: the nodes where such a demand would fit, wherever its home is."""
    demand = group.demand
    if not rooms:
        return Shortage(Reason.NODES_UNAVAILABLE, "the cluster has no node", hopeless=True)
    if not group.rooms:
        return _explain_placement(demand, list(rooms.values()))
    here = list(group.rooms.values())
    offering = [room for room in here if all(room.has.get(name, 0) for name, _ in _extended(demand))]
    if not offering:
        names = _join(name for name, _ in _extended(demand))
        return Shortage(Reason.NO_GPUS, f"{_none_of(here)} offers {names}", hopeless=True)
    large = [room for room in offering if room.could_hold(demand.takes)]
    if not large:
        return Shortage(Reason.TOO_LARGE, _too_large(demand, offering), hopeless=True)
    closed = [room for room in large if room.closed]
    if len(closed) == len(large):
        words = _join([f"node {room.name} is {room.closed}" for room in closed[:_NAMED]])
        more = f", and so are {len(closed) - _NAMED} more" if len(closed) > _NAMED else ""
        return Shortage(Reason.NODES_UNAVAILABLE, words + more)
    return _explain_busy(demand, [room for room in large if not room.closed], roomy)


def find_roomy(demand: Demand, rooms: Iterable[Room]) -> list[Room]:
    """The nodes where this would fit if the home were of no account."""
    takes = demand.takes
    return [room for room in rooms if not room.closed and room.fits(takes) and is_placed(demand, room)]


def expect_slots(group: Group, endings: Iterable[Ending], count: int) -> list[int]:
    """When, at the latest, there will be a first, second, ... place for this line; `endings` sorted by time.

    As if nobody of another line took any of it.
    """
    takes = dict(group.demand.takes)
    free: dict[str, dict[str, int]] = {}
    places: dict[str, int] = {}
    found: list[int] = []
    for ending in endings:
        if len(found) >= count:
            break
        room = group.rooms.get(ending.node)
        if room is None or room.closed:
            continue
        if ending.node not in free:
            free[ending.node] = dict(room.free)
            places[ending.node] = _places(room.free, takes)
        left = free[ending.node]
        for name, number in ending.takes.items():
            left[name] = left.get(name, 0) + number
        now_places = _places(left, takes)
        found += [ending.at] * (now_places - places[ending.node])
        places[ending.node] = now_places
    return found[:count]


def _places(free: Amounts, takes: Amounts) -> int:
    return max(0, min(free.get(name, 0) // number for name, number in takes.items()))


def _explain_placement(demand: Demand, rooms: Sequence[Room]) -> Shortage:
    if demand.pin:
        homes = [room for room in rooms if is_home(demand, room)]
        if not homes:
            words = f"the home is on {_pinned_to(demand.pin)}, which is not in the cluster"
            return Shortage(Reason.HOME_NODE_GONE, words, hopeless=True)
        words = f"the home is on {_names(homes)}, where the template's placement does not allow this desktop"
        return Shortage(Reason.NO_MATCHING_NODE, words, hopeless=True)
    labelled = [room for room in rooms if all(room.labels.get(key) == value for key, value in demand.selector)]
    if not labelled:
        wanted = _join(f"{key}={value}" for key, value in demand.selector)
        words = f"{_none_of(rooms)} has the label {wanted} that the template's placement asks for"
    else:
        taints = sorted({f"{one.key}={one.value}:{one.effect}" for room in labelled for one in room.taints})
        words = f"{_names(labelled)}: kept for others by a taint that the template does not tolerate ({_join(taints)})"
    return Shortage(Reason.NO_MATCHING_NODE, words, hopeless=True)


def _explain_busy(demand: Demand, rooms: list[Room], roomy: Callable[[Demand], Sequence[Room]]) -> Shortage:
    fitting = [room for room in rooms if room.fits(demand.takes)]
    if fitting:
        words = f"the room on {_names(fitting)} is kept for a session that has waited longer"
        return Shortage(Reason.RESERVED, words)
    order = [name for name, _ in _extended(demand)] + list(_USUAL)
    wanted = dict(demand.takes)
    short = {name: [r for r in rooms if r.free.get(name, 0) < wanted[name]] for name in order if name in wanted}
    name = max(short, key=lambda one: len(short[one])) if any(short.values()) else order[0]
    words = _busy_words(name, wanted[name], rooms)
    if len(short[name]) < len(rooms):
        others = [one for one in short if one != name and short[one]]
        words += f"; elsewhere there is too little {_join(_noun(one) for one in others)}"
    elsewhere = roomy(demand) if demand.pin else ()
    if elsewhere:
        words = f"the home is on {_names(rooms)}, and there {words}; the room on {_names(elsewhere)} is of no use to it"
        return Shortage(Reason.HOME_NODE_FULL, words)
    return Shortage(_BUSY.get(name, Reason.GPUS_BUSY), words)


def _busy_words(name: str, wanted: int, rooms: Sequence[Room]) -> str:
    most = max(rooms, key=lambda room: room.free.get(name, 0))
    left = max(0, most.free.get(name, 0))
    where = _names(rooms)
    if name == PODS:
        return f"{where}: as many pods as allowed ({sum(room.has.get(name, 0) for room in rooms)})"
    if name in _USUAL:
        total = f" of {_amount(name, most.has.get(name, 0))}" if len(rooms) == 1 else ""
        at = f"{where} has {_amount(name, left)}{total} free" if len(rooms) == 1 else f"{_most(name, left, most)}"
        return f"{_amount(name, wanted)} of {_noun(name)} is needed, and {at}"
    total_number = sum(room.has.get(name, 0) for room in rooms)
    lasting = sum(room.lasting.get(name, 0) for room in rooms)
    by_others = f" ({lasting} by other workloads)" if lasting else ""
    if left:
        return f"{wanted} {name} are needed on one node, and {_most(name, left, most)}"
    return (
        f"all {total_number} {name} on {where} are in use{by_others}"
        if total_number > 1
        else (f"the one {name} on {where} is in use{by_others}")
    )


def _most(name: str, left: int, room: Room) -> str:
    return f"the most that is free is {_amount(name, left)}, on node {room.name}"


def _too_large(demand: Demand, rooms: Sequence[Room]) -> str:
    parts = []
    for name, wanted in demand.takes:
        most = max(room.has.get(name, 0) for room in rooms)
        if most < wanted:
            parts.append(f"{_amount(name, wanted)} of {_noun(name)}, where the largest node has {_amount(name, most)}")
    if parts:
        return f"it needs {_join(parts)}"
    needed = [f"{_amount(name, wanted)} of {_noun(name)}" for name, wanted in demand.takes if name != PODS]
    return f"no single node has all that it needs ({_join(needed)})"


def _extended(demand: Demand) -> list[tuple[str, int]]:
    return [(name, number) for name, number in demand.takes if name not in _USUAL]


def _pinned_to(pin: tuple[Term, ...]) -> str:
    """The hosts that a volume names; local-path names one."""

    def hosts(expressions: tuple[Expression, ...]) -> Iterable[str]:
        return (value for one in expressions if one.operator == "In" for value in one.values)

    named = [host for term in pin for host in (*hosts(term.match_expressions), *hosts(term.match_fields))]
    return f"node {_join(named[:_NAMED])}" if named else "a node"


def _none_of(rooms: Sequence[Room]) -> str:
    return f"none of {len(rooms)} nodes" if len(rooms) != 1 else f"no node (there is only {rooms[0].name})"


def _names(rooms: Sequence[Room]) -> str:
    names = sorted(room.name for room in rooms)
    if len(names) > _NAMED:
        return f"{len(names)} nodes"
    return f"{'node' if len(names) == 1 else 'nodes'} {_join(names)}"


def _noun(name: str) -> str:
    return {"cpu": "CPU", PODS: "pods"}.get(name, name)


def _amount(name: str, number: int) -> str:
    """`500m`, `4`, `1.5Gi`: rounded down, as what is free."""
    if name == "cpu":
        return str(number // 1000) if number % 1000 == 0 else f"{number}m"
    if name == "memory":
        for unit, size in (("Gi", 2**30), ("Mi", 2**20)):
            if number >= size:
                return f"{int(number * 10 / size) / 10:g}{unit}"
        return f"{number // 2**10}Ki"
    return str(number)


def _join(parts: Iterable[str]) -> str:
    every = list(parts)
    return " and ".join([", ".join(every[:-1]), every[-1]]) if len(every) > 1 else "".join(every)
