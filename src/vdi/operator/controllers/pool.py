"""Controller of VDIPool: creates missing desktops, removes outdated and broken ones, writes the status.

caches -> plan (`session.pool`) -> remove, complete, make -> status -> soonest requeue
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

import msgspec

from vdi.api.pool import PoolStatus, VDIPool
from vdi.api.template import VDITemplate
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Node, Pod
from vdi.kinds import POOLS
from vdi.kube.apply import Applier
from vdi.kube.errors import Forbidden, Invalid, KubeError, NotFound
from vdi.kube.queue import Result
from vdi.kube.resource import PODS, SECRETS
from vdi.operator.caches import BY_SUBJECT, ClusterContext
from vdi.operator.owned_resources import UncertainCreates, is_uncertain
from vdi.operator.pools import BY_POOLED_TEMPLATE, Pools
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.status import printable
from vdi.session.children import Secret, build_pool_pod, build_pool_secret
from vdi.session.conditions import BUSY_REASONS, READY
from vdi.session.credentials import derive_pool_tokens
from vdi.session.decide import explain_api_error
from vdi.session.effective import Blocked, Desktop
from vdi.session.naming import PoolIdentity, assigned_namespace, pool_pod_name, pool_secret_name
from vdi.session.pool import (
    FITS,
    Backoff,
    Obstacles,
    PoolPlan,
    desired_ready,
    is_waiting,
    maker_uid,
    plan,
    pool_desktop,
    pool_of,
    summarise,
)
from vdi.session.schedule import next_change

T = TypeVar("T")

# Desktops that one pool starts at a time: people's own sessions need the API server and the registry too.
AT_ONCE = 8

# An unused desktop has nothing to save, and a session may wait for its GPU.
GRACE_SECONDS = 1


class PoolCapacity(Protocol):
    """What a pool asks of the queue."""

    def request_for_pool(self, pod: str, desktop: Desktop) -> Blocked | None:
        """None: room is kept for a pod of this name until it is in the caches, or `withdraw`. Else: what is short.

        A session that waits for capacity goes before any pool.
        """

    def withdraw(self, uid: str) -> None:
        """The pod of this name will not be made."""


class PoolDesktops:
    """The hands of the pools' controller."""

    def __init__(
        self,
        cluster: ClusterContext,
        *,
        pools: Pools,
        queue: PoolCapacity,
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
        """Find out which uncertain creates exist, and release the capacity of the others."""
        for name in await self._uncertain_creates.settle(pool):
            self._queue.withdraw(name)

    async def remove(self, pods: Iterable[Pod]) -> None:
        """Delete those that no session is claiming, side by side."""
        await _run_all(self._remove_one(pod) for pod in pods)

    async def _remove_one(self, pod: Pod) -> None:
        if pod.metadata.deletion_timestamp or not self._pools.reserve(pod):
            return
        node = self._pools.node_of(pod.spec.node_name)
        # A kubelet that does not answer would never confirm the end, and there are no files to be afraid for.
        is_lost = bool(pod.spec.node_name) and (node is None or not node.ready)
        try:
            if await self._pools.withdraw(pod):
                await self._pods.delete(pod, grace_seconds=0 if is_lost else GRACE_SECONDS)
        finally:
            self._pools.release(pod)

    async def complete(self, pool: PoolIdentity, pods: Iterable[Pod]) -> None:
        """Give each desktop the Secret that it starts with, if the operator has died before it could."""
        known = self._caches.secrets
        missing = [pod for pod in pods if known.get(pool.namespace, pool_secret_name(pod.metadata.name)) is None]
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

    async def make(self, pool: PoolIdentity, desktop: Desktop, fits: str, step: PoolPlan) -> Blocked | None:
        """Start what is missing, as far as there is room; why not all, if so."""
        blocked: Blocked | None = None
        names: list[str] = []
        most = min(step.make, AT_ONCE)
        while blocked is None and len(names) < most:
            name = pool_pod_name(pool.name, secrets.token_urlsafe(18))
            blocked = self._queue.request_for_pool(name, desktop)
            if blocked is None:
                names.append(name)
        if blocked and blocked.reason in BUSY_REASONS and not names and not self._has_terminating(pool):
            await self.remove(step.outdated[:1])  # what is left of the old makes room for the new
        results = await _run_all(self._make_one(pool, desktop, fits, name) for name in names)
        return next((refusal for refusal in results if refusal), blocked)

    def _has_terminating(self, pool: PoolIdentity) -> bool:
        """Whether room is on its way: a desktop has been deleted, and has not ended yet."""
        return any(pod.metadata.deletion_timestamp for pod in self._pools.waiting_in(pool.name))

    async def _make_one(self, pool: PoolIdentity, desktop: Desktop, fits: str, name: str) -> Blocked | None:
        port = self._settings.agent_port
        desired = build_pool_pod(identity=pool, name=name, desktop=desktop, annotations={FITS: fits}, agent_port=port)
        try:
            pod = await self._pods.ensure(desired)
        except KubeError as failure:
            if is_uncertain(failure):
                self._uncertain_creates.add(pool.name, pool.namespace, name)
            else:
                self._queue.withdraw(name)
            if isinstance(failure, Forbidden | Invalid):
                return explain_api_error("Pod", failure.message)
            raise
        await self._give_secret(pool, pod)
        return None


async def _run_all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all of it side by side, to its end; then raise the first failure, if any."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


log = logging.getLogger(__name__)

# Seconds until a pool without room looks again.
ROOM_AGAIN = 5.0
# Seconds until a refused pod is tried again: nothing tells us when a quota or a label of the namespace changes.
REFUSED_AGAIN = 30.0
# Seconds between two notes on progress in one pool's status.
STATUS_PAUSE = 1.0
# Seconds in which changes of a pool's desktops become one piece of work.
GATHERED = 0.1


class PoolController:
    """What is done for one pool at a time; its key is the pool's name.

    `_pauses` and `_written` hold, by uid, what is remembered of a pool beside the objects. They live as
    long as it does; after a restart a failing pool tries once more at once.
    """

    def __init__(
        self,
        cluster: ClusterContext,
        *,
        pools: Pools,
        desktops: PoolDesktops,
        enqueue: Callable[[str, float], None],
        enqueue_session: Callable[[tuple[str, str]], None],
    ) -> None:
        """`enqueue` gets the name of a pool that needs work and the seconds until then.

        `enqueue_session` gets a session that waits and could take a desktop that has just become ready.
        """
        self._client = cluster.client
        self._caches = cluster.caches
        self._pools = pools
        self._desktops = desktops
        self._settings = cluster.settings
        self._namespaces = cluster.namespaces
        self._clock = cluster.clock
        self._pauses: dict[str, tuple[str, Backoff]] = {}
        self._written: dict[str, float] = {}
        self._listen(enqueue, enqueue_session)

    async def reconcile(self, name: str) -> Result:
        """One step. Raises KubeError for what another try may fix."""
        await self._desktops.settle(name)
        pool = self._caches.pools.get("", name)
        waiting = self._pools.waiting_in(name)
        namespace = assigned_namespace(pool.metadata, self._namespaces) if pool else None
        if pool is None or pool.metadata.deletion_timestamp or namespace is None:
            # The garbage collector would remove them too, but it learns of new kinds every 30 s only.
            await self._desktops.remove(waiting)
            return Result()
        await self._desktops.remove(pod for pod in waiting if not self._is_of(pool, pod))
        try:
            return await self._fill(pool, PoolIdentity.of(pool, namespace))
        except NotFound:
            if self._is_there(pool):
                raise
            return Result()  # deleted meanwhile: its event calls

    def _is_there(self, pool: VDIPool) -> bool:
        present = self._caches.pools.get("", pool.metadata.name)
        return present is not None and present.metadata.uid == pool.metadata.uid

    def _is_of(self, pool: VDIPool, pod: Pod) -> bool:
        """Whether this pool has it, and may keep it."""
        is_its_own = maker_uid(pod) == pool.metadata.uid and pod.metadata.namespace == assigned_namespace(
            pool.metadata, self._namespaces
        )
        return is_its_own and not self._pools.is_yielding(pod)

    def _plan(self, pool: VDIPool, fits: str | None) -> PoolPlan:
        mine = [pod for pod in self._pools.waiting_in(pool.metadata.name) if self._is_of(pool, pod)]
        now = self._clock.now()
        return plan(desired_ready(pool, now), fits, mine, self._pools.node_of, now)

    async def _fill(self, pool: VDIPool, identity: PoolIdentity) -> Result:
        now = self._clock.now()
        desktop = pool_desktop(pool, self._caches.templates.get("", pool.spec.template), self._settings)
        fits = self._pools.fingerprint(pool.spec.template, desktop) if isinstance(desktop, Desktop) else None
        step = self._plan(pool, fits)
        pause = self._pause(pool, fits or "", step)
        await self._desktops.remove([*step.remove, *(fault.pod for fault in step.faults)])
        blocked = None
        if isinstance(desktop, Desktop):
            await self._desktops.complete(identity, (*step.ready, *step.starting))
            if not pause.left(now):
                blocked = await self._desktops.make(identity, desktop, fits or "", step)
        step = self._plan(pool, fits)
        obstacles = Obstacles(desktop if isinstance(desktop, Blocked) else None, blocked, pause, self._slow(step))
        note_due = await self._write_status(pool, summarise(pool, step, self.claimed(pool), obstacles, now))
        change = next_change(pool.spec.schedule, now) if pool.spec.schedule else None
        room_again = None if blocked is None else REFUSED_AGAIN if blocked.needs_change else ROOM_AGAIN
        due = [
            left.total_seconds()
            for left in (step.look_again, pause.left(now), change - now if change else None)
            if left is not None
        ]
        return Result(min([*due, *(one for one in (note_due, room_again) if one is not None)], default=None))

    def claimed(self, pool: VDIPool) -> int:
        """How many sessions have a desktop from this pool."""
        pods = self._pools.taken_from(pool.metadata.name)
        return sum(1 for pod in pods if not pod.metadata.deletion_timestamp)

    def _pause(self, pool: VDIPool, fits: str, step: PoolPlan) -> Backoff:
        """The pause after failures: longer with each, forgotten with another desktop or when the pool is full."""
        before, pause = self._pauses.get(pool.metadata.uid, ("", Backoff()))
        if before != fits or len(step.ready) >= desired_ready(pool, self._clock.now()):
            pause = Backoff()
        failed = next((fault for fault in step.faults if fault.of_desktop), None)
        for fault in step.faults:
            log.info("pool %s: a desktop is replaced: %s", pool.metadata.name, fault.words)
        if failed:
            pause = pause.after(failed.words, self._clock.now())
        self._pauses[pool.metadata.uid] = (fits, pause)
        return pause

    def _slow(self, step: PoolPlan) -> str:
        """What the oldest of those that start is stuck at."""
        for pod in step.starting[:1]:
            events = self._caches.events.by_index(BY_SUBJECT, ("Pod", pod.metadata.name))
            why = explain(
                StartState(pod, None, tuple(event for event in events if event.regarding.uid == pod.metadata.uid))
            )
            return why.sentence if why.stuck else ""
        return ""

    async def _write_status(self, pool: VDIPool, status: PoolStatus) -> float | None:
        """Write the status if it says something new; the seconds to wait when it is too soon for a mere note."""
        status = printable(status)
        if status == pool.status:
            return None
        meta = pool.metadata
        wait = self._written.get(meta.uid, float("-inf")) + STATUS_PAUSE - self._clock.monotonic()
        if wait > 0 and _is_full(status) == _is_full(pool.status):
            return wait
        empty: dict[str, Any] = {field.encode_name: None for field in msgspec.structs.fields(PoolStatus)}
        patch = {"metadata": {"uid": meta.uid}, "status": empty | msgspec.to_builtins(status)}
        patched = await self._client.patch(POOLS, meta.name, patch, subresource="status", into=VDIPool)
        self._written[meta.uid] = self._clock.monotonic()
        self._caches.pools.remember(patched)
        return None

    def _listen(
        self, enqueue: Callable[[str, float], None], enqueue_session: Callable[[tuple[str, str]], None]
    ) -> None:
        """Enqueue a pool when it, its template, one of its desktops or one of their nodes has changed."""
        caches = self._caches

        def pool_changed(old: VDIPool | None, new: VDIPool | None) -> None:
            if old and (new is None or new.metadata.uid != old.metadata.uid):
                self._pauses.pop(old.metadata.uid, None)
                self._written.pop(old.metadata.uid, None)
            if current := new or old:
                enqueue(current.metadata.name, 0.0)

        def template_changed(old: VDITemplate | None, new: VDITemplate | None) -> None:
            if (current := new or old) and not (old and new and old.metadata.generation == new.metadata.generation):
                for pool in caches.pools.by_index(BY_POOLED_TEMPLATE, current.metadata.name):
                    enqueue(pool.metadata.name, 0.0)

        def pod_changed(old: Pod | None, new: Pod | None) -> None:
            if (current := new or old) and (name := pool_of(current)) and (not new or is_waiting(old or new)):
                enqueue(name, GATHERED)
            if new and new.ready and is_waiting(new) and not (old and old.ready) and (key := self._pools.next_for(new)):
                enqueue_session(key)

        def node_changed(old: Node | None, new: Node | None) -> None:
            if old is None or new is None or _state(old) != _state(new):
                for pool in caches.pools.values():
                    enqueue(pool.metadata.name, 0.0)

        caches.pools.listen(pool_changed)
        caches.templates.listen(template_changed)
        caches.pods.listen(pod_changed)
        caches.nodes.listen(node_changed)


def _state(node: Node) -> tuple[object, ...]:
    return node.metadata.uid, node.ready, node.spec.unschedulable


def _is_full(status: PoolStatus) -> bool:
    return any(condition.type == READY and condition.status == "True" for condition in status.conditions)
