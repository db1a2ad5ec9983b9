"""The capacity queue: which session starts on which node, and which waits.

Feeds `vdi.session.queueing`, which decides, from the caches. Nothing is written here, and little is
lost with the process: the sessions' statuses say since when each waits.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from vdi.api.meta import find_condition
from vdi.api.session import VDISession
from vdi.cluster.capacity import Demand, demand_of, reaches_home, read_capacity
from vdi.cluster.explain import find_idmap_error
from vdi.cluster.objects import (
    ForeignPod,
    Node,
    NodeSelectorTerm,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
)
from vdi.cluster.reasons import PodReason
from vdi.kube.clock import Clock
from vdi.operator.caches import BY_CLASS, Caches, ClusterContext, SessionKey
from vdi.operator.owned_resources import owner_uid, session_of
from vdi.operator.queue_positions import PublishedPosition, QueuePositions, milliseconds
from vdi.session.autoscaling import NodeRequest
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, Reason
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.failures import is_short_of_room
from vdi.session.homes import Home
from vdi.session.isolation import describe_storage, isolate
from vdi.session.naming import STORAGE, USER_ANNOTATION
from vdi.session.pool import is_waiting
from vdi.session.queueing.groups import Group, PendingSession
from vdi.session.queueing.queue import Queue

log = logging.getLogger(__name__)
_ENDED = frozenset({"Succeeded", "Failed"})
# Pause between two searches for outdated positions.
_TICK_SECONDS = 5.0
# Capacity that was granted and not requested within this time is released.
_UNCLAIMED_MS = 30_000
# A node's filesystem may be replaced, or its kernel updated: idmapped mounts are tried again after
# this time.
_REFUSAL_MS = 3_600_000
# Waiting sessions that are compared before other tasks may run.
_AT_A_TIME = 100


def now_milliseconds(clock: Clock) -> int:
    """Wall time in the queue's unit."""
    return int(clock.now().timestamp() * 1000)


