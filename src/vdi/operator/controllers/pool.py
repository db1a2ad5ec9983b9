"""Controller of VDIPool: creates missing desktops, removes outdated and broken ones, writes the
status.

caches -> plan (`session.pool`) -> remove, complete, create -> status -> soonest requeue
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from vdi.api.meta import find_condition
from vdi.api.pool import PoolStatus, VDIPool
from vdi.api.template import VDITemplate
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Node, Pod
from vdi.kinds import POOLS
from vdi.kube.apply import Applier
from vdi.kube.errors import KubeError, NotFound
from vdi.kube.queue import Result
from vdi.kube.resource import PODS, SECRETS
from vdi.operator.caches import ClusterContext
from vdi.operator.child_writes import explain_refusal
from vdi.operator.owned_resources import UncertainCreates, is_uncertain
from vdi.operator.pool_claims import BY_POOLED_TEMPLATE, PoolClaims
from vdi.operator.queueing import QueueManager
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.status import ClusterStatusWriter, printable
from vdi.session import pool as pooling
from vdi.session.children import Secret, build_pool_pod, build_pool_secret
from vdi.session.conditions import BUSY_REASONS, READY
from vdi.session.credentials import derive_pool_tokens
from vdi.session.effective import Blocked, Desktop
from vdi.session.naming import PoolIdentity, assigned_namespace, pool_pod_name, pool_secret_name
from vdi.session.pool import FITS, is_waiting, pool_of
from vdi.session.schedule import next_change

log = logging.getLogger(__name__)
T = TypeVar("T")

# Desktops that one pool starts at a time: users' own sessions need the API server and the registry,
# too.
AT_ONCE = 8
# An unused desktop has nothing to save, and a session may wait for its GPU.
GRACE_SECONDS = 1
# Until a pool without capacity tries again.
_CAPACITY_AGAIN_SECONDS = 5.0
# Until a refused pod is tried again: no event reports that a quota or a label of the namespace has
# changed.
_REFUSED_AGAIN_SECONDS = 30.0
# Changes of a pool's desktops within this time are handled together.
_GATHERED_SECONDS = 0.1


class PoolDesktops:
    """Writes of a pool's unclaimed desktops: pods and their Secrets."""

    def __init__(
        self,
        cluster: ClusterContext,
        pools: PoolClaims,
        queue: QueueManager,
        uncertain_creates: UncertainCreates,
        key: ReleaseKey,
    ) -> None:
        client, caches = cluster.client, cluster.caches
        self._caches = caches
        self._pools = pools
        self._queue = queue
        self._uncertain_creates = uncertain_creates
        self._settings = cluster.settings
        self._key = key
        self._pods = Applier(client, PODS, Pod, caches.pods)
        self._secrets = Applier(client, SECRETS, Secret, caches.secrets)

    async def settle(self, pool: str) -> None:
        """Find out which pods of uncertain creates exist, and release the capacity of the
        others.
        """
        for name in await self._uncertain_creates.settle(pool):
            self._queue.withdraw(name)

    async def remove(self, pods: Iterable[Pod]) -> None:
        """Delete these desktops side by side, except those that a session is claiming."""
        await _run_all(self._remove_one(pod) for pod in pods)

    async def _remove_one(self, pod: Pod) -> None:
        if pod.metadata.deletion_timestamp or not self._pools.reserve(pod):
            return
        self._queue.note_refusal(pod)
        node = self._pools.node_of(pod.spec.node_name)
        # The kubelet of a lost node would never confirm the end, and an unused desktop has no files
        # to lose.
        is_lost = bool(pod.spec.node_name) and (node is None or not node.ready)
        try:
            if await self._pools.withdraw(pod):
                await self._pods.delete(pod, grace_seconds=0 if is_lost else GRACE_SECONDS)
        finally:
            self._pools.release(pod)

    async def complete(self, pool: PoolIdentity, pods: Iterable[Pod]) -> None:
        """Create the Secret of each desktop that has none: an operator was killed between the two
        writes.
        """
        known = self._caches.secrets
        missing = []
        for pod in pods:
            if known.get(pool.namespace, pool_secret_name(pod.metadata.name)) is None:
                missing.append(pod)
        await _run_all(self._give_secret(pool, pod) for pod in missing)

    async def _give_secret(self, pool: PoolIdentity, pod: Pod) -> None:
        meta = pod.metadata
        desired = build_pool_secret(
            identity=pool,
            pod=meta.name,
            pod_uid=meta.uid,
            tokens=derive_pool_tokens(self._key.value, namespace=pool.namespace, pod=meta.name),
        )
        await self._secrets.ensure(desired)

    async def make(
        self, pool: PoolIdentity, desktop: Desktop, fits: str, step: pooling.PoolPlan
    ) -> Blocked | None:
        """Start the missing desktops for which there is capacity; returns the reason if some are
        not started.
        """
        blocked = self._queue.find_refusal(desktop)
        names: list[str] = []
        most = min(step.make, AT_ONCE)
        while blocked is None and len(names) < most:
            name = pool_pod_name(pool.name, secrets.token_urlsafe(18))
            blocked = self._queue.request_for_pool(name, desktop)
            if blocked is None:
                names.append(name)
        is_terminating = any(
            pod.metadata.deletion_timestamp for pod in self._pools.waiting_in(pool.name)
        )
        if blocked and blocked.reason in BUSY_REASONS and not names and not is_terminating:
            await self.remove(step.outdated[:1])  # an outdated desktop makes room for a new one
        results = await _run_all(self._make_one(pool, desktop, fits, name) for name in names)
        return next((refusal for refusal in results if refusal), blocked)

    async def _make_one(
        self, pool: PoolIdentity, desktop: Desktop, fits: str, name: str
    ) -> Blocked | None:
        port = self._settings.agent_port
        desktop = self._queue.isolate(desktop)
        desired = build_pool_pod(
            identity=pool, name=name, desktop=desktop, annotations={FITS: fits}, agent_port=port
        )
        try:
            pod = await self._pods.ensure(desired)
        except KubeError as failure:
            refused = explain_refusal(failure, "Pod")
            if is_uncertain(failure) and not refused:
                self._uncertain_creates.add(pool.name, pool.namespace, name)
            else:
                self._queue.withdraw(name)
            if refused:
                return refused
            raise
        await self._give_secret(pool, pod)
        return None


