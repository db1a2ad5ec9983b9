"""The queue of sessions: which may have a desktop now, and on which node it is assumed. Pure: no
clock, no I/O.

The queue never grants more than a node has. Freed capacity goes at once to the first session in
order whose demand fits. So a session that waits does not fit now, and a newcomer that fits takes
nothing from it (backfill). But small desktops could forever fill the gaps that a large one waits
for. Hence the node that is closest to fitting is reserved for a session that has waited for
`BACKFILL_TIMEOUT`: no session behind it may take there what it needs.

Incremental: sessions of equal demand are one group. Only a group's first session is tried, and only
on nodes that have got free capacity since it was tried there. A decision when nothing is free looks
at no node.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush

from vdi.cluster.capacity import Demand, NodeCapacity, allows_placement, reaches_home
from vdi.cluster.units import Amounts
from vdi.session.autoscaling import can_use_new_node
from vdi.session.queueing.groups import (
    Group,
    GroupQueue,
    Key,
    PendingSession,
    blocks,
    find_closest,
    is_hopeless,
    leaves_too_little,
    share_of,
    sort_pending,
)
from vdi.session.queueing.messages import extended

# Milliseconds of waiting after which a node is reserved for a session.
BACKFILL_TIMEOUT = 600_000
# Groups without a session that are kept, because the next session probably has the same demand.
_KEPT = 256


@dataclass(frozen=True, slots=True)
class Grant:
    """A session that may start, and the node on which it is assumed."""

    pending: PendingSession
    node: str


@dataclass(frozen=True, slots=True)
class _Assignment:
    node: str
    takes: Amounts
    user: str
    foreign: bool
    # Set while the node is only assumed: the scheduler may still choose another one.
    demand: Demand | None


class Queue:
    """Nodes, the pods on them, and the pending sessions. The caller chooses all ids, and reports
    all changes.

    After changes `grant` says which sessions may start; each is assumed on its node already, under
    its uid.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.capacities: dict[str, NodeCapacity] = {}
        # Counts the changes of capacity and of the pending sessions.
        self.changes = 0
        self._weights = dict(weights or {})
        self._assigned: dict[str, _Assignment] = {}
        self._taken: dict[str, dict[str, int]] = {}  # by node, known or not
        self._foreign: dict[str, dict[str, int]] = {}
        self._assumed: dict[
            str, dict[str, Demand]
        ] = {}  # by node, pods that are not bound to it yet
        self._running: Counter[str] = Counter()
        self._groups: dict[Demand, Group] = {}
        self._waiting: dict[str, tuple[PendingSession, Group]] = {}
        self._lively: dict[
            Demand, Group
        ] = {}  # with pending sessions, and nodes that have not been tried
        self._roused: list[Group] = []  # became lively since the last decision
        self._passed_over: dict[Demand, Group] = {}  # with withheld nodes; some no longer have any
        self._holding: dict[str, dict[Demand, Group]] = {}  # by node
        self._occupied: dict[Demand, Group] = {}  # with pending sessions

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[PendingSession]:
        return (pending for pending, _ in self._waiting.values())

    # Capacity

    def set_node(self, capacity: NodeCapacity) -> None:
        """Add or update a node. `capacity`: the empty node."""
        taken = self._taken.get(capacity.name, {})
        capacity.free = {
            name: capacity.allocatable.get(name, 0) - taken.get(name, 0)
            for name in {*capacity.allocatable, *taken}
        }
        capacity.foreign = self._foreign.setdefault(capacity.name, {})
        self.capacities[capacity.name] = capacity
        self.changes += 1
        for group in self._groups.values():
            self._admit_node(group, capacity)

    def remove_node(self, name: str) -> None:
        """Forget a node. Pods that are bound to it still count when it comes back."""
        if self.capacities.pop(name, None):
            self.changes += 1
            for group in self._groups.values():
                group.capacities.pop(name, None)
                group.fresh.pop(name, None)
                group.withheld.discard(name)
                if group.hold == name:
                    self._lift(group)

    def bind(
        self,
        uid: str,
        node: str,
        takes: Amounts,
        *,
        user: str = "",
        foreign: bool = False,
        now: int,
    ) -> None:
        """Record a pod on a node, also on one that is not known yet. `user`: the owner of the
        desktop.
        """
        self._assign(uid, _Assignment(node, takes, user, foreign, None), now)
        capacity = self.capacities.get(node)
        if capacity and min(capacity.free.values(), default=0) < 0:
            # The scheduler has chosen otherwise than assumed. Pods that were assumed here go where
            # it will have to put them; otherwise this node would look overcommitted, and the other
            # one would be granted twice.
            self._move_assumed(capacity, now)

    def assume(
        self, uid: str, demand: Demand, takes: Amounts, *, user: str = "", granted: str, now: int
    ) -> bool:
        """Record a pod that is on no node yet: on the node of its grant, else where the scheduler
        may put it.

        False when there is no such node. `granted`: the uid of the grant, if any.
        """
        grant = self._assigned.get(granted)
        node = grant.node if grant else self.node_of(uid) or self._guess(demand)
        if node is None:
            return False
        self._assign(uid, _Assignment(node, takes, user, False, demand), now)
        return True

    def _assign(self, uid: str, assignment: _Assignment, now: int) -> None:
        present = self._assigned.get(uid)
        if present == assignment:
            return
        self._assigned[uid] = assignment
        if present:
            self._free(uid, present)
        if assignment.demand:
            self._assumed.setdefault(assignment.node, {})[uid] = assignment.demand
        self._take(assignment, 1)
        user = assignment.user
        if user != (present.user if present else ""):
            self._count(user, 1, now)
            self._count(present.user if present else "", -1, now)

    def remove(self, uid: str, now: int) -> None:
        """Forget a pod or grant, and free what it takes."""
        if assignment := self._assigned.pop(uid, None):
            self._free(uid, assignment)
            self._count(assignment.user, -1, now)

    def node_of(self, uid: str) -> str | None:
        """The node on which this pod or grant is recorded."""
        assignment = self._assigned.get(uid)
        return assignment.node if assignment else None

    # Pending sessions

    def enter(self, pending: PendingSession, now: int) -> None:
        """Add a pending session, or replace it after a change of its request."""
        if known := self._waiting.get(pending.uid):
            if known[0] == pending:
                return
            self.leave(pending.uid, now)
        self.changes += 1
        group = self.group_of(pending.demand)
        self._waiting[pending.uid] = pending, group
        self._occupied[group.demand] = group
        group.queue.add(pending, now)
        group.try_withheld_again()
        if group.fresh:
            self._rouse(group)

    def leave(self, uid: str, now: int) -> None:
        """Remove a session that no longer waits."""
        known = self._waiting.pop(uid, None)
        if known is None:
            return
        self.changes += 1
        _, group = known
        group.queue.remove(uid, now)
        if not group.queue:
            self._lively.pop(group.demand, None)
            self._occupied.pop(group.demand, None)
            self._lift(group)
            if group.demand.pin or len(self._groups) > _KEPT:
                del self._groups[group.demand]
        elif group.hold:
            self._order_changed()

    def waiting(self, uid: str) -> PendingSession | None:
        known = self._waiting.get(uid)
        return known[0] if known else None

    def group_of(self, demand: Demand) -> Group:
        """The group of this demand, which may have no session."""
        group = self._groups.get(demand)
        if group is None:
            group = self._groups[demand] = Group(demand, GroupQueue(self._share))
            for capacity in self.capacities.values():
                self._admit_node(group, capacity)
        return group

    def allowed_nodes(self, demand: Demand) -> Iterator[NodeCapacity]:
        """The nodes that placement and home allow, whatever is free there. Keeps no group, as
        `group_of` does.
        """
        if known := self._groups.get(demand):
            yield from known.capacities.values()
            return
        for capacity in self.capacities.values():
            if allows_placement(demand, capacity) and reaches_home(demand, capacity):
                yield capacity

    def groups(self) -> list[Group]:
        """The groups with pending sessions."""
        return list(self._occupied.values())

    def order(self, now: int, *, can_grow: bool = False) -> list[PendingSession]:
        """Sessions that the end of a desktop or a new node (`can_grow`) could help, the next one
        first.
        """
        hopeful = (
            pending
            for group in self._occupied.values()
            if not is_hopeless(group) or (can_grow and can_use_new_node(group.demand))
            for pending in group.queue
        )
        return sort_pending(hopeful, self._running, self._weights, now)

    # The decision

    def grant(self, now: int) -> list[Grant]:
        """Give capacity to the next session that fits, until no session does."""
        self._hold_for_patient(now)
        granted: list[Grant] = []
        heads: list[tuple[Key, Group]] = []  # no two keys are equal: each has a uid
        self._roused = list(self._lively.values())
        while self._roused or heads:
            # Also groups that a start has roused: the node that was reserved for that session may
            # be free for others.
            while self._roused:
                group = self._roused.pop()
                if first := group.queue.first(now):
                    heappush(heads, (first[0], group))
            if not heads:
                break
            key, group = heappop(heads)
            first = group.queue.first(now)
            if first is None:
                continue
            if first[0] != key:  # another session of the same user has just started
                heappush(heads, (first[0], group))
                continue
            capacity = self._find(group, key, now)
            if capacity is None:
                self._lively.pop(group.demand, None)
                continue
            pending = first[1]
            self.leave(pending.uid, now)
            assignment = _Assignment(
                capacity.name, dict(pending.demand.takes), pending.user, False, pending.demand
            )
            self._assign(pending.uid, assignment, now)
            granted.append(Grant(pending, capacity.name))
            if following := group.queue.first(now):
                heappush(heads, (following[0], group))
        return granted

    def find_fewer_gpus(self, pending: PendingSession, now: int) -> int:
        """The most GPUs, fewer than requested, with which this session would start now; 0: not even
        with one.
        """
        group = self.group_of(pending.demand)
        key = group.queue.key(pending, now)
        nodes = [capacity for capacity in group.capacities.values() if not capacity.closed]
        for resource, requested in extended(pending.demand):
            most = max((capacity.free.get(resource, 0) for capacity in nodes), default=0)
            for number in range(min(requested - 1, most), 0, -1):
                takes = tuple(
                    (name, number if name == resource else amount)
                    for name, amount in pending.demand.takes
                )
                fewer = replace(group, demand=replace(pending.demand, takes=takes))
                if any(
                    node.fits(takes) and not self._is_kept(node, fewer, key, now) for node in nodes
                ):
                    return number
        return 0

    def try_bind(self, uid: str, demand: Demand, now: int) -> str | None:
        """Capacity for a pod of a pool: only what is free, and what no pending session lacks or
        would lack.

        Returns the node, on which the pod is recorded then.
        """
        group = self.group_of(demand)
        group.try_withheld_again()
        capacity = self._find(group, (0, 0.0, now, uid), now, spare=True)
        if group.queue and group.try_withheld_again():  # withheld from the pool, not from sessions
            self._rouse(group)
        if capacity:
            self._assign(
                uid, _Assignment(capacity.name, dict(demand.takes), "", False, demand), now
            )
        return capacity.name if capacity else None

    def tick(self, now: int) -> None:
        """Reserve nodes for sessions that have waited long enough by now, and try withheld nodes
        again.
        """
        self._hold_for_patient(now)
        self._order_changed()

    def holders(self, node: str, beside: Group) -> list[Group]:
        """The other groups for whose first session a node is reserved."""
        return [one for one in self._holding.get(node, {}).values() if one is not beside]

    # Inside

    def _guess(self, demand: Demand) -> str | None:
        best = min(
            self.allowed_nodes(demand),
            key=lambda capacity: (
                bool(capacity.closed),
                not capacity.fits(demand.takes),
                capacity.name,
            ),
            default=None,
        )
        return best.name if best else None

    def _move_assumed(self, capacity: NodeCapacity, now: int) -> None:
        for uid, demand in list(self._assumed.get(capacity.name, {}).items()):
            for other in self.allowed_nodes(demand):
                if other is not capacity and not other.closed and other.fits(demand.takes):
                    self._assign(uid, replace(self._assigned[uid], node=other.name), now)
                    break
            if min(capacity.free.values()) >= 0:
                return

    def _find(
        self, group: Group, key: Key, now: int, *, spare: bool = False
    ) -> NodeCapacity | None:
        """A node with capacity, or None. `spare`: only capacity that no pending session could use.

        The node that was tried longest ago goes first, so desktops spread as the scheduler would
        spread them.
        """
        takes = group.demand.takes
        while group.fresh:
            name = next(iter(group.fresh))
            del group.fresh[name]
            capacity = group.capacities[name]
            if capacity.closed or not capacity.fits(takes):
                continue
            desired = spare and any(
                blocks(takes, capacity, other) for other in self._occupied.values()
            )
            if desired or self._is_kept(capacity, group, key, now):
                group.withheld.add(name)
                self._passed_over[group.demand] = group
                continue
            group.fresh[name] = None
            return capacity
        return None

    def _is_kept(self, capacity: NodeCapacity, group: Group, key: Key, now: int) -> bool:
        """Whether it would take what an earlier session needs there, for which this node is
        reserved.
        """
        for holder in self.holders(capacity.name, group):
            first = holder.queue.first(now)
            if first is None or first[0] >= key:  # equal: its own, with another demand
                continue
            if leaves_too_little(group.demand.takes, capacity, holder.demand):
                return True
        return False

    def _hold_for_patient(self, now: int) -> None:
        for group in self._occupied.values():
            since = group.queue.oldest()
            if since is None or now - since < BACKFILL_TIMEOUT:
                continue
            held = group.capacities.get(group.hold)
            if held is None or held.closed or not held.could_fit(group.demand.takes):
                self._lift(group)
                if capacity := find_closest(group):
                    group.hold = capacity.name
                    self._holding.setdefault(capacity.name, {})[group.demand] = group

    def _lift(self, group: Group) -> None:
        node, group.hold = group.hold, ""
        if not node:
            return
        holders = self._holding[node]
        del holders[group.demand]
        if not holders:
            del self._holding[node]
        self._enliven(node)

    def _order_changed(self) -> None:
        """Try withheld nodes again: a session may now be before the one for which a node is
        reserved.
        """
        while self._passed_over:
            _, group = self._passed_over.popitem()
            if group.queue and group.try_withheld_again():
                self._rouse(group)

    def _rouse(self, group: Group) -> None:
        """Mark the group as one with nodes to try."""
        if group.demand not in self._lively:
            self._lively[group.demand] = group
            self._roused.append(group)

    def _enliven(self, name: str) -> None:
        """Mark the node as one that may have capacity, for every group that may use it."""
        for group in self._groups.values():
            if name in group.capacities:
                group.fresh[name] = None
                group.withheld.discard(name)
                if group.queue:
                    self._rouse(group)

    def _admit_node(self, group: Group, capacity: NodeCapacity) -> None:
        group.withheld.discard(capacity.name)
        if allows_placement(group.demand, capacity) and reaches_home(group.demand, capacity):
            group.capacities[capacity.name] = capacity
            group.fresh[capacity.name] = None
            if group.queue:
                self._rouse(group)
        else:
            group.capacities.pop(capacity.name, None)
            group.fresh.pop(capacity.name, None)
            if group.hold == capacity.name:
                self._lift(group)

    def _free(self, uid: str, assignment: _Assignment) -> None:
        if assignment.demand:
            del self._assumed[assignment.node][uid]
        self._take(assignment, -1)
        if assignment.node in self.capacities:
            self._enliven(assignment.node)

    def _take(self, assignment: _Assignment, sign: int) -> None:
        self.changes += 1
        ledgers = [self._taken.setdefault(assignment.node, {})]
        if assignment.foreign:
            ledgers.append(self._foreign.setdefault(assignment.node, {}))
        for name, number in assignment.takes.items():
            for ledger in ledgers:
                ledger[name] = ledger.get(name, 0) + sign * number
        if capacity := self.capacities.get(assignment.node):
            capacity.take(assignment.takes, sign)

    def _count(self, user: str, change: int, now: int) -> None:
        if not user:
            return
        self._running[user] += change
        if not self._running[user]:
            del self._running[user]
        for group in self._occupied.values():
            group.queue.share_changed(user, now)
        self._order_changed()

    def _share(self, user: str) -> float:
        return share_of(user, self._running, self._weights)
