"""The capacity queue: which session starts on which node, and which waits. Feeds `vdi.session.queueing` from the
caches.

A session requests capacity for its desktop. It starts at once, or waits and is enqueued: when its capacity has been
reserved, or when its published position is outdated. Nothing is written here, and little is lost with the process:
the sessions' statuses say since when each waits.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from vdi.api.session import VDISession
from vdi.cluster.capacity import Demand, demand_of, read_capacity
from vdi.cluster.objects import ForeignPod, Node, NodeSelectorTerm, PersistentVolumeClaim, Pod
from vdi.cluster.units import parse_time
from vdi.kube.clock import Clock
from vdi.operator.caches import Caches, ClusterContext
from vdi.operator.owned_resources import owner_uid, session_of
from vdi.operator.queue_positions import PublishedPosition, QueuePositions, Waiting
from vdi.session.autoscaling import NodeRequest
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, Reason
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.failures import is_short_of_room
from vdi.session.naming import USER_ANNOTATION
from vdi.session.pool import is_waiting
from vdi.session.queueing.groups import Group, PendingSession
from vdi.session.queueing.queue import Queue

log = logging.getLogger(__name__)
_ENDED = frozenset({"Succeeded", "Failed"})


def now_milliseconds(clock: Clock) -> int:
    """Wall time in the queue's unit."""

    return int(clock.now().timestamp() * 1000)


class ResourceAccounting:
    """Listens to nodes and pods. What was granted goes over to the pod that comes of it as soon as that is known.

    Grants stand in the queue under the session's uid, or the name of a pool's pod; pods under `pod/<uid>`.
    """

    def __init__(
        self,
        caches: Caches,
        queue: Queue,
        clock: Clock,
        *,
        on_end: Callable[[Pod], None],
        on_change: Callable[[], None],
    ) -> None:
        self.spare: dict[str, Pod] = {}
        """Unclaimed desktops of pools, by uid."""
        self._caches = caches
        self._queue = queue
        self._clock = clock
        self._on_end = on_end
        self._on_change = on_change
        self._unassigned: dict[str, Pod] = {}  # ours, bound to no node, made before we were here
        caches.nodes.listen(self._node_changed)
        caches.pods.listen(self._pod_changed)
        caches.foreign_pods.listen(self._foreign_pod_changed)
        caches.foreign_pods_elsewhere.listen(self._foreign_pod_changed)

    def settle(self) -> None:
        """Assume nodes for the pods that had none, by what is known now."""
        for pod in list(self._unassigned.values()):
            self._account_for(pod)

    def pin_of(self, claim: PersistentVolumeClaim | None) -> tuple[NodeSelectorTerm, ...]:
        """The nodes that a home can be reached from; empty: all, or not known since there is no volume yet."""
        volume = self._caches.volumes.get("", claim.spec.volume_name) if claim and claim.spec.volume_name else None
        return volume.pin if volume else ()

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            if old is not None:
                self._queue.remove_node(old.metadata.name)
                self._on_change()
        elif old is None or _capacity(old) != _capacity(new):
            try:
                self._queue.set_node(read_capacity(new))
            except ValueError as why:
                log.error("node %s is left out of the reckoning: %s", new.metadata.name, why)
                self._queue.remove_node(new.metadata.name)
            self._on_change()

    def _foreign_pod_changed(self, old: ForeignPod | None, new: ForeignPod | None) -> None:
        now = now_milliseconds(self._clock)
        if new is not None:
            self._queue.bind(_id(new), new.spec.node_name, new.spec.takes, foreign=True, now=now)
        elif old is not None:
            self._queue.remove(_id(old), now)
        self._on_change()

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if old and new and not is_waiting(new) and _room_of(old) == _room_of(new):
            return  # it starts, it is ready: it takes what it took
        if new is not None:
            self._account_for(new)
        elif old is not None:
            self._forget(old)
            self._on_end(old)
        self._on_change()

    def _forget(self, pod: Pod) -> None:
        self.spare.pop(pod.metadata.uid, None)
        self._unassigned.pop(pod.metadata.uid, None)
        self._queue.remove(_id(pod), now_milliseconds(self._clock))

    def _account_for(self, pod: Pod) -> None:
        if pod.status.phase in _ENDED:
            self._forget(pod)
            return
        queue, uid, now = self._queue, pod.metadata.uid, now_milliseconds(self._clock)
        owner = session_of(pod)
        granted = "" if pod.metadata.deletion_timestamp else owner.uid if owner else pod.metadata.name
        user = pod.metadata.annotations.get(USER_ANNOTATION, "") if owner else ""
        if is_waiting(pod):
            self.spare[uid] = pod
        else:
            self.spare.pop(uid, None)
        if pod.spec.node_name:
            queue.bind(_id(pod), pod.spec.node_name, pod.spec.takes, user=user, now=now)
        elif not queue.assume(_id(pod), self._demand(pod), pod.spec.takes, user=user, granted=granted, now=now):
            self._unassigned[uid] = pod
            return
        self._unassigned.pop(uid, None)
        if granted:
            queue.remove(granted, now)
            queue.leave(granted, now)

    def _demand(self, pod: Pod) -> Demand:
        claim = self._caches.claims.get(pod.metadata.namespace, pod.home_claim) if pod.home_claim else None
        spec = pod.spec
        return demand_of(spec.takes, spec.node_selector.items(), spec.tolerations, self.pin_of(claim))


