"""The queue for room: who may have a desktop now, and on which node it is reckoned. Pure: no clock, no I/O.

Never more is granted than a node has. Whenever room appears, it goes at once to the first in the order whose demand
fits, so whoever waits does not fit now: a newcomer that fits takes nothing from them. But it could go on for ever that
small desktops fill the gaps that a large one waits for. Hence whoever has waited for `PATIENCE` holds the node that is
closest to fit it, and nobody behind it may take there what it needs.

Incremental: waiters of equal demand stand in one line, and only a line's first is tried, only on nodes where room has
appeared since it was tried there. A decision when nothing is free looks at nothing.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from vdi.session.capacity import Amounts
from vdi.session.capacity_matching import Demand, Room, is_home, is_placed
from vdi.session.queueing.groups import Group, find_closest, is_hopeless, stands_in_way
from vdi.session.queueing.order import Key, Line, PendingSession, sort_waiters

PATIENCE = 600_000
"""Milliseconds of waiting after which a waiter holds a node."""
_KEPT = 256
"""How many demands that nobody has now are remembered."""


@dataclass(frozen=True, slots=True)
class Grant:
    """This waiter may go."""

    waiter: PendingSession
    node: str


@dataclass(frozen=True, slots=True)
class _Placed:
    node: str
    takes: Amounts
    user: str
    lasting: bool
    demand: Demand | None
    """Where else it may still go, as long as the node is only reckoned."""


class Queue:
    """Nodes, what is on them, and who waits. Everything has an id of the caller's choice; all changes are told to it.

    After changes `grant` says who may go; what it grants is placed already, under the waiter's uid.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.rooms: dict[str, Room] = {}
        self.changes = 0
        """Goes up with every change of what there is or who waits."""
        self._weights = dict(weights or {})
        self._placed: dict[str, _Placed] = {}
        self._taken: dict[str, dict[str, int]] = {}  # by node, known or not
        self._lasting: dict[str, dict[str, int]] = {}
        self._reckoned: dict[str, dict[str, Demand]] = {}  # by node, what is not bound to it yet
        self._running: Counter[str] = Counter()
        self._groups: dict[Demand, Group] = {}
        self._waiting: dict[str, tuple[PendingSession, Group]] = {}
        self._lively: dict[Demand, Group] = {}  # with waiters, and nodes that have not been tried
        self._holding: dict[str, dict[Demand, Group]] = {}  # by node
        self._occupied: dict[Demand, Group] = {}  # with waiters

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[PendingSession]:
        return (waiter for waiter, _ in self._waiting.values())

    # What there is

    def set_room(self, room: Room) -> None:
        """A node is there, or has changed: `room` is it when empty."""
        taken = self._taken.get(room.name, {})
        room.free = {name: room.has.get(name, 0) - taken.get(name, 0) for name in {*room.has, *taken}}
        room.lasting = self._lasting.setdefault(room.name, {})
        self.rooms[room.name] = room
        self.changes += 1
        for group in self._groups.values():
            self._admit_room(group, room)

    def drop_room(self, name: str) -> None:
        """A node is gone."""
        if self.rooms.pop(name, None):
            self.changes += 1
            for group in self._groups.values():
                group.rooms.pop(name, None)
                group.fresh.pop(name, None)
                if group.hold == name:
                    self._lift(group)

    def place(self, uid: str, node: str, takes: Amounts, *, user: str = "", lasting: bool = False, now: int) -> None:
        """Something is on a node (one that we may not know yet); `user`: whose desktop it is.

        What was reckoned there, and does not fit beside it, is reckoned elsewhere: the scheduler has chosen otherwise.
        """
        self._put(uid, _Placed(node, takes, user, lasting, None), now)
        room = self.rooms.get(node)
        if room and min(room.free.values(), default=0) < 0:
            self._make_way(room, now)

    def reckon(self, uid: str, demand: Demand, takes: Amounts, *, user: str = "", granted: str, now: int) -> bool:
        """Something that is on no node yet: it is where its grant was, else where the scheduler may put it.

        False when there is no such node. The grant, if any, is used up.
        """
        grant = self._placed.get(granted)
        node = grant.node if grant else self.node_of(uid) or self._guess(demand)
        if node is None:
            return False
        self._put(uid, _Placed(node, takes, user, False, demand), now)
        return True

    def _put(self, uid: str, placed: _Placed, now: int) -> None:
        present = self._placed.get(uid)
        if present == placed:
            return
        self._placed[uid] = placed
        if present:
            self._free(uid, present)
        if placed.demand:
            self._reckoned.setdefault(placed.node, {})[uid] = placed.demand
        self._take(placed, 1)
        user = placed.user
        if user != (present.user if present else ""):
            self._count(user, 1, now)
            self._count(present.user if present else "", -1, now)

    def remove(self, uid: str, now: int) -> None:
        """It is no longer there."""
        if placed := self._placed.pop(uid, None):
            self._free(uid, placed)
            self._count(placed.user, -1, now)

    def node_of(self, uid: str) -> str | None:
        """Where it was placed."""
        placed = self._placed.get(uid)
        return placed.node if placed else None

    # Who waits

    def enter(self, waiter: PendingSession, now: int) -> None:
        """Somebody wants room, or wants something else than before."""
        if uid_known := self._waiting.get(waiter.uid):
            if uid_known[0] == waiter:
                return
            self.leave(waiter.uid, now)
        self.changes += 1
        group = self.group_of(waiter.demand)
        self._waiting[waiter.uid] = waiter, group
        self._occupied[group.demand] = group
        group.line.add(waiter, now)
        if group.withheld:
            group.fresh.update(dict.fromkeys(group.withheld))
            group.withheld.clear()
        if group.fresh:
            self._lively[group.demand] = group

    def leave(self, uid: str, now: int) -> None:
        """Somebody wants no room any more."""
        known = self._waiting.pop(uid, None)
        if known is None:
            return
        self.changes += 1
        _, group = known
        group.line.remove(uid, now)
        if not group.line:
            self._lively.pop(group.demand, None)
            self._occupied.pop(group.demand, None)
            self._lift(group)
            if group.demand.pin or len(self._groups) > _KEPT:
                del self._groups[group.demand]

    def waiting(self, uid: str) -> PendingSession | None:
        """Whoever waits under this uid."""
        known = self._waiting.get(uid)
        return known[0] if known else None

    def group_of(self, demand: Demand) -> Group:
        """All that stand in one line with this demand, and where they may go."""
        group = self._groups.get(demand)
        if group is None:
            group = self._groups[demand] = Group(demand, Line(self._share))
            for room in self.rooms.values():
                self._admit_room(group, room)
        return group

    def groups(self) -> list[Group]:
        """The lines in which somebody waits."""
        return list(self._occupied.values())

    def order(self, now: int) -> list[PendingSession]:
        """Everybody that some end could help, the next one first. Costs a sort."""
        hopeful = (waiter for group in self._occupied.values() if not is_hopeless(group) for waiter in group.line)
        return sort_waiters(hopeful, self._running, self._weights, now)

    # The decision

    def grant(self, now: int) -> list[Grant]:
        """Give room to whoever is next and fits, until nobody does."""
        self._hold_for_patient(now)
        granted: list[Grant] = []
        heads: list[tuple[Key, int, Group]] = []
        for number, group in enumerate(list(self._lively.values())):
            if first := group.line.first(now):
                heads.append((first[0], number, group))
        heapify(heads)
        while heads:
            key, number, group = heappop(heads)
            first = group.line.first(now)
            if first is None:
                continue
            if first[0] != key:  # of the same user somebody has just got a place
                heappush(heads, (first[0], number, group))
                continue
            room = self._find(group, key, now)
            if room is None:
                self._lively.pop(group.demand, None)
                continue
            waiter = first[1]
            self.leave(waiter.uid, now)
            placed = _Placed(room.name, dict(waiter.demand.takes), waiter.user, False, waiter.demand)
            self._put(waiter.uid, placed, now)
            granted.append(Grant(waiter, room.name))
            if following := group.line.first(now):
                heappush(heads, (following[0], number, group))
        return granted

    def try_place(self, uid: str, demand: Demand, now: int) -> str | None:
        """Room for what nobody waits for: only what is free, and no waiter lacks or would lack for it.

        Gives the node, on which it is placed then.
        """
        group = self.group_of(demand)
        group.fresh.update(dict.fromkeys(group.withheld))
        group.withheld.clear()
        room = self._find(group, (0, 0.0, now, uid), now, spare=True)
        if room:
            self._put(uid, _Placed(room.name, dict(demand.takes), "", False, demand), now)
        return room.name if room else None

    def tick(self, now: int) -> None:
        """Time has passed: who holds what is looked at anew, and so is what was withheld."""
        self._hold_for_patient(now)
        for group in self._occupied.values():
            if group.withheld:
                group.fresh.update(dict.fromkeys(group.withheld))
                group.withheld.clear()
                self._lively[group.demand] = group

    def holders(self, node: str, beside: Group) -> list[Group]:
        """The other lines for whose first a node is kept."""
        return [one for one in self._holding.get(node, {}).values() if one is not beside]

    # Inside

    def _guess(self, demand: Demand) -> str | None:
        rooms = [one for one in self.rooms.values() if is_placed(demand, one) and is_home(demand, one)]
        best = min(rooms, key=lambda one: (bool(one.closed), not one.fits(demand.takes), one.name), default=None)
        return best.name if best else None

    def _make_way(self, room: Room, now: int) -> None:
        for uid, demand in list(self._reckoned.get(room.name, {}).items()):
            known = self._groups.get(demand)
            for other in (known.rooms if known else self.rooms).values():
                fits = other is not room and not other.closed and other.fits(demand.takes)
                if fits and is_placed(demand, other) and is_home(demand, other):
                    self._put(uid, replace(self._placed[uid], node=other.name), now)
                    break
            if min(room.free.values()) >= 0:
                return

    def _find(self, group: Group, key: Key, now: int, *, spare: bool = False) -> Room | None:
        """A node with room, the one that was tried longest ago first: desktops spread as they do by the scheduler.

        `spare`: room that nobody who waits has a use for.
        """
        takes = group.demand.takes
        while group.fresh:
            name = next(iter(group.fresh))
            del group.fresh[name]
            room = group.rooms[name]
            if room.closed or not room.fits(takes):
                continue
            wanted = spare and any(stands_in_way(takes, room, other) for other in self._occupied.values())
            if wanted or self._is_kept(room, group, key, now):
                group.withheld.add(name)
                continue
            group.fresh[name] = None
            return room
        return None

    def _is_kept(self, room: Room, group: Group, key: Key, now: int) -> bool:
        """Whether taking it would cost somebody before us, who has waited long, what it needs there."""
        taken = dict(group.demand.takes)
        for holder in self.holders(room.name, group):
            first = holder.line.first(now)
            if first is None or first[0] > key:
                continue
            if any(name in taken and room.free.get(name, 0) - taken[name] < need for name, need in holder.demand.takes):
                return True
        return False

    def _hold_for_patient(self, now: int) -> None:
        for group in self._occupied.values():
            since = group.line.oldest()
            if since is None or now - since < PATIENCE:
                continue
            held = group.rooms.get(group.hold)
            if held is None or held.closed or not held.could_hold(group.demand.takes):
                self._lift(group)
                if room := find_closest(group):
                    group.hold = room.name
                    self._holding.setdefault(room.name, {})[group.demand] = group

    def _lift(self, group: Group) -> None:
        """Nothing is kept for this line any more."""
        node, group.hold = group.hold, ""
        if not node:
            return
        holders = self._holding[node]
        del holders[group.demand]
        if not holders:
            del self._holding[node]
        self._enliven(node)

    def _enliven(self, name: str) -> None:
        """There may be room on this node: everybody who may be there is to be tried."""
        for group in self._groups.values():
            if name in group.rooms:
                group.fresh[name] = None
                group.withheld.discard(name)
                if group.line:
                    self._lively[group.demand] = group

    def _admit_room(self, group: Group, room: Room) -> None:
        group.withheld.discard(room.name)
        if is_placed(group.demand, room) and is_home(group.demand, room):
            group.rooms[room.name] = room
            group.fresh[room.name] = None
            if group.line:
                self._lively[group.demand] = group
        else:
            group.rooms.pop(room.name, None)
            group.fresh.pop(room.name, None)
            if group.hold == room.name:
                self._lift(group)

    def _free(self, uid: str, placed: _Placed) -> None:
        if placed.demand:
            del self._reckoned[placed.node][uid]
        self._take(placed, -1)
        if placed.node in self.rooms:
            self._enliven(placed.node)

    def _take(self, placed: _Placed, sign: int) -> None:
        self.changes += 1
        ledgers = [self._taken.setdefault(placed.node, {})]
        if placed.lasting:
            ledgers.append(self._lasting.setdefault(placed.node, {}))
        for name, number in placed.takes.items():
            for ledger in ledgers:
                ledger[name] = ledger.get(name, 0) + sign * number
        if room := self.rooms.get(placed.node):
            room.take(placed.takes, sign)

    def _count(self, user: str, change: int, now: int) -> None:
        if not user:
            return
        self._running[user] += change
        if not self._running[user]:
            del self._running[user]
        for group in self._occupied.values():
            group.line.share_changed(user, now)

    def _share(self, user: str) -> float:
        return self._running.get(user, 0) / self._weights.get(user, 1.0)
