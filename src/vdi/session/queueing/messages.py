"""Messages of sessions in the queue: the resource that is short, and the latest time of a free
slot. Pure.

The operator publishes them in `status.queue` and the condition Admitted; the doctor gives the same
reasons.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vdi.cluster.capacity import Demand, NodeCapacity, allows_placement, reaches_home
from vdi.cluster.objects import NodeSelectorRequirement, NodeSelectorTerm
from vdi.cluster.units import EPHEMERAL_STORAGE, PODS, Amounts
from vdi.session.conditions import Reason
from vdi.session.queueing.groups import Group

_USUAL = ("memory", "cpu", EPHEMERAL_STORAGE, PODS)
_BUSY = {
    "memory": Reason.MEMORY_BUSY,
    "cpu": Reason.CPU_BUSY,
    EPHEMERAL_STORAGE: Reason.EPHEMERAL_STORAGE_BUSY,
    PODS: Reason.PODS_BUSY,
}
# Up to so many nodes are named; for more, their number.
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Shortage:
    """The resource that is short, or another reason to wait."""

    # One of `conditions.QUEUE_REASONS`.
    reason: str
    # A clause without a capital and a full stop.
    words: str
    # The end of no desktop would help: the cluster, the template or the session has to change.
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class ExpectedEnd:
    """A running desktop, and the latest time of its end in milliseconds since the epoch."""

    at: int
    node: str
    takes: Amounts


def place_in_line(position: int) -> str:
    """The place of a waiting session (`status.queue.position`) as every interface names it; 0: it
    has none.
    """
    if position:
        return f"number {position} in line"
    return "no node can run it"


def waiting_message(position: int, why: str, slot: str, *, is_dated: bool) -> str:
    """The sentence of a waiting session: why it waits, and the latest time at which it can start.

    `why`: a clause. `slot`: that time, RFC 3339; empty: not known. `is_dated`: the time of day
    alone would mislead.
    """
    if not position:
        return (
            f"No node can run this desktop, and none will become free: {why}. It starts when that"
            " changes."
        )
    waiting = f"Waiting for capacity, {place_in_line(position)}: {why}."
    if not slot:
        return waiting
    time = slot if is_dated else f"{slot[11:16]} UTC"
    return f"{waiting} Capacity is expected by {time}."


def explain_shortage(
    group: Group,
    capacities: Mapping[str, NodeCapacity],
    fitting_anywhere: Callable[[Demand], Sequence[NodeCapacity]],
) -> Shortage:
    """The reason why no session of this group can start now.

    `fitting_anywhere`: the nodes where such a demand would fit if its home did not matter.
    """
    demand = group.demand
    if not capacities:
        return Shortage(Reason.NODES_UNAVAILABLE, "the cluster has no node", hopeless=True)
    if not group.capacities:
        return _explain_placement(demand, list(capacities.values()))
    here = list(group.capacities.values())
    offering = []
    for capacity in here:
        if all(capacity.allocatable.get(name, 0) for name, _ in extended(demand)):
            offering.append(capacity)
    if not offering:
        names = _join(name for name, _ in extended(demand))
        return Shortage(Reason.NO_GPUS, f"{_none_of(here)} offers {names}", hopeless=True)
    large = [capacity for capacity in offering if capacity.could_fit(demand.takes)]
    if not large:
        return Shortage(Reason.TOO_LARGE, _too_large(demand, offering), hopeless=True)
    closed = [capacity for capacity in large if capacity.closed]
    if len(closed) == len(large):
        reasons = _join(
            [f"node {capacity.name} is {capacity.closed}" for capacity in closed[:_NAMED]]
        )
        more = ""
        if len(closed) > _NAMED:
            more = f", and so are {len(closed) - _NAMED} more"
        home = f"the home is on {_names(closed)}, and " if demand.pin else ""
        return Shortage(Reason.NODES_UNAVAILABLE, home + reasons + more)
    return _explain_busy(
        demand, [capacity for capacity in large if not capacity.closed], fitting_anywhere
    )


def find_fitting(demand: Demand, capacities: Iterable[NodeCapacity]) -> list[NodeCapacity]:
    """The nodes where this demand would fit if its home did not matter."""
    takes = demand.takes
    return [
        capacity
        for capacity in capacities
        if not capacity.closed and capacity.fits(takes) and allows_placement(demand, capacity)
    ]


def expect_slots(group: Group, endings: Iterable[ExpectedEnd], count: int) -> list[int]:
    """The latest times of the first `count` free slots for this group. `endings` are sorted by
    time.

    An upper bound only if no session of another group takes any of them.
    """
    takes = dict(group.demand.takes)
    free: dict[str, dict[str, int]] = {}
    places: dict[str, int] = {}
    slots: list[int] = []
    for ending in endings:
        if len(slots) >= count:
            break
        capacity = group.capacities.get(ending.node)
        if capacity is None or capacity.closed:
            continue
        if ending.node not in free:
            free[ending.node] = dict(capacity.free)
            places[ending.node] = _places(capacity.free, takes)
        left = free[ending.node]
        for name, number in ending.takes.items():
            left[name] = left.get(name, 0) + number
        now_places = _places(left, takes)
        slots += [ending.at] * (now_places - places[ending.node])
        places[ending.node] = now_places
    return slots[:count]


def _places(free: Amounts, takes: Amounts) -> int:
    return max(0, min(free.get(name, 0) // number for name, number in takes.items()))


def _explain_placement(demand: Demand, capacities: Sequence[NodeCapacity]) -> Shortage:
    plain = replace(demand, needs=())
    suitable = []
    for node in capacities:
        if allows_placement(plain, node) and reaches_home(demand, node):
            suitable.append(node)
    if suitable:
        lacks = {one.name: [one.find_lack(need) for need in demand.needs] for one in suitable}
        lacking = [
            f"node {name} has {_join(filter(None, lacking_parts))}"
            for name, lacking_parts in lacks.items()
        ]
        message = (
            f"the template needs {_join(need.feature for need in demand.needs)}, but"
            f" {_join(lacking[:_NAMED])}"
        )
        more = ""
        if len(lacking) > _NAMED:
            more = f", and {len(lacking) - _NAMED} more have too little"
        return Shortage(Reason.NODE_FEATURE_MISSING, message + more, hopeless=True)
    if demand.pin:
        homes = [capacity for capacity in capacities if reaches_home(demand, capacity)]
        if not homes:
            message = f"the home is on {_pinned_to(demand.pin)}, which is not in the cluster"
            return Shortage(Reason.HOME_NODE_GONE, message, hopeless=True)
        message = (
            f"the home is on {_names(homes)}, where the template's placement does not allow this"
            " desktop"
        )
        return Shortage(Reason.NO_MATCHING_NODE, message, hopeless=True)
    labelled = []
    for capacity in capacities:
        if all(capacity.labels.get(key) == value for key, value in demand.selector):
            labelled.append(capacity)
    if not labelled:
        desired = _join(f"{key}={value}" for key, value in demand.selector)
        message = (
            f"{_none_of(capacities)} has the label {desired} that the template's placement requires"
        )
    else:
        taints = sorted(
            {
                f"{taint.key}={taint.value}:{taint.effect}"
                for capacity in labelled
                for taint in capacity.taints
            }
        )
        message = (
            f"{_names(labelled)}: reserved by a taint that the template does not tolerate"
            f" ({_join(taints)})"
        )
    return Shortage(Reason.NO_MATCHING_NODE, message, hopeless=True)


def _explain_busy(
    demand: Demand,
    capacities: list[NodeCapacity],
    fitting_anywhere: Callable[[Demand], Sequence[NodeCapacity]],
) -> Shortage:
    fitting = [capacity for capacity in capacities if capacity.fits(demand.takes)]
    if fitting:
        message = (
            f"the capacity of {_names(fitting)} is reserved for a session that has waited longer"
        )
        return Shortage(Reason.RESERVED, message)
    order = [name for name, _ in extended(demand)] + list(_USUAL)
    desired = dict(demand.takes)
    short = {
        name: [r for r in capacities if r.free.get(name, 0) < desired[name]]
        for name in order
        if name in desired
    }
    if any(short.values()):
        name = max(short, key=lambda one: len(short[one]))
    else:
        name = order[0]
    message = _busy_words(name, desired[name], capacities)
    if len(short[name]) < len(capacities):
        others = [one for one in short if one != name and short[one]]
        message += f"; other nodes have too little {_join(_noun(other) for other in others)}"
    elsewhere = fitting_anywhere(demand) if demand.pin else ()
    if elsewhere:
        message += f"; the capacity of {_names(elsewhere)} does not help it"
        return Shortage(
            Reason.HOME_NODE_FULL, f"the home is on {_names(capacities)}, where {message}"
        )
    return Shortage(_BUSY.get(name, Reason.GPUS_BUSY), message)


def _busy_words(name: str, desired: int, capacities: Sequence[NodeCapacity]) -> str:
    most = max(capacities, key=lambda capacity: capacity.free.get(name, 0))
    left = max(0, most.free.get(name, 0))
    where = _names(capacities)
    if name == PODS:
        return (
            f"{where}: the maximum number of pods"
            f" ({sum(capacity.allocatable.get(name, 0) for capacity in capacities)})"
        )
    if name in _USUAL:
        if len(capacities) == 1:
            total = _amount(name, most.allocatable.get(name, 0))
            at = f"{where} has {_amount(name, left)} of {total} free"
        else:
            at = _most(name, left, most)
        return f"{_amount(name, desired)} of {_noun(name)} is needed, but {at}"
    total_number = sum(capacity.allocatable.get(name, 0) for capacity in capacities)
    foreign = sum(capacity.foreign.get(name, 0) for capacity in capacities)
    by_others = f" ({foreign} by other workloads)" if foreign else ""
    if left:
        return f"{desired} {name} are needed on one node, but {_most(name, left, most)}"
    if total_number > 1:
        return f"all {total_number} {name} on {where} are in use{by_others}"
    return f"the only {name} on {where} is in use{by_others}"


def _most(name: str, left: int, capacity: NodeCapacity) -> str:
    return f"the most that is free is {_amount(name, left)}, on node {capacity.name}"


def _too_large(demand: Demand, capacities: Sequence[NodeCapacity]) -> str:
    parts = []
    for name, desired in demand.takes:
        most = max(capacity.allocatable.get(name, 0) for capacity in capacities)
        if most < desired:
            parts.append(
                f"{_amount(name, desired)} of {_noun(name)}, but the largest node has"
                f" {_amount(name, most)}"
            )
    if parts:
        return f"it needs {_join(parts)}"
    needed = [
        f"{_amount(name, desired)} of {_noun(name)}"
        for name, desired in demand.takes
        if name != PODS
    ]
    return f"no single node has everything that is needed ({_join(needed)})"


def extended(demand: Demand) -> list[tuple[str, int]]:
    """The demand for extended resources: GPUs."""
    return [(name, number) for name, number in demand.takes if name not in _USUAL]


def _pinned_to(pin: tuple[NodeSelectorTerm, ...]) -> str:
    """The hosts that a volume names; local-path names one."""

    def hosts(expressions: tuple[NodeSelectorRequirement, ...]) -> Iterable[str]:
        return (
            value
            for expression in expressions
            if expression.operator == "In"
            for value in expression.values
        )

    named = [
        host for term in pin for host in (*hosts(term.match_expressions), *hosts(term.match_fields))
    ]
    if named:
        return f"node {_join(named[:_NAMED])}"
    return "a node"


def _none_of(capacities: Sequence[NodeCapacity]) -> str:
    if len(capacities) != 1:
        return f"none of {len(capacities)} nodes"
    return f"no node (there is only {capacities[0].name})"


def _names(capacities: Sequence[NodeCapacity]) -> str:
    names = sorted(capacity.name for capacity in capacities)
    if len(names) > _NAMED:
        return f"{len(names)} nodes"
    return f"{'node' if len(names) == 1 else 'nodes'} {_join(names)}"


def _noun(name: str) -> str:
    return {"cpu": "CPU", EPHEMERAL_STORAGE: "ephemeral storage", PODS: "pods"}.get(name, name)


def _amount(name: str, number: int) -> str:
    """`500m`, `4`, `1.5Gi`: rounded down, as what is free."""
    if name == "cpu":
        if number % 1000 == 0:
            return str(number // 1000)
        return f"{number}m"
    if name in ("memory", EPHEMERAL_STORAGE):
        for unit, size in (("Gi", 2**30), ("Mi", 2**20)):
            if number >= size:
                return f"{int(number * 10 / size) / 10:g}{unit}"
        return f"{number // 2**10}Ki"
    return str(number)


def _join(parts: Iterable[str]) -> str:
    every = list(parts)
    if len(every) > 1:
        return " and ".join([", ".join(every[:-1]), every[-1]])
    return "".join(every)
