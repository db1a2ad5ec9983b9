"""Claims of pools' desktops: one patch makes a running pod of a pool a session's, and nothing is
restarted.

    claim:  pod --one patch (owner, labels, run)--> the session's pod, at one version of it only
    then:   Secret (same password), Service, route, status: as for any other pod of the session

Killed between these writes, the next start finds the pod by its owner and goes on: the desktop's
tokens follow from the pod's name. The pod owns its first Secret, which outlives the pool and goes
with the desktop.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator

from vdi.api.pool import VDIPool
from vdi.api.session import Phase, VDISession
from vdi.cluster.objects import Node, Pod
from vdi.kinds import reference_to
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.events import EventRecorder
from vdi.operator.caches import BY_TEMPLATE, ClusterContext
from vdi.operator.owned_resources import OwnedResource, owner_uid
from vdi.operator.release_keys import ReleaseKey
from vdi.session.decide import Observed
from vdi.session.effective import Desktop, resolve
from vdi.session.lifetime import run_annotations
from vdi.session.naming import (
    HOLD,
    TEMPLATE_ANNOTATION,
    TEMPLATE_REVISION,
    Identity,
    assigned_namespace,
)
from vdi.session.pool import (
    FITS,
    can_serve,
    explain_unserved,
    fingerprint,
    is_waiting,
    pool_desktop,
    pool_of,
)

# Indices of pods by the name of their pool: desktops that no session has claimed, and the claimed
# ones.
_WAITING, _TAKEN = "pool-waiting", "pool-taken"

# Index of pools by their template.
BY_POOLED_TEMPLATE = "pooled-template"
# Reason of the Event for a session that no pool of its template can serve.
NOT_FROM_POOL = "NotFromPool"
_TRIES = 3
# Seconds without a claim after which pools start desktops again, and the longest time that they
# wait for that. A start takes CPU on the node from the pictures that the people who have just
# claimed are waiting for.
CALM_SECONDS, _LONGEST_WAIT_SECONDS = 1.5, 3.0
# Waiting sessions that are compared with a desktop that becomes ready: of thousands, many are
# alike.
_LOOKED_AT = 50


class PoolClaims:
    """The pools' desktops, unclaimed and claimed; used by the controllers of sessions and pools."""

    def __init__(
        self,
        cluster: ClusterContext,
        pods: OwnedResource[Pod],
        recorder: EventRecorder,
        key: ReleaseKey,
        enqueue_pool: Callable[[str, float], None],
    ) -> None:
        """`enqueue_pool` gets the name of a pool that needs work, and the seconds until then."""
        caches = cluster.caches
        self._pods = pods
        self._caches = caches
        self._recorder = recorder
        self._key = key
        self._settings = cluster.settings
        self._namespaces = cluster.namespaces
        self._clock = cluster.clock
        self._enqueue_pool = enqueue_pool
        # Uids of pods that are being claimed or removed: keeps the two apart between decision and
        # cache. Touched only between two awaits: hence no lock.
        self._reserved: set[str] = set()
        self._yielding: set[str] = set()  # uids of pods, until they are gone
        # Uids of sessions that have the Event why no pool serves them. After a restart they may get
        # it once more.
        self._informed: set[str] = set()
        # On the monotonic clock: since when and until when people count as claiming.
        self._busy_from = self._busy_until = float("-inf")
        caches.pods.add_index(_WAITING, lambda pod: _pool_names(pod) if is_waiting(pod) else ())
        caches.pods.add_index(_TAKEN, lambda pod: () if is_waiting(pod) else _pool_names(pod))
        caches.pools.add_index(BY_POOLED_TEMPLATE, lambda pool: [pool.spec.template])
        caches.sessions.listen(self._session_changed)
        caches.pods.listen(self._pod_changed)

    async def claim(self, observed: Observed, desktop: Desktop) -> Pod | None:
        """Give the session the oldest ready desktop that fits; None without one.

        A session that has a Secret gets none: its users know the password in there. Raises
        KubeError when it is not known whether the claim has worked: the caller tries again later.
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
                    self._note_claim()
                    return claimed
            finally:
                self.release(pod)
        return None

    def _note_claim(self) -> None:
        now = self._clock.monotonic()
        # Also after the longest wait pools get their time, or each claim of many would begin
        # another.
        if now > self._busy_until + CALM_SECONDS:
            self._busy_from = now
        self._busy_until = min(now + CALM_SECONDS, self._busy_from + _LONGEST_WAIT_SECONDS)

    def seconds_until_calm(self) -> float:
        """Seconds for which pools start no desktops, because people are claiming some; at most 0
        when they may.
        """
        return self._busy_until - self._clock.monotonic()

    def node_of(self, name: str) -> Node | None:
        return self._caches.nodes.get("", name)

    def yield_capacity(self, pods: Iterable[Pod]) -> None:
        """Mark unclaimed desktops for removal, because a session waits for their capacity."""
        for pod in pods:
            self._yielding.add(pod.metadata.uid)
            self._enqueue_pool(pool_of(pod) or "", 0.0)

    def is_yielding(self, pod: Pod) -> bool:
        """Whether this desktop is to go because a session waits for its capacity."""
        return pod.metadata.uid in self._yielding

    def waiting_in(self, pool: str) -> list[Pod]:
        """Unclaimed desktops of the pool of this name, old and new."""
        return self._caches.pods.by_index(_WAITING, pool)

    def taken_from(self, pool: str) -> list[Pod]:
        """Desktops of the pool of this name that sessions have claimed."""
        return self._caches.pods.by_index(_TAKEN, pool)

    def next_for(self, pod: Pod) -> tuple[str, str] | None:
        """The waiting session that should get this desktop: the first in the queue that it fits."""
        template = self._caches.templates.get(
            "", pod.metadata.annotations.get(TEMPLATE_ANNOTATION, "")
        )
        # Not leading yet; then every session is reconciled.
        if template is None or not self._key.known:
            return None
        sessions = self._caches.sessions.by_index(BY_TEMPLATE, template.metadata.name)
        waiting = (
            session
            for session in sessions
            if session.status.phase in ("", Phase.PENDING)
            and session.metadata.namespace == pod.metadata.namespace
        )
        for session in heapq.nsmallest(_LOOKED_AT, waiting, key=_queue_key):
            desktop = resolve(session, template, self._settings)
            if isinstance(desktop, Desktop) and pod.metadata.annotations.get(
                FITS
            ) == self.fingerprint(template.metadata.name, desktop):
                return session.metadata.namespace, session.metadata.name
        return None

    def reserve(self, pod: Pod) -> bool:
        """Reserve an unclaimed desktop, to claim or to remove it; False when it is reserved,
        claimed or gone.
        """
        uid = pod.metadata.uid
        now = self._caches.pods.get(pod.metadata.namespace, pod.metadata.name)
        if uid in self._reserved or now is None or now.metadata.uid != uid or not is_waiting(now):
            return False
        self._reserved.add(uid)
        return True

    async def withdraw(self, pod: Pod) -> bool:
        """Take a desktop out of its pool before it is deleted; False when it has changed since,
        perhaps by a claim.
        """
        # A DELETE takes a uid as its precondition, but no resourceVersion here. Without this patch
        # a leader whose caches lag could delete a desktop that its predecessor gave to a session at
        # the very last.
        try:
            await self._pods.patch_unchanged(pod, annotations={FITS: None})
        except Conflict:
            return False
        except NotFound:
            return True
        return True

    def release(self, pod: Pod) -> None:
        """Let another session have a pod that `reserve` returned."""
        self._reserved.discard(pod.metadata.uid)

    def fingerprint(self, template: str, desktop: Desktop) -> str:
        """The annotation that a pool's pod must have to serve as this desktop."""
        return fingerprint(template, desktop, self._settings, self._key.value)

    def _pools_for(self, session: VDISession) -> list[VDIPool]:
        """The pools of the session's template in its own namespace: a pod cannot move to
        another.
        """
        pools = self._caches.pools.by_index(BY_POOLED_TEMPLATE, session.spec.template)
        namespace = session.metadata.namespace
        mine = (
            pool
            for pool in pools
            if assigned_namespace(pool.metadata, self._namespaces) == namespace
        )
        return sorted(mine, key=lambda pool: pool.metadata.name)

    def _candidates(self, pools: Iterable[VDIPool], desired: str, namespace: str) -> Iterator[Pod]:
        """Desktops that fit, the oldest first, also of a pool that is being deleted."""
        pods = [pod for pool in pools for pod in self.waiting_in(pool.metadata.name)]
        pods.sort(key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name))
        return (
            pod
            for pod in pods
            if pod.metadata.namespace == namespace and can_serve(pod, desired, self.node_of)
        )

    async def _claim(
        self, pod: Pod, desired: str, session: VDISession, desktop: Desktop
    ) -> Pod | None:
        # A pod's status changes all the time, and the patch holds for one version only: after a
        # conflict the live pod is checked again and tried.
        candidate: Pod | None = pod
        for _ in range(_TRIES):
            if candidate is None or owner_uid(candidate) == session.metadata.uid:
                return candidate  # ours: a patch whose answer was lost
            if not can_serve(candidate, desired, self.node_of):
                return None
            try:
                return await self._hand_over(candidate, session, desktop)
            except Conflict:
                candidate = await self._get_live(candidate)
            except NotFound:
                return None
        return None

    async def _hand_over(self, pod: Pod, session: VDISession, desktop: Desktop) -> Pod:
        mine = Identity.of(session).metadata(pod.metadata.name)
        run = run_annotations(session, self._clock.now())
        return await self._pods.patch_unchanged(
            pod,
            labels={**mine["labels"], HOLD: "true"},
            annotations={
                **mine["annotations"],
                **run,
                TEMPLATE_REVISION: desktop.template_revision,
            },
            ownerReferences=mine["ownerReferences"],
        )

    async def _get_live(self, pod: Pod) -> Pod | None:
        live = await self._pods.get_live(pod.metadata.namespace, pod.metadata.name)
        if live is None or live.metadata.uid != pod.metadata.uid:
            return None
        self._caches.pods.remember(live)
        return live

    def _unserved(self, observed: Observed, desktop: Desktop, pool: VDIPool) -> str | None:
        offered = pool_desktop(pool, observed.template, self._settings)
        if not isinstance(offered, Desktop):
            return None  # the pool's own status says why it has nothing
        return explain_unserved(
            desktop, pool.metadata.name, offered, has_password=observed.secret is not None
        )

    def _inform(self, session: VDISession, why: str) -> None:
        uid = session.metadata.uid
        if uid not in self._informed:
            self._informed.add(uid)
            self._recorder.emit(reference_to(session), "Normal", NOT_FROM_POOL, why, "Claim")

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
