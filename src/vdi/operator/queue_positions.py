"""The queue position, reason and expected start that a waiting session publishes in its status.

Each published change is a write to the API, and with thousands in the queue every position changes
all the time. Near the front every step is published, further back only a change of a tenth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from heapq import merge

from vdi.api.session import QueueStatus
from vdi.cluster.capacity import Demand, NodeCapacity
from vdi.cluster.units import format_time, parse_time
from vdi.operator.caches import Caches
from vdi.operator.owned_resources import owner_uid
from vdi.session.autoscaling import NodeRequest, can_use_new_node
from vdi.session.effective import Blocked
from vdi.session.queueing.groups import Group, PendingSession
from vdi.session.queueing.messages import (
    ExpectedEnd,
    Shortage,
    expect_slots,
    explain_shortage,
    find_fitting,
    waiting_message,
)
from vdi.session.queueing.queue import Queue

# A queue of at most this length is put in order at each request, a longer one only every
# `_RECOUNT_MS`.
_SHORT_QUEUE = 64
# Until then, a session that has joined a long queue has the last position.
_RECOUNT_MS = 4_500
# Only the first sessions in line publish what the autoscaler says, and GPUs that are free: each
# change of these is a write per session.
_DETAILED_POSITIONS = 100
# An expected start is published again when it has moved by at least this.
_SLOT_MOVED_MS = 60_000
# From this distance on, a message names the date, too: the portal takes a time of day for the
# nearest one.
_DATED_MS = 12 * 3_600_000


@dataclass(frozen=True, slots=True)
class PublishedPosition:
    """Part of a waiting session's status: `blocked` with its `queue`, and the facts that it was
    made from.
    """

    # Its reason is one of `conditions.QUEUE_REASONS`.
    blocked: Blocked
    queue: QueueStatus
    # The expected start in milliseconds since the epoch; 0: not known.
    slot: int
    node_request: NodeRequest | None


@dataclass(slots=True)
class _GroupState:
    """Shortage and expected starts of one group, as of `at` and the queue's number of `changes`."""

    changes: int
    at: int
    shortage: Shortage
    slots: Sequence[int] = ()


