"""Feeds the queue with the nodes and with all pods on them. From the stores alone."""

import logging
from collections.abc import Callable

from vdi.kube.clock import Clock
from vdi.operator.caches import Caches
from vdi.operator.owned_resources import session_of
from vdi.session.capacity import ForeignPod, NodeSelectorTerm
from vdi.session.capacity_matching import Demand, demand_of, read_capacity
from vdi.session.identity import USER_ANNOTATION
from vdi.session.observed import Node, PersistentVolumeClaim, Pod
from vdi.session.pool import is_waiting
from vdi.session.queueing.queue import Queue

log = logging.getLogger(__name__)
_ENDED = frozenset({"Succeeded", "Failed"})


def milliseconds(clock: Clock) -> int:
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
        now = milliseconds(self._clock)
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
        self._queue.remove(_id(pod), milliseconds(self._clock))

    def _account_for(self, pod: Pod) -> None:
        if pod.status.phase in _ENDED:
            self._forget(pod)
            return
        queue, uid, now = self._queue, pod.metadata.uid, milliseconds(self._clock)
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