def _id(pod: Pod | ForeignPod) -> str:
    return f"pod/{pod.metadata.uid}"


def _room_of(pod: Pod) -> tuple[object, ...]:
    """All that counts of a pod."""
    meta, spec = pod.metadata, pod.spec
    ended = pod.status.phase in _ENDED
    return meta.uid, meta.deletion_timestamp, ended, spec.node_name, spec.takes, meta.owner_references


def _capacity(node: Node) -> tuple[object, ...]:
    """All that counts of a node; the rest of it changes with every heartbeat."""
    meta, spec = node.metadata, node.spec
    return meta.deletion_timestamp, meta.labels, spec.unschedulable, spec.taints, node.ready, node.status.allocatable


SessionKey = tuple[str, str]

# Seconds between two looks for sessions whose published position is outdated.
_TICK = 5.0
# Milliseconds after which a reservation without a request is released.
_UNCLAIMED = 30_000
# So many of those who wait are looked at before others may work.
_AT_A_TIME = 100


@dataclass(slots=True)
class _Granted:
    pending: PendingSession
    at: int
    fetched: bool = False


class QueueManager:
    """The one queue of an operator. Touched only from the event loop's thread, between two awaits: hence no lock.

    `_granted` has the sessions that may start and have no pod in the caches yet; `_published` has what the status of
    each waiting session says of its position. Both live as long as this process leads; after that, statuses and pods
    are read again. `_granted_since` has since when a session had waited whose pod has no node yet: where the scheduler
    refuses the pod, the session goes on waiting from there. No status has it: after a restart it waits from now.
    """

    def __init__(
        self,
        cluster: ClusterContext,
        *,
        weights: Mapping[str, float],
        node_requests: Mapping[Demand, NodeRequest] | None = None,
        on_admitted: Callable[[float], None],
        enqueue: Callable[[SessionKey], None],
        yield_capacity: Callable[[Iterable[Pod]], None],
    ) -> None:
        """`node_requests` has the nodes that were requested, by shape; None where no autoscaler is asked.

        `enqueue` gets a session that may start, or whose position has changed.

        `yield_capacity` gets desktops of pools without which a session could start.
        """
        caches, clock = cluster.caches, cluster.clock
        self._caches = caches
        self._settings = cluster.settings
        self._clock = clock
        self._on_admitted = on_admitted
        self._enqueue = enqueue
        self._yield_capacity = yield_capacity
        self._queue = Queue(weights)
        self._accounting = ResourceAccounting(
            caches, self._queue, clock, on_end=self._keep_capacity, on_change=self._grant
        )
        self._positions = QueuePositions(self._queue, caches, node_requests)
        caches.pods.listen(self._pod_changed)
        self._keys: dict[str, SessionKey] = {}
        self._granted: dict[str, _Granted] = {}
        self._granted_since: dict[str, int] = {}
        self._published: dict[str, PublishedPosition] = {}
        self._yielding: set[str] = set()
        self._began: int | None = None  # when this process began to lead

    def request(self, session: VDISession, desktop: Desktop, home: PersistentVolumeClaim | None) -> Waiting | None:
        """None: start; capacity is reserved until the pod is in the caches, or `withdraw`. Else wait to be enqueued."""
        self._restore()
        uid, now = session.metadata.uid, now_milliseconds(self._clock)
        pending = self._pending_session(session, desktop, home, now)
        present = self._granted.get(uid)
        if present and (present.pending.demand != pending.demand or self._queue.node_of(uid) is None):
            self._queue.remove(uid, now)  # it wants something else, or had its pod and needs another
            del self._granted[uid]
        if uid not in self._granted:
            self._keys[uid] = session.metadata.namespace, session.metadata.name
            self._queue.enter(pending, now)
            self._grant(asking=uid)
        if granted := self._granted.get(uid):
            if not granted.fetched:
                granted.fetched = True
                self._on_admitted(granted.pending.waited(now) / 1000)
            self._published.pop(uid, None)
            return None
        return self._publish(pending, now).waiting

    def request_for_pool(self, pod: str, desktop: Desktop) -> Blocked | None:
        """None: room is kept for a pod of this name until it is in the caches, or `withdraw`. Else: what is short.

        A session that waits for the same goes first: pools come last.
        """
        self._restore()
        now, demand = now_milliseconds(self._clock), desktop.demand()
        if self._queue.try_bind(pod, demand, now) is not None:
            return None
        group = self._queue.group_of(demand)
        shortage = self._positions.shortage(group)
        if shortage.reason == Reason.RESERVED:
            return Blocked(Reason.RESERVED, "The free capacity is reserved for sessions that wait.")
        return Blocked(shortage.reason, f"There is not enough capacity: {shortage.words}.")

    def withdraw(self, uid: str) -> None:
        """The session (or the pool's pod of this name) wants no room any more, or not now."""
        now = now_milliseconds(self._clock)
        self._queue.leave(uid, now)
        self._queue.remove(uid, now)
        self._granted.pop(uid, None)
        self._published.pop(uid, None)
        self._keys.pop(uid, None)
        self._grant()

    def forget(self, uid: str) -> None:
        """The session is gone."""
        self._granted_since.pop(uid, None)
        self.withdraw(uid)

    def waits(self, *, gpu: bool = False) -> list[float]:
        """How many seconds each of those who wait has waited by now. `gpu`: only of sessions that request a GPU."""
        now, resource = now_milliseconds(self._clock), self._settings.gpu_resource
        return [
            pending.waited(now) / 1000 for pending in self._queue if not gpu or resource in dict(pending.demand.takes)
        ]

    @property
    def changes(self) -> int:
        """Goes up with every change of what there is or who waits."""
        return self._queue.changes

    def waiting_demands(self) -> list[tuple[Demand, int]]:
        """How many sessions wait for each shape, the first in line first."""
        self._restore()
        now = now_milliseconds(self._clock)
        firsts = [(first[0], group) for group in self._queue.groups() if (first := group.queue.first(now))]
        firsts.sort(key=lambda pair: pair[0])
        return [(group.demand, len(group.queue)) for _, group in firsts]

    async def run(self) -> None:
        """Keep those who wait informed, until cancelled."""
        while True:
            await self._clock.sleep(_TICK)
            self._restore()
            now = now_milliseconds(self._clock)
            self._accounting.settle()
            self._drop_unclaimed(now)
            self._queue.tick(now)
            self._grant()
            await self._enqueue_outdated(now)

    # Inside

    def _grant(self, asking: str = "") -> None:
        """Reserve capacity for the sessions whose turn it is, and enqueue them, but for `asking`."""
        now = now_milliseconds(self._clock)
        if not len(self._queue):
            return
        for grant in self._queue.grant(now):
            uid = grant.pending.uid
            self._granted[uid] = _Granted(grant.pending, now)
            self._granted_since[uid] = grant.pending.since
            if uid != asking:
                self._enqueue(self._keys[uid])
        if self._accounting.spare:
            self._make_pools_yield(now)

    def _pod_changed(self, _old: Pod | None, new: Pod | None) -> None:
        """A session whose pod has a node waits no longer."""
        if new and new.spec.node_name and (uid := owner_uid(new)):
            self._granted_since.pop(uid, None)

    def _keep_capacity(self, pod: Pod) -> None:
        """A session whose pod is replaced gets its capacity before any that waits: its run goes on.

        If it does not come for it at once (a loss with a pause, one that is given up), it withdraws.
        """
        owner = session_of(pod)
        session = self._caches.sessions.get(pod.metadata.namespace, owner.name) if owner else None
        if self._began is None or owner is None or session is None or session.metadata.uid != owner.uid:
            return
        if session.metadata.deletion_timestamp or session.spec.suspended:
            return
        now = now_milliseconds(self._clock)
        pending = self._pending_again(session, now)
        if pending is None:
            return
        capacity = self._queue.group_of(pending.demand).capacities.get(pod.spec.node_name)
        if (
            capacity
            and not capacity.closed
            and capacity.fits(pending.demand.takes)
            and self._queue.node_of(owner.uid) is None
        ):
            self._queue.bind(owner.uid, capacity.name, dict(pending.demand.takes), user=pending.user, now=now)
            self._granted[owner.uid] = _Granted(pending, now)
            self._keys[owner.uid] = session.metadata.namespace, session.metadata.name

    def _publish(self, pending: PendingSession, now: int) -> PublishedPosition:
        before = self._published.get(pending.uid)
        published = self._positions.of(pending, now, before)
        if published is not before:
            self._published[pending.uid] = published
        return published

    async def _enqueue_outdated(self, now: int) -> None:
        """Enqueue the sessions whose published position is outdated."""
        if not len(self._queue):
            return
        self._positions.count(now)
        for number, pending in enumerate(list(self._queue)):
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
            if self._queue.waiting(pending.uid) is not pending:
                continue  # gone meanwhile
            before = self._published.get(pending.uid)
            if before and self._positions.of(pending, now, before) is not before and pending.uid in self._keys:
                self._enqueue(self._keys[pending.uid])

    def _drop_unclaimed(self, now: int) -> None:
        for uid, granted in list(self._granted.items()):
            if self._queue.node_of(uid) is None:
                del self._granted[uid]  # it has its pod
                self._keys.pop(uid, None)
            elif not granted.fetched and now - granted.at > _UNCLAIMED:
                log.warning("%s/%s has not come for its room, which is given back", *self._keys.get(uid, ("?", uid)))
                self.withdraw(uid)

    def _restore(self) -> None:
        """Put everybody in line who waited when another process led, before anybody new is let in."""
        if self._began is not None:
            return
        self._began = now = now_milliseconds(self._clock)
        self._accounting.settle()
        for session in self._caches.sessions.values():
            meta = session.metadata
            waited = any(
                condition.type == ADMITTED and condition.reason in QUEUE_REASONS
                for condition in session.status.conditions
            )
            if not waited or meta.deletion_timestamp or session.spec.suspended or self._caches.pods.by_owner(meta.uid):
                continue
            if pending := self._pending_again(session, now):
                self._keys[meta.uid] = meta.namespace, meta.name
                self._queue.enter(pending, now)
        self._grant()

    def _pending_again(self, session: VDISession, now: int) -> PendingSession | None:
        """What a session waits for that does not ask now; None: it can have no desktop as it is."""
        template, homes = self._caches.templates.get("", session.spec.template), self._caches.homes_of(session)
        desktop = resolve(session, template, self._settings, homes) if template else None
        if not isinstance(desktop, Desktop):
            return None
        return self._pending_session(session, desktop, homes.get(desktop.home.claim) if desktop.home else None, now)

    def _pending_session(
        self, session: VDISession, desktop: Desktop, home: PersistentVolumeClaim | None, now: int
    ) -> PendingSession:
        uid = session.metadata.uid
        known = self._queue.waiting(uid) or (self._granted[uid].pending if uid in self._granted else None)
        before = self._granted_since.get(uid, now) if is_short_of_room(session) else now
        return PendingSession(
            uid=uid,
            user=session.spec.user,
            priority=session.spec.priority,
            since=known.since if known else min(before, _waiting_since(session, now, self._began or now)),
            demand=desktop.demand(self._accounting.pin_of(home)),
        )

    def _make_pools_yield(self, now: int) -> None:
        """Unclaimed desktops of pools yield to sessions: as many as help one, and no more."""
        spare: dict[str, list[Pod]] = {}
        for pod in self._accounting.spare.values():
            node = self._queue.node_of(f"pod/{pod.metadata.uid}")
            if node in self._queue.capacities:
                spare.setdefault(node, []).append(pod)
        for pods in spare.values():
            pods.sort(key=lambda pod: pod.metadata.uid not in self._yielding)
        free = {node: dict(self._queue.capacities[node].free) for node in spare}
        firsts = [(first[0], group) for group in self._queue.groups() if (first := group.queue.first(now))]
        chosen: list[Pod] = []
        for _, group in sorted(firsts, key=lambda pair: pair[0]):
            for _ in range(len(group.queue)):
                helping = _help(group, spare, free)
                if not helping:
                    break
                chosen += helping
        self._yielding &= self._accounting.spare.keys()
        going = [pod for pod in chosen if pod.metadata.uid not in self._yielding]
        if going:
            self._yielding.update(pod.metadata.uid for pod in going)
            self._yield_capacity(going)