class QueuePositions:
    """Positions and expected starts of all waiting sessions, computed as seldom as possible. Used
    by `QueueManager`.
    """

    def __init__(
        self, queue: Queue, caches: Caches, node_requests: Mapping[Demand, NodeRequest] | None
    ) -> None:
        """`node_requests`: None where no autoscaler is asked for nodes."""
        self._node_requests = {} if node_requests is None else node_requests
        self._can_grow = node_requests is not None
        self._queue = queue
        self._caches = caches
        self._places: dict[str, int] = {}
        self._counted = (-1, 0)  # the queue's changes and the time when places were counted
        self._groups: dict[Demand, _GroupState] = {}
        self._endings: dict[str, list[ExpectedEnd]] = {}
        self._endings_of = (-1, 0)
        self._fitting: dict[Demand, list[NodeCapacity]] = {}
        self._fitting_of = -1

    def of(
        self, pending: PendingSession, now: int, published: PublishedPosition | None
    ) -> PublishedPosition:
        """The position of one session; `published` itself while that is near enough, which costs no
        write.
        """
        if self._is_due(*self._counted, now):
            self.count(now)
        group = self._queue.group_of(pending.demand)
        known = self._group_state(group, now)
        hopeless = known.shortage.hopeless and not (
            self._can_grow and can_use_new_node(pending.demand)
        )
        if hopeless:
            position = 0
        else:
            position = self._places.get(pending.uid, len(self._queue))
        slot = 0
        if 0 < position <= len(known.slots):
            slot = known.slots[position - 1]
        is_detailed = position <= _DETAILED_POSITIONS
        node_request = None
        if is_detailed:
            node_request = self._node_requests.get(pending.demand)
        gpu = self._queue.find_fewer_gpus(pending, now) if is_detailed else 0
        if (
            published
            and (published.node_request, published.queue.available_gpu) == (node_request, gpu)
            and not _differs(published, known.shortage.reason, position, slot, now)
        ):
            return published
        return _publish(known.shortage, position, slot, gpu, node_request, now)

    def count(self, now: int) -> None:
        """Put all waiting sessions in order, and number them."""
        self._places = {
            pending.uid: position
            for position, pending in enumerate(self._queue.order(now, can_grow=self._can_grow), 1)
        }
        self._counted = self._queue.changes, now
        if len(self._groups) > 2 * len(self._queue) + _SHORT_QUEUE:
            self._groups.clear()

    def shortage(self, group: Group) -> Shortage:
        """The reason why no session of a group can start now."""
        return explain_shortage(group, self._queue.capacities, self._find_fitting)

    def _is_due(self, changes: int, at: int, now: int) -> bool:
        """Whether a result has to be computed again. In a long queue a change counts only after
        `_RECOUNT_MS`.
        """
        return changes != self._queue.changes and (
            len(self._queue) <= _SHORT_QUEUE or not 0 <= now - at < _RECOUNT_MS
        )

    def _group_state(self, group: Group, now: int) -> _GroupState:
        known = self._groups.get(group.demand)
        if known is None or self._is_due(known.changes, known.at, now):
            shortage = self.shortage(group)
            if shortage.hopeless:
                slots = []
            else:
                slots = expect_slots(group, self._endings_on(group, now), len(self._queue))
            known = self._groups[group.demand] = _GroupState(
                self._queue.changes, now, shortage, slots
            )
        return known

    def _find_fitting(self, demand: Demand) -> list[NodeCapacity]:
        """Nodes that could ever run this demand, wherever its home is."""
        if self._fitting_of != self._queue.changes:
            self._fitting.clear()
            self._fitting_of = self._queue.changes
        anywhere = replace(demand, pin=())
        if anywhere not in self._fitting:
            self._fitting[anywhere] = find_fitting(anywhere, self._queue.capacities.values())
        return self._fitting[anywhere]

    def _endings_on(self, group: Group, now: int) -> list[ExpectedEnd]:
        """Expected ends of the desktops on this group's nodes, the soonest first."""
        if self._is_due(*self._endings_of, now):
            self._endings_of = self._queue.changes, now
            self._endings = self._list_endings()
        lists = [self._endings[name] for name in group.capacities if name in self._endings]
        return list(merge(*lists, key=_time_of))

    def _list_endings(self) -> dict[str, list[ExpectedEnd]]:
        endings: dict[str, list[ExpectedEnd]] = {}
        sessions = self._caches.sessions
        ends = {
            session.metadata.uid: session.status.expires_at
            for session in sessions.values()
            if session.status.expires_at
        }
        for pod in self._caches.pods.values():
            end = ends.get(owner_uid(pod) or "")
            if end and pod.spec.node_name:
                ending = ExpectedEnd(milliseconds(end), pod.spec.node_name, pod.spec.takes)
                endings.setdefault(ending.node, []).append(ending)
        for of_node in endings.values():
            of_node.sort(key=_time_of)
        return endings


def _differs(published: PublishedPosition, reason: str, position: int, slot: int, now: int) -> bool:
    """Whether a position has changed enough to be worth a write."""
    before = published.queue.position
    if (
        published.queue.reason != reason
        or (before == 0) != (position == 0)
        or (published.slot == 0) != (slot == 0)
    ):
        return True
    if abs(before - position) >= max(1, before // 10):
        return True
    return abs(published.slot - slot) >= max(_SLOT_MOVED_MS, (published.slot - now) // 10)


def _publish(
    shortage: Shortage,
    position: int,
    slot: int,
    gpu: int,
    node_request: NodeRequest | None,
    now: int,
) -> PublishedPosition:
    moment = ""
    if slot:
        moment = format_time(datetime.fromtimestamp(slot / 1000, UTC))
    text = waiting_message(position, shortage.words, moment, is_dated=slot - now >= _DATED_MS)
    if node_request:
        text = f"{text} {node_request.message}"
    queue = QueueStatus(
        position=position,
        reason=shortage.reason,
        earliest_slot=moment,
        available_gpu=gpu,
        node_request_time=node_request.time if node_request else "",
    )
    return PublishedPosition(Blocked(shortage.reason, text, queue=queue), queue, slot, node_request)


def _time_of(ending: ExpectedEnd) -> int:
    return ending.at


@lru_cache(maxsize=20_000)
def milliseconds(text: str) -> int:
    """A time of the API in the queue's unit."""
    return int(parse_time(text).timestamp() * 1000)
