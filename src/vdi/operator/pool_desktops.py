"""Makes and removes the desktops that no session has claimed yet, as a pool's plan says."""

import asyncio
import secrets
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from vdi.kube.apply import Applier
from vdi.kube.errors import Forbidden, Invalid, KubeError
from vdi.kube.resource import PODS, SECRETS
from vdi.operator.context import ClusterContext
from vdi.operator.pools import Pools
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.uncertain_creates import UncertainCreates, is_uncertain
from vdi.session.api_errors import explain_api_error
from vdi.session.children.pod import build_pool_pod
from vdi.session.children.secret import build_pool_secret
from vdi.session.conditions import BUSY_REASONS
from vdi.session.desktop_tokens import derive_pool_tokens
from vdi.session.effective import Blocked, Desktop
from vdi.session.identity import PoolIdentity
from vdi.session.naming import pool_pod_name, pool_secret_name
from vdi.session.observed import Pod, Secret
from vdi.session.pool import FITS, PoolPlan

T = TypeVar("T")

AT_ONCE = 8
"""Desktops that one pool starts at a time: people's own sessions need the API server and the registry too."""
GRACE_SECONDS = 1
"""An unused desktop has nothing to save, and a session may wait for its GPU."""


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
