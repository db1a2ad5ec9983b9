"""Gives desktops that run already to sessions: one patch makes a pool's pod a session's, and nothing is restarted.

    claim:  pod --one patch (owner, labels, run)--> the session's pod, at one version of it only
    then:   Secret (same password), Service, route, status: as for any other pod of the session

Killed between these writes, the next start finds the pod by its owner and goes on: what the desktop was started with
follows from the pod's name. Only the pod owns its own Secret, which outlives the pool and dies with the desktop.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

import msgspec

from vdi.api.meta import API_VERSION
from vdi.api.pool import VDIPool
from vdi.api.session import Phase, VDISession
from vdi.cluster.objects import Node, Pod
from vdi.kube import wire
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.events import EventRecorder
from vdi.kube.meta import ObjectReference
from vdi.kube.resource import PODS
from vdi.operator.caches import BY_TEMPLATE, ClusterContext
from vdi.operator.owned_resources import owner_uid
from vdi.operator.release_keys import ReleaseKey
from vdi.session.decide import Observed
from vdi.session.effective import Desktop, resolve
from vdi.session.lifetime import run_annotations
from vdi.session.naming import HOLD, TEMPLATE_ANNOTATION, TEMPLATE_REVISION, Identity, assigned_namespace
from vdi.session.pool import FITS, can_serve, explain_unserved, fingerprint, is_waiting, pool_desktop, pool_of

# Indices of pods, by the name of the pool that has made them: those that no session has claimed, and the others.
_WAITING, _TAKEN = "pool-waiting", "pool-taken"

# Index of pools, by the template that they keep ready.
BY_POOLED_TEMPLATE = "pooled-template"
# Reason of the Event for a session that a pool of its template cannot serve.
NOT_FROM_POOL = "NotFromPool"
_TRIES = 3
# Sessions in the queue that are looked at for one that a desktop fits: of thousands, many are alike.
_LOOKED_AT = 50


class Pools:
    """Who has which of the pools' desktops.

    `_reserved` (uids of pods that are being claimed or removed) keeps the two apart between decision and cache; it is
    touched only between two awaits. `_yielding` has the uids of pods until they are gone. `_informed` has the sessions
    that have the Event why no pool serves them; a uid stays as long as its session, and after a restart a session may
    get the Event once more.
    """

    def __init__(
        self,
        cluster: ClusterContext,
        recorder: EventRecorder,
        key: ReleaseKey,
        enqueue_pool: Callable[[str, float], None],
    ) -> None:
        """`enqueue_pool` gets the name of a pool that needs work, and the seconds until then."""
        caches = cluster.caches
        self._client = cluster.client
        self._caches = caches
        self._recorder = recorder
        self._key = key
        self._settings = cluster.settings
        self._namespaces = cluster.namespaces
        self._clock = cluster.clock
        self._enqueue_pool = enqueue_pool
        self._yielding: set[str] = set()
        self._reserved: set[str] = set()
        self._informed: set[str] = set()
        caches.pods.add_index(_WAITING, lambda pod: _pool_names(pod) if is_waiting(pod) else ())
        caches.pods.add_index(_TAKEN, lambda pod: () if is_waiting(pod) else _pool_names(pod))
        caches.pools.add_index(BY_POOLED_TEMPLATE, lambda pool: [pool.spec.template])
        caches.sessions.listen(self._session_changed)
        caches.pods.listen(self._pod_changed)

    async def claim(self, observed: Observed, desktop: Desktop) -> Pod | None:
        """Make a ready desktop this session's, the oldest that fits; None without one.

        None as well for a session that has a Secret: what is in there is what its users know.
        Raises KubeError when it is not known whether it has worked: the caller tries again later.
        """
        pools = self._pools_for(observed.session)
        if not pools:
            return None
        if observed.template and (why := self._unserved(observed, desktop, pools[0])):
            self._inform(observed.session, why)
            return None
        desired = self.fingerprint(observed.session.spec.template, desktop)
        for pod in self._candidates(pools, desired, observed.session.metadata.namespace):
            if not self.reserve(pod):
                continue
            try:
                if claimed := await self._claim(pod, desired, observed.session, desktop):
                    return claimed
            finally:
                self.release(pod)
        return None

    def node_of(self, name: str) -> Node | None:
        """The node of that name."""
        return self._caches.nodes.get("", name)

    def yield_capacity(self, pods: Iterable[Pod]) -> None:
        """Give up these desktops, which no session has taken: a session waits for what they take of their nodes."""
        for pod in pods:
            self._yielding.add(pod.metadata.uid)
            self._enqueue_pool(pool_of(pod) or "", 0.0)

    def is_yielding(self, pod: Pod) -> bool:
        """Whether this desktop is given up for a session that waits."""
        return pod.metadata.uid in self._yielding

    def waiting_in(self, pool: str) -> list[Pod]:
        """Unclaimed desktops of pools of this name."""
        return self._caches.pods.by_index(_WAITING, pool)

    def taken_from(self, pool: str) -> list[Pod]:
        """Desktops that pools of this name have made, and that are sessions' now."""
        return self._caches.pods.by_index(_TAKEN, pool)

    def next_for(self, pod: Pod) -> tuple[str, str] | None:
        """Who of those that wait should take this desktop: the first in the queue whom it fits."""
        template = self._caches.templates.get("", pod.metadata.annotations.get(TEMPLATE_ANNOTATION, ""))
        if template is None or not self._key.known:  # all sessions are reconciled when this process begins to lead
            return None
        sessions = self._caches.sessions.by_index(BY_TEMPLATE, template.metadata.name)
        waiting = (
            session
            for session in sessions
            if session.status.phase in ("", Phase.PENDING) and session.metadata.namespace == pod.metadata.namespace
        )
        for session in heapq.nsmallest(_LOOKED_AT, waiting, key=_queue_key):
            desktop = resolve(session, template, self._settings)
            if isinstance(desktop, Desktop) and pod.metadata.annotations.get(FITS) == self.fingerprint(
                template.metadata.name, desktop
            ):
                return session.metadata.namespace, session.metadata.name
        return None

    def reserve(self, pod: Pod) -> bool:
        """Reserve a waiting desktop, to give it away or to remove it; False when somebody was faster."""
        uid = pod.metadata.uid
        now = self._caches.pods.get(pod.metadata.namespace, pod.metadata.name)
        if uid in self._reserved or now is None or now.metadata.uid != uid or not is_waiting(now):
            return False
        self._reserved.add(uid)
        return True

    async def withdraw(self, pod: Pod) -> bool:
        """Take this desktop out of the pool; False when it has changed, and has to be looked at again.

        A delete takes no version for a condition here. Without this step, a leader whose caches lag could delete a
        desktop that its predecessor gave away at the very last.
        """
        meta = pod.metadata
        patch = {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "annotations": {FITS: None}}}
        try:
            response = await self._client.patch(PODS, meta.name, patch, namespace=meta.namespace, into=msgspec.Raw)
        except Conflict:
            return False
        except NotFound:
            return True
        self._remember(response)
        return True

    def release(self, pod: Pod) -> None:
        """What was to be done with it is done, or was given up."""
        self._reserved.discard(pod.metadata.uid)

    def fingerprint(self, template: str, desktop: Desktop) -> str:
        """What a desktop of a pool has to carry to be this one."""
        return fingerprint(template, desktop, self._settings, self._key.value)

    def _pools_for(self, session: VDISession) -> list[VDIPool]:
        """The pools of its template in its own namespace: a pod cannot be moved to another."""
        pools = self._caches.pools.by_index(BY_POOLED_TEMPLATE, session.spec.template)
        namespace = session.metadata.namespace
        mine = (pool for pool in pools if assigned_namespace(pool.metadata, self._namespaces) == namespace)
        return sorted(mine, key=lambda pool: pool.metadata.name)

    def _candidates(self, pools: Iterable[VDIPool], desired: str, namespace: str) -> Iterator[Pod]:
        """The oldest first. Also those of a pool that is being deleted: they had better serve somebody."""
        pods = [pod for pool in pools for pod in self.waiting_in(pool.metadata.name)]
        pods.sort(key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
        return (pod for pod in pods if pod.metadata.namespace == namespace and can_serve(pod, desired, self.node_of))

    async def _claim(self, pod: Pod, desired: str, session: VDISession, desktop: Desktop) -> Pod | None:
        """Patch that very state of the pod. It changes by itself all the time: then look again, and try that state."""
        candidate: Pod | None = pod
        for _ in range(_TRIES):
            if candidate is None or owner_uid(candidate) == session.metadata.uid:
                return candidate  # ours: a patch whose answer was lost
            if not can_serve(candidate, desired, self.node_of):
                return None
            try:
                return await self._patch(candidate, session, desktop)
            except Conflict:
                candidate = await self._get_live(candidate)
            except NotFound:
                return None
        return None

    async def _patch(self, pod: Pod, session: VDISession, desktop: Desktop) -> Pod:
        meta = pod.metadata
        mine = Identity.of(session).metadata(meta.name)
        run = run_annotations(session, self._clock.now())
        patch = {
            "metadata": {
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
                "labels": {**mine["labels"], HOLD: "true"},
                "annotations": {**mine["annotations"], **run, TEMPLATE_REVISION: desktop.template_revision},
                "ownerReferences": mine["ownerReferences"],
            }
        }
        response = await self._client.patch(PODS, meta.name, patch, namespace=meta.namespace, into=msgspec.Raw)
        return self._remember(response)

    async def _get_live(self, pod: Pod) -> Pod | None:
        meta = pod.metadata
        try:
            response = await self._client.get(PODS, meta.name, namespace=meta.namespace, into=msgspec.Raw)
        except NotFound:
            return None
        live = self._remember(response)
        return live if live.metadata.uid == meta.uid else None

    def _remember(self, response: msgspec.Raw) -> Pod:
        pod = wire.decode(response, Pod, PODS.kind)
        self._caches.pods.remember(pod)
        return pod

    def _unserved(self, observed: Observed, desktop: Desktop, pool: VDIPool) -> str | None:
        offered = pool_desktop(pool, observed.template, self._settings)
        if not isinstance(offered, Desktop):
            return None  # the pool's own status says why it has nothing
        return explain_unserved(desktop, pool.metadata.name, offered, has_password=observed.secret is not None)

    def _inform(self, session: VDISession, why: str) -> None:
        meta = session.metadata
        if meta.uid not in self._informed:
            self._informed.add(meta.uid)
            subject = ObjectReference(API_VERSION, "VDISession", meta.name, meta.uid, meta.namespace)
            self._recorder.emit(subject, "Normal", NOT_FROM_POOL, why, "Claim")

    def _session_changed(self, old: VDISession | None, new: VDISession | None) -> None:
        if new is None and old is not None:
            self._informed.discard(old.metadata.uid)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        if new is None and old is not None:
            self._yielding.discard(old.metadata.uid)


def _queue_key(session: VDISession) -> tuple[float, str]:
    queue = session.status.queue
    return (queue.position if queue else float("inf")), session.metadata.creation_timestamp


def _pool_names(pod: Pod) -> tuple[str, ...]:
    name = pool_of(pod)
    return (name,) if name else ()
