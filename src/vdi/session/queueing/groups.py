"""Pending sessions of equal demand, in the order in which they start, and the nodes where they may
run. Pure.

    priority plus one point per ten minutes of waiting -> running desktops of the user per weight -> oldest -> uid

Incremental: a change costs little however many sessions wait. Of one user's pending sessions of one
priority the oldest is always first, so only the first of each such row is compared.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from operator import itemgetter

from vdi.cluster.capacity import Demand, NodeCapacity

# Milliseconds of waiting that count as much as one point of priority.
AGEING = 600_000
# Smaller is sooner.
Key = tuple[int, float, int, str]
# `share_of` a user, with the desktops that run now.
Share = Callable[[str], float]
_Row = tuple[str, int]


@dataclass(frozen=True, slots=True)
class PendingSession:
    """A session in the queue. Times are milliseconds since the epoch: exact, unlike floats."""

    uid: str
    user: str
    priority: int
    since: int
    demand: Demand

    def points(self, now: int) -> int:
        """Priority plus one point for each `AGEING` of waiting."""
        return self.priority + max(0, now - self.since) // AGEING

    def waited(self, now: int) -> int:
        return max(0, now - self.since)


def share_of(user: str, running: Mapping[str, int], weights: Mapping[str, float]) -> float:
    """Running desktops of a user, divided by the user's weight; the smaller share goes first.

    The same for all of a user's pending sessions: `GroupQueue` compares them by it once for the
    user.
    """
    return running.get(user, 0) / weights.get(user, 1.0)


def sort_pending(
    pending_sessions: Iterable[PendingSession],
    running: Mapping[str, int],
    weights: Mapping[str, float],
    now: int,
) -> list[PendingSession]:
    """The order in which they would start if slots that fit every session became free one after the
    other.

    A session that starts counts as running for the later ones of its user.
    """
    first = [
        (-pending_session.points(now), pending_session.since, pending_session.uid, pending_session)
        for pending_session in pending_sessions
    ]
    first.sort(key=_sort_key)
    ahead = dict(running)
    keyed = []
    for points, since, uid, pending in first:
        user = pending.user
        keyed.append(((points, share_of(user, ahead, weights), since, uid), pending))
        ahead[user] = ahead.get(user, 0) + 1
    keyed.sort(key=itemgetter(0))
    return [pending for _, pending in keyed]


_sort_key = itemgetter(0, 1, 2)


class GroupQueue:
    """The pending sessions of one demand. Finds the first without looking at all of them."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._pending: dict[str, PendingSession] = {}
        self._rows: dict[_Row, list[tuple[int, str]]] = {}
        self._of_user: dict[str, set[_Row]] = defaultdict(set)
        self._heap: list[tuple[Key, _Row]] = []
        self._pushed: dict[
            _Row, Key
        ] = {}  # newest key of each row in the heap; entries with others are void
        self._steps: list[
            tuple[int, _Row]
        ] = []  # when the first of a row gets its next point of priority
        self._oldest: list[tuple[int, str]] = []  # including sessions that have left

    def __len__(self) -> int:
        return len(self._pending)

    def __iter__(self) -> Iterator[PendingSession]:
        return iter(self._pending.values())

    def add(self, pending: PendingSession, now: int) -> None:
        """Add a session that is not in this queue yet."""
        row = (pending.user, pending.priority)
        self._pending[pending.uid] = pending
        insort(self._rows.setdefault(row, []), (pending.since, pending.uid))
        self._of_user[pending.user].add(row)
        heappush(self._oldest, (pending.since, pending.uid))
        self._push(row, now)

    def remove(self, uid: str, now: int) -> None:
        pending = self._pending.pop(uid)
        row = (pending.user, pending.priority)
        entries = self._rows[row]
        del entries[bisect_left(entries, (pending.since, uid))]
        if entries:
            self._push(row, now)
            return
        del self._rows[row]
        self._pushed.pop(row, None)
        self._of_user[pending.user].discard(row)
        if not self._of_user[pending.user]:
            del self._of_user[pending.user]
        if not self._rows:
            self._heap.clear()
            self._steps.clear()
            self._oldest.clear()

    def share_changed(self, user: str, now: int) -> None:
        """Reorder after a desktop of this user has started or ended."""
        for row in self._of_user.get(user, ()):
            self._push(row, now)

    def first(self, now: int) -> tuple[Key, PendingSession] | None:
        """The next session, with the key that it is compared by; None when the queue is empty."""
        while self._steps and self._steps[0][0] <= now:
            _, row = heappop(self._steps)
            if row in self._rows:
                self._push(row, now)
        while self._heap:
            key, row = self._heap[0]
            if self._pushed.get(row) != key:
                heappop(self._heap)
                continue
            pending = self._pending[self._rows[row][0][1]]
            actual = self.key(pending, now)
            if actual == key:
                return key, pending
            heappop(self._heap)
            self._push(row, now)
        return None

    def oldest(self) -> int | None:
        """The time since when the longest waiting session waits."""
        while self._oldest and not self._is_current(*self._oldest[0]):
            heappop(self._oldest)
        return self._oldest[0][0] if self._oldest else None

    def _is_current(self, since: int, uid: str) -> bool:
        """Whether the session still waits, since that time: one that comes back starts again at the
        end.
        """
        pending = self._pending.get(uid)
        return pending is not None and pending.since == since

    def key(self, pending: PendingSession, now: int) -> Key:
        """The place of a session in the order, also of one that is not in this queue."""
        return -pending.points(now), self._share(pending.user), pending.since, pending.uid

    def _push(self, row: _Row, now: int) -> None:
        pending = self._pending[self._rows[row][0][1]]
        key = self.key(pending, now)
        if self._pushed.get(row) == key:
            return
        self._pushed[row] = key
        heappush(self._heap, (key, row))
        heappush(self._steps, (self._next_step(row, now), row))
        if len(self._heap) > 64 + 4 * len(self._rows):
            self._heap = [(of_row, one) for one, of_row in self._pushed.items()]
            heapify(self._heap)
        if len(self._steps) > 64 + 4 * len(self._rows):
            self._steps = [(self._next_step(row, now), row) for row in self._rows]
            heapify(self._steps)

    def _next_step(self, row: _Row, now: int) -> int:
        since = self._rows[row][0][0]
        return since + (max(0, now - since) // AGEING + 1) * AGEING


@dataclass(slots=True)
class Group:
    """The pending sessions of one demand, and the nodes that they may be on."""

    demand: Demand
    queue: GroupQueue
    # Nodes that placement and home allow, whatever is free there.
    capacities: dict[str, NodeCapacity] = field(default_factory=dict)
    # Nodes that may have capacity, in the order in which they are tried.
    fresh: dict[str, None] = field(default_factory=dict)
    # Nodes that had capacity, but reserved for an earlier session.
    withheld: set[str] = field(default_factory=set)
    # The node that is reserved for the first session of this group.
    hold: str = ""

    def try_withheld_again(self) -> bool:
        """Try the withheld nodes again. False: there are none."""
        had_withheld = bool(self.withheld)
        self.fresh.update(dict.fromkeys(self.withheld))
        self.withheld.clear()
        return had_withheld


def is_hopeless(group: Group) -> bool:
    """Whether the end of no desktop would free enough capacity for this group."""
    takes = group.demand.takes
    return not any(capacity.could_fit(takes) for capacity in group.capacities.values())


def blocks(takes: Iterable[tuple[str, int]], capacity: NodeCapacity, other: Group) -> bool:
    """Whether a pod of this size, on this node, takes what the first session of another group lacks
    there.
    """
    if capacity.name not in other.capacities or not capacity.could_fit(other.demand.takes):
        return False
    return leaves_too_little(takes, capacity, other.demand)


def leaves_too_little(
    takes: Iterable[tuple[str, int]], capacity: NodeCapacity, demand: Demand
) -> bool:
    """Whether a pod of this size takes something of which too little is left for the demand on this
    node.
    """
    taken = dict(takes)
    return any(
        name in taken and capacity.free.get(name, 0) - taken[name] < need
        for name, need in demand.takes
    )


def find_closest(group: Group) -> NodeCapacity | None:
    """The open node that lacks least, preferably one where only desktops are in the way: those
    end.
    """
    candidates = []
    for capacity in group.capacities.values():
        if capacity.closed or not capacity.could_fit(group.demand.takes):
            continue
        lacks = sum(
            max(0, need - capacity.free.get(name, 0)) / need for name, need in group.demand.takes
        )
        for_ever = any(
            capacity.allocatable[name] - capacity.foreign.get(name, 0) < need
            for name, need in group.demand.takes
        )
        candidates.append((for_ever, lacks, capacity.name, capacity))
    if candidates:
        return min(candidates, key=lambda candidate: candidate[:3])[3]
    return None