async def _run_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of it side by side, to its end; then raise the first failure, if any."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


class PoolController:
    """Reconciles pools; the key is the pool's name."""

    def __init__(
        self,
        cluster: ClusterContext,
        pools: PoolClaims,
        desktops: PoolDesktops,
        *,
        enqueue: Callable[[str, float], None],
        enqueue_session: Callable[[tuple[str, str]], None],
    ) -> None:
        """`enqueue` gets the name of a pool that needs work, and the seconds until then.

        `enqueue_session` gets a waiting session that could claim a desktop that has just become
        ready.
        """
        self._caches = cluster.caches
        self._statuses = ClusterStatusWriter(
            cluster.client, POOLS, VDIPool, cluster.caches.pools, cluster.clock
        )
        self._pools = pools
        self._desktops = desktops
        self._settings = cluster.settings
        self._namespaces = cluster.namespaces
        self._clock = cluster.clock
        # By the pool's uid, as long as it exists. Lost at a restart: a failing pool then tries
        # again at once.
        self._pauses: dict[str, tuple[str, pooling.Backoff]] = {}
        self._enqueue = enqueue
        self._enqueue_session = enqueue_session
        caches = cluster.caches
        caches.pools.listen(self._pool_changed)
        caches.templates.listen(self._template_changed)
        caches.pods.listen(self._pod_changed)
        caches.nodes.listen(self._node_changed)

    async def reconcile(self, name: str) -> Result:
        """Bring a pool one step closer to its spec. Raises KubeError for what another try may
        fix.
        """
        await self._desktops.settle(name)
        pool = self._caches.pools.get("", name)
        waiting = self._pools.waiting_in(name)
        namespace = None
        if pool:
            namespace = assigned_namespace(pool.metadata, self._namespaces)
        if pool is None or pool.metadata.deletion_timestamp or namespace is None:
            # The garbage collector would remove them, too, but it looks for new kinds every 30 s
            # only.
            await self._desktops.remove(waiting)
            return Result()
        await self._desktops.remove(pod for pod in waiting if not self._is_of(pool, pod))
        try:
            return await self._fill(pool, PoolIdentity.of(pool, namespace))
        except NotFound:
            if self._statuses.exists(pool.metadata):
                raise
            return Result()

    def _is_of(self, pool: VDIPool, pod: Pod) -> bool:
        """Whether the desktop is this pool's and may stay."""
        namespace = assigned_namespace(pool.metadata, self._namespaces)
        is_its_own = (
            pooling.maker_uid(pod) == pool.metadata.uid and pod.metadata.namespace == namespace
        )
        return is_its_own and not self._pools.is_yielding(pod)

    def _plan(self, pool: VDIPool, fits: str | None) -> pooling.PoolPlan:
        mine = []
        for pod in self._pools.waiting_in(pool.metadata.name):
            if self._is_of(pool, pod):
                mine.append(pod)
        now = self._clock.now()
        return pooling.plan(pooling.desired_ready(pool, now), fits, mine, self._pools.node_of, now)

    async def _fill(self, pool: VDIPool, identity: PoolIdentity) -> Result:
        now = self._clock.now()
        desktop = pooling.pool_desktop(
            pool, self._caches.templates.get("", pool.spec.template), self._settings
        )
        fits = None
        if isinstance(desktop, Desktop):
            fits = self._pools.fingerprint(pool.spec.template, desktop)
        step = self._plan(pool, fits)
        pause = self._pause(pool, fits or "", step)
        await self._desktops.remove([*step.remove, *(fault.pod for fault in step.faults)])
        blocked = None
        until_calm = self._pools.seconds_until_calm()
        if isinstance(desktop, Desktop):
            await self._desktops.complete(identity, (*step.ready, *step.starting))
            if not pause.left(now) and until_calm <= 0:
                blocked = await self._desktops.make(identity, desktop, fits or "", step)
        step = self._plan(pool, fits)
        obstacles = pooling.Obstacles(
            desktop if isinstance(desktop, Blocked) else None, blocked, pause, self._slow(step)
        )
        claimed = sum(
            not pod.metadata.deletion_timestamp
            for pod in self._pools.taken_from(pool.metadata.name)
        )
        note_due = await self._write_status(
            pool, pooling.summarise(pool, step, claimed, obstacles, now)
        )
        due = _seconds_to_next_look(pool, step, pause, now)
        if note_due is not None:
            due.append(note_due)
        if blocked:
            due.append(_REFUSED_AGAIN_SECONDS if blocked.needs_change else _CAPACITY_AGAIN_SECONDS)
        if step.make and until_calm > 0:
            due.append(until_calm)
        return Result(min(due, default=None))

    def _pause(self, pool: VDIPool, fits: str, step: pooling.PoolPlan) -> pooling.Backoff:
        """The pause after failures: longer with each, reset with another kind of desktop or when
        the pool is full.
        """
        before, pause = self._pauses.get(pool.metadata.uid, ("", pooling.Backoff()))
        if before != fits or len(step.ready) >= pooling.desired_ready(pool, self._clock.now()):
            pause = pooling.Backoff()
        failed = next((fault for fault in step.faults if fault.of_desktop), None)
        for fault in step.faults:
            log.info("pool %s: a desktop is replaced: %s", pool.metadata.name, fault.words)
        if failed:
            pause = pause.after(failed.words, self._clock.now())
        self._pauses[pool.metadata.uid] = (fits, pause)
        return pause

    def _slow(self, step: pooling.PoolPlan) -> str:
        """The reason why the oldest starting desktop is stuck; empty where none is."""
        if not step.starting:
            return ""
        pod = step.starting[0]
        why = explain(StartState(pod, None, tuple(self._caches.events_of(pod))))
        return why.sentence if why.stuck else ""

    async def _write_status(self, pool: VDIPool, status: PoolStatus) -> float | None:
        """Write the status if it says something new; the seconds to wait where it is too soon for
        mere progress.
        """
        status = printable(status)
        if status == pool.status:
            return None
        meta = pool.metadata
        wait = self._statuses.seconds_left(meta.uid)
        if wait > 0 and _is_full(status) == _is_full(pool.status):
            return wait
        empty: dict[str, Any] = {
            field.encode_name: None for field in msgspec.structs.fields(PoolStatus)
        }
        await self._statuses.write(meta, empty | msgspec.to_builtins(status))
        return None

    def _pool_changed(self, old: VDIPool | None, new: VDIPool | None) -> None:
        if old and (new is None or new.metadata.uid != old.metadata.uid):
            self._pauses.pop(old.metadata.uid, None)
            self._statuses.forget(old.metadata.uid)
        if current := new or old:
            self._enqueue(current.metadata.name, 0.0)

    def _template_changed(self, old: VDITemplate | None, new: VDITemplate | None) -> None:
        if old and new and old.metadata.generation == new.metadata.generation:
            return
        if current := new or old:
            for pool in self._caches.pools.by_index(BY_POOLED_TEMPLATE, current.metadata.name):
                self._enqueue(pool.metadata.name, 0.0)

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        current = new or old
        pool = pool_of(current) if current else None
        if pool and (new is None or is_waiting(old or new)):
            self._enqueue(pool, _GATHERED_SECONDS)
        if new is None or not new.ready or not is_waiting(new) or (old and old.ready):
            return
        if key := self._pools.next_for(new):
            self._enqueue_session(key)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        if old is None or new is None or _state(old) != _state(new):
            for pool in self._caches.pools.values():
                self._enqueue(pool.metadata.name, 0.0)


def _seconds_to_next_look(
    pool: VDIPool, step: pooling.PoolPlan, pause: pooling.Backoff, now: datetime
) -> list[float]:
    spans = [step.look_again, pause.left(now)]
    if pool.spec.schedule and (change := next_change(pool.spec.schedule, now)):
        spans.append(change - now)
    return [span.total_seconds() for span in spans if span is not None]


def _state(node: Node) -> tuple[object, ...]:
    return node.metadata.uid, node.ready, node.spec.unschedulable


def _is_full(status: PoolStatus) -> bool:
    ready = find_condition(status.conditions, READY)
    return ready is not None and ready.status == "True"