def _help(group: Group, spare: dict[str, list[Pod]], free: dict[str, dict[str, int]]) -> list[Pod]:
    """The desktops of one node whose end makes room for one more session of this group; takes them off `spare`."""
    takes = group.demand.takes
    for node, pods in spare.items():
        capacity = group.capacities.get(node)
        if capacity is None or capacity.closed:
            continue
        left, chosen = dict(free[node]), []
        for pod in pods:
            short = [name for name, number in takes if left.get(name, 0) < number]
            if not short:
                break
            if any(pod.spec.takes.get(name) for name in short):
                chosen.append(pod)
                for name, number in pod.spec.takes.items():
                    left[name] = left.get(name, 0) + number
        if chosen and all(left.get(name, 0) >= number for name, number in takes):
            free[node] = {name: number - dict(takes).get(name, 0) for name, number in left.items()}
            spare[node] = [pod for pod in pods if pod not in chosen]
            return chosen
    return []


def _waiting_since(session: VDISession, now: int, began: int) -> int:
    """As the status says. Who comes for the first time comes now, or came when no operator was there to see it.

    Statuses know whole seconds only: within one, the published position tells which came first.
    """
    status = session.status
    for condition in status.conditions:
        if condition.type == ADMITTED and condition.reason in QUEUE_REASONS and condition.last_transition_time:
            bind = status.queue.position if status.queue else 0
            return _milliseconds(condition.last_transition_time) + min(bind, 999)
    if not status.conditions and session.metadata.creation_timestamp:
        made = _milliseconds(session.metadata.creation_timestamp)
        return made if made < began - 1000 else now
    return now


def _milliseconds(text: str) -> int:
    return int(parse_time(text).timestamp() * 1000)