class ResourceAccounting:
    """Keeps the queue's nodes and their use up to date, from the watches of nodes and pods.

    In the queue a grant has the session's uid as its id, or the name of a pool's pod; a pod has
    `pod/<uid>`. As soon as the pod of a grant is known, it takes the grant's place.
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
        self.spare: dict[str, Pod] = {}  # unclaimed desktops of pools, by uid
        self._caches = caches
        self._queue = queue
        self._clock = clock
        self._on_end = on_end
        self._on_change = on_change
        self._unassigned: dict[str, Pod] = {}  # ours, on no node yet, from before this process
        caches.nodes.listen(self._node_changed)
        caches.pods.listen(self._pod_changed)
        caches.foreign_pods.listen(self._foreign_pod_changed)
        caches.foreign_pods_elsewhere.listen(self._foreign_pod_changed)

    def settle(self) -> None:
        """Assume nodes for the pods that had none, from what is known now."""
        for pod in list(self._unassigned.values()):
            self._account_for(pod)

    def pin_of(self, claim: PersistentVolumeClaim | None) -> tuple[NodeSelectorTerm, ...]:
        """The nodes from which a home can be mounted; empty: all, or unknown because there is no
        volume yet.
        """
        return next((volume.pin for volume in self.volumes_of(None, claim)), ())

    def volumes_of(
        self, home: Home | None, claim: PersistentVolumeClaim | None
    ) -> list[PersistentVolume]:
        """The volume of a home; before there is one, those of its StorageClass, which are of the
        same kind.
        """
        volume = None
        if claim and claim.spec.volume_name:
            volume = self._caches.volumes.get("", claim.spec.volume_name)
        if volume or home is None:
            return [volume] if volume else []
        return self._caches.volumes.by_index(BY_CLASS, home.storage_class)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if new is None:
            if old is not None:
                self._queue.remove_node(old.metadata.name)
                self._on_change()
        elif old is None or _capacity(old) != _capacity(new):
            try:
                self._queue.set_node(read_capacity(new))
            except ValueError as why:
                log.error("node %s does not count as capacity: %s", new.metadata.name, why)
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
        if old and new and not is_waiting(new) and _use_of(old) == _use_of(new):
            return  # it starts or is ready: its use has not changed
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
        granted = owner.uid if owner else pod.metadata.name
        if pod.metadata.deletion_timestamp:
            granted = ""
        user = ""
        if owner:
            user = pod.metadata.annotations.get(USER_ANNOTATION, "")
        if is_waiting(pod):
            self.spare[uid] = pod
        else:
            self.spare.pop(uid, None)
        if pod.spec.node_name:
            queue.bind(_id(pod), pod.spec.node_name, pod.spec.takes, user=user, now=now)
        elif not queue.assume(
            _id(pod), self._demand(pod), pod.spec.takes, user=user, granted=granted, now=now
        ):
            self._unassigned[uid] = pod
            return
        self._unassigned.pop(uid, None)
        if granted:
            queue.remove(granted, now)
            queue.leave(granted, now)

    def _demand(self, pod: Pod) -> Demand:
        claim = None
        if pod.home_claim:
            claim = self._caches.claims.get(pod.metadata.namespace, pod.home_claim)
        spec = pod.spec
        return demand_of(
            spec.takes, spec.node_selector.items(), spec.tolerations, self.pin_of(claim)
        )


def _id(pod: Pod | ForeignPod) -> str:
    return f"pod/{pod.metadata.uid}"


def _use_of(pod: Pod) -> tuple[object, ...]:
    """The fields of a pod that decide what it uses."""
    meta, spec = pod.metadata, pod.spec
    ended = pod.status.phase in _ENDED
    return (
        meta.uid,
        meta.deletion_timestamp,
        ended,
        spec.node_name,
        spec.takes,
        meta.owner_references,
    )


def _capacity(node: Node) -> tuple[object, ...]:
    """The fields of a node that decide its capacity; others change with every heartbeat."""
    meta, spec = node.metadata, node.spec
    state = meta.deletion_timestamp, spec.unschedulable, spec.taints, node.ready
    return (
        *state,
        meta.labels,
        node.status.allocatable,
        node.status.node_info,
        node.status.runtime_handlers,
    )


@dataclass(slots=True)
class _Granted:
    """Capacity reserved for a session, since `at`; `fetched` when its reconcile has got it."""

    pending: PendingSession
    at: int
    fetched: bool = False


class QueueManager:
    """The operator's capacity queue, used by the controllers of sessions, pools and placeholders.

    Its maps live as long as this process leads; the next leader reads statuses and pods again. They
    are touched only from the event loop's thread, between two awaits: hence no lock.
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
        """Create the queue and listen to the caches.

        `node_requests`: nodes requested from an autoscaler, by shape; None without one. `enqueue`
        gets each session that may start or whose position has changed, `yield_capacity` the pools'
        desktops whose place a session needs.
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
        # All by the session's uid.
        self._keys: dict[str, SessionKey] = {}
        self._granted: dict[str, _Granted] = {}  # may start, and have no pod in the caches yet
        self._published: dict[
            str, PublishedPosition
        ] = {}  # part of the status of a waiting session
        # Since when a session had waited whose pod has no node yet. If the scheduler refuses the
        # pod, the session goes on waiting from there. No status has this, so after a restart it
        # waits from now.
        self._granted_since: dict[str, int] = {}
        self._yielding: set[str] = set()  # uids of pools' desktops
        self._refusals: dict[
            tuple[str, str], int
        ] = {}  # (node, storage) -> end, see `note_refusal`
        self._began: int | None = None  # when this process began to lead

    def request(
        self, session: VDISession, desktop: Desktop, home: PersistentVolumeClaim | None
    ) -> PublishedPosition | None:
        """Request capacity for a session's desktop.

        None: start. The capacity is reserved until the pod is in the caches, or `withdraw`. Else
        the session waits, and is enqueued when that changes.
        """
        self._restore()
        uid, now = session.metadata.uid, now_milliseconds(self._clock)
        pending = self._pending_session(session, desktop, home, now)
        present = self._granted.get(uid)
        if present and (
            present.pending.demand != pending.demand or self._queue.node_of(uid) is None
        ):
            self._queue.remove(uid, now)  # it requests something else, or needs another pod
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
        return self._publish(pending, now)

    def request_for_pool(self, pod: str, desktop: Desktop) -> Blocked | None:
        """Reserve capacity for a pool's pod until it is in the caches, or `withdraw`; the reason
        where that fails.

        A session that waits for the same capacity goes first.
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

    def note_refusal(self, pod: Pod) -> None:
        """Remember for an hour that the node could not mount such volumes in the pod's user
        namespace, if it did not.

        Not in the API: after a restart, the next start meets the refusal again, and loses some
        seconds.
        """
        if error := find_idmap_error(pod):
            storage = pod.metadata.annotations.get(STORAGE, "")
            now = now_milliseconds(self._clock)
            self._refusals = {key: until for key, until in self._refusals.items() if until > now}
            self._refusals[pod.spec.node_name, storage] = now + _REFUSAL_MS
            log.warning(
                "node %s has no idmapped mounts for %s: %s", pod.spec.node_name, storage, error
            )

    def find_refusal(
        self, desktop: Desktop, home: PersistentVolumeClaim | None = None
    ) -> Blocked | None:
        """The reason why a desktop gets no pod that requires a user namespace, but cannot have one;
        None: it gets one.

        Asked before capacity is requested, so that the session holds none while it waits.
        """
        if not self._refusals or not desktop.isolation.user_namespace:
            return None
        if not (obstacle := self.isolate(desktop, home).isolation.obstacle):
            return None
        message = (
            f"The template requires a user namespace, but {obstacle}. Use another StorageClass, or"
            ' set isolation.userNamespaces: "Off" in the template. Otherwise it is tried again'
            " after an hour."
        )
        return Blocked(PodReason.NO_IDMAPPED_MOUNTS, message)

    def isolate(self, desktop: Desktop, home: PersistentVolumeClaim | None = None) -> Desktop:
        """The desktop with its isolation decided, for a pod that is created now."""
        demand = desktop.demand(self._accounting.pin_of(home))
        # Asked without the home: the group of one home is gone with its last waiting session.
        placed = self._queue.allowed_nodes(replace(demand, pin=()))
        nodes = []
        for node in placed:
            if node.could_fit(demand.takes) and reaches_home(demand, node):
                nodes.append(node)
        volumes = self._accounting.volumes_of(desktop.home, home)
        storage = describe_storage(desktop.volumes, desktop.home, volumes)
        now = now_milliseconds(self._clock)
        refusing = []
        for node in nodes:
            if self._refusals.get((node.name, storage), 0) > now:
                refusing.append(node.name)
        return replace(
            desktop,
            isolation=isolate(desktop.isolation, nodes, desktop.home, volumes, storage, refusing),
        )

    def withdraw(self, uid: str) -> None:
        """Take a session, or the pool's pod of this name, out of the queue, and free its
        capacity.
        """
        now = now_milliseconds(self._clock)
        self._queue.leave(uid, now)
        self._queue.remove(uid, now)
        self._granted.pop(uid, None)
        self._published.pop(uid, None)
        self._keys.pop(uid, None)
        self._grant()

    def forget(self, uid: str) -> None:
        """Withdraw a session that is gone, and drop the time of its last grant."""
        self._granted_since.pop(uid, None)
        self.withdraw(uid)

    def waits(self, *, gpu: bool = False) -> list[float]:
        """Seconds that each waiting session has waited. `gpu`: only of sessions that request a
        GPU.
        """
        now, resource = now_milliseconds(self._clock), self._settings.gpu_resource
        return [
            pending.waited(now) / 1000
            for pending in self._queue
            if not gpu or resource in dict(pending.demand.takes)
        ]

    @property
    def changes(self) -> int:
        """A number that grows with every change of capacity or of the waiting sessions."""
        return self._queue.changes

    def waiting_demands(self) -> list[tuple[Demand, int]]:
        """Number of waiting sessions of each shape, the first in line first."""
        self._restore()
        return [
            (group.demand, len(group.queue))
            for group in self._groups(now_milliseconds(self._clock))
        ]

    async def run(self) -> None:
        """Keep the queue and the published positions up to date, until cancelled."""
        while True:
            await self._clock.sleep(_TICK_SECONDS)
            self._restore()
            now = now_milliseconds(self._clock)
            self._accounting.settle()
            self._drop_unclaimed(now)
            self._queue.tick(now)
            self._grant()
            await self._enqueue_outdated(now)

    def _grant(self, asking: str = "") -> None:
        """Reserve capacity for the sessions that are next, and enqueue them, except `asking`."""
        if not len(self._queue):
            return
        now = now_milliseconds(self._clock)
        for grant in self._queue.grant(now):
            uid = grant.pending.uid
            self._granted[uid] = _Granted(grant.pending, now)
            self._granted_since[uid] = grant.pending.since
            if uid != asking:
                self._enqueue(self._keys[uid])
        if self._accounting.spare:
            self._make_pools_yield(now)

    def _pod_changed(self, _old: Pod | None, new: Pod | None) -> None:
        if new and new.spec.node_name and (uid := owner_uid(new)):
            self._granted_since.pop(uid, None)

    def _keep_capacity(self, pod: Pod) -> None:
        """Keep the capacity of a pod that has ended for its session."""
        # The run goes on with another pod, so its session goes before all that wait. If it does not
        # request the capacity at once (a loss with a pause, a session that is given up), its
        # controller withdraws.
        owner = session_of(pod)
        session = None
        if owner:
            session = self._caches.sessions.get(pod.metadata.namespace, owner.name)
        if (
            self._began is None
            or owner is None
            or session is None
            or session.metadata.uid != owner.uid
        ):
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
            self._queue.bind(
                owner.uid, capacity.name, dict(pending.demand.takes), user=pending.user, now=now
            )
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
            if (
                before
                and self._positions.of(pending, now, before) is not before
                and pending.uid in self._keys
            ):
                self._enqueue(self._keys[pending.uid])

    def _drop_unclaimed(self, now: int) -> None:
        for uid, granted in list(self._granted.items()):
            if self._queue.node_of(uid) is None:
                del self._granted[uid]  # it has its pod
                self._keys.pop(uid, None)
            elif not granted.fetched and now - granted.at > _UNCLAIMED_MS:
                log.warning(
                    "%s/%s did not use the capacity that was reserved for it",
                    *self._keys.get(uid, ("?", uid)),
                )
                self.withdraw(uid)

    def _restore(self) -> None:
        """At the first use: put the sessions in line that waited under the last leader, before any
        new one starts.
        """
        if self._began is not None:
            return
        self._began = now = now_milliseconds(self._clock)
        self._accounting.settle()
        for session in self._caches.sessions.values():
            meta = session.metadata
            admitted = find_condition(session.status.conditions, ADMITTED)
            waited = admitted is not None and admitted.reason in QUEUE_REASONS
            if (
                not waited
                or meta.deletion_timestamp
                or session.spec.suspended
                or self._caches.pods.by_owner(meta.uid)
            ):
                continue
            if pending := self._pending_again(session, now):
                self._keys[meta.uid] = meta.namespace, meta.name
                self._queue.enter(pending, now)
        self._grant()

    def _pending_again(self, session: VDISession, now: int) -> PendingSession | None:
        """The pending session of one that requests nothing now; None where it can have no desktop
        as it is.
        """
        template = self._caches.templates.get("", session.spec.template)
        homes = self._caches.homes_of(session)
        desktop = None
        if template:
            desktop = resolve(session, template, self._settings, homes)
        if not isinstance(desktop, Desktop):
            return None
        return self._pending_session(
            session, desktop, homes.get(desktop.home.claim) if desktop.home else None, now
        )

    def _pending_session(
        self, session: VDISession, desktop: Desktop, home: PersistentVolumeClaim | None, now: int
    ) -> PendingSession:
        uid = session.metadata.uid
        known = self._queue.waiting(uid) or (
            self._granted[uid].pending if uid in self._granted else None
        )
        if is_short_of_room(session):
            before = self._granted_since.get(uid, now)
        else:
            before = now
        return PendingSession(
            uid=uid,
            user=session.spec.user,
            priority=session.spec.priority,
            since=(
                known.since
                if known
                else min(before, _waiting_since(session, now, self._began or now))
            ),
            demand=desktop.demand(self._accounting.pin_of(home)),
        )

    def _make_pools_yield(self, now: int) -> None:
        """Have unclaimed desktops of pools yield to waiting sessions: as many as let one start, and
        no more.
        """
        spare: dict[str, list[Pod]] = {}
        for pod in self._accounting.spare.values():
            node = self._queue.node_of(f"pod/{pod.metadata.uid}")
            if node in self._queue.capacities:
                spare.setdefault(node, []).append(pod)
        for pods in spare.values():
            pods.sort(key=lambda pod: pod.metadata.uid not in self._yielding)
        free = {node: dict(self._queue.capacities[node].free) for node in spare}
        chosen: list[Pod] = []
        for group in self._groups(now):
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

    def _groups(self, now: int) -> list[Group]:
        """The groups in which sessions wait, in the order of their first session."""
        firsts = []
        for group in self._queue.groups():
            if first := group.queue.first(now):
                firsts.append((first[0], group))
        return [group for _, group in sorted(firsts, key=lambda pair: pair[0])]


def _help(group: Group, spare: dict[str, list[Pod]], free: dict[str, dict[str, int]]) -> list[Pod]:
    """Desktops of one node whose end lets one more session of this group start; takes them off
    `spare`.
    """
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
    """Since when a session has waited, from its status; without one since now, or since an operator
    was missing.
    """
    status = session.status
    admitted = find_condition(status.conditions, ADMITTED)
    if admitted and admitted.reason in QUEUE_REASONS and admitted.last_transition_time:
        # Times in a status are whole seconds; within one, the published position says which session
        # came first.
        position = status.queue.position if status.queue else 0
        return milliseconds(admitted.last_transition_time) + min(position, 999)
    if not status.conditions and session.metadata.creation_timestamp:
        made = milliseconds(session.metadata.creation_timestamp)
        return made if made < began - 1000 else now
    return now
