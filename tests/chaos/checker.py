"""Watches the cluster past all proxies and notes whatever must never be, at the moment when it is.

At every change of a pod: room is never given away twice, a session never has two desktops, a home
never two writers. When all is quiet (`settled`): no orphan, no duplicate, no lost session, every
session as its spec says.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from chaos.objects import Child, SeenNode, SeenPod
from cluster.operator_stage import STAGE
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.kinds import POOLS, ROUTES, SESSIONS
from vdi.kube.managed_fields import FieldOwnership
from vdi.kube.meta import version_of
from vdi.kube.resource import CLAIMS, NODES, PODS, SECRETS, SERVICES
from vdi.kube.store import Relist, Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector

OURS = "app.kubernetes.io/managed-by=vdi-operator"
# Seconds for which an admitted pod may be unschedulable: the operator takes it back after 15 and a
# round trip.
ZOMBIE_AFTER = 25.0


class PodStore(Store[SeenPod]):
    """Pods as they were at one moment, also while a list comes in: what has gone leaves before what
    is new.
    """

    def relist(self, version: int, scope: str = "") -> "_PodList":
        return _PodList(self, version, scope)


class _PodList(Relist[SeenPod]):
    """An operator counts a pod until it is known to be gone; a checker that did would see two pods
    on one home.
    """

    def __init__(self, store: PodStore, version: int, scope: str) -> None:
        super().__init__(store, version, scope)
        self._pods: list[SeenPod] = []

    def put(self, obj: SeenPod, mark: FieldOwnership | None = None) -> None:
        assert mark is None
        self._pods.append(obj)

    def finish(self) -> None:
        listed = {pod.metadata.uid for pod in self._pods}
        for pod in self._store.values():
            if pod.metadata.uid not in listed and version_of(pod) <= self._version:
                self._store.observe_deleted(pod)
        for pod in self._pods:
            super().put(pod)
        super().finish()


class Checker:
    """The truth about one namespace, and all that was wrong with it."""

    def __init__(self, api: Client, namespace: str, gpu_resource: str = "nvidia.com/gpu") -> None:
        self.violations: list[str] = []
        # The most that were in use at a time.
        self.most_gpus = 0
        self._gpu = gpu_resource
        self._namespace = namespace
        self.sessions: Store[VDISession] = Store()
        self.pods = PodStore()
        self.nodes: Store[SeenNode] = Store()
        self.pools: Store[VDIPool] = Store()
        self.children: dict[str, Store[Child]] = {
            kind.kind: Store() for kind in (SERVICES, SECRETS, ROUTES, CLAIMS)
        }
        self._unplaced: dict[str, float] = {}
        self.pods.add_index("session", lambda pod: pod.session_uids)
        self.pods.add_index("home", lambda pod: [pod.home] if pod.home else [])
        here: dict[str, Any] = {"namespace": namespace, "label_selector": OURS}
        self._reflectors: list[Reflector[Any]] = [
            Reflector(api, SESSIONS, VDISession, self.sessions, namespace=namespace),
            Reflector(api, NODES, SeenNode, self.nodes),
            Reflector(api, POOLS, VDIPool, self.pools),
            Reflector(api, PODS, SeenPod, self.pods, **here),
        ]
        for kind in (SERVICES, SECRETS, ROUTES, CLAIMS):
            self._reflectors.append(Reflector(api, kind, Child, self.children[kind.kind], **here))
        self.pods.listen(self._pod_changed)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["Checker"]:
        tasks = [asyncio.create_task(reflector.run()) for reflector in self._reflectors]
        try:
            for reflector in self._reflectors:
                await asyncio.wait_for(reflector.wait_synced(), 30)
            yield self
            for task in tasks:
                assert not task.done(), task.exception()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, what: str) -> None:
        self.violations.append(f"{time.strftime('%H:%M:%S')} {what}")

    def _pod_changed(self, old: SeenPod | None, new: SeenPod | None) -> None:
        if new is None:
            if old is not None:
                self._unplaced.pop(old.metadata.uid, None)
            return
        self._check_placed(new)
        if new.ended:
            return
        if old is None:
            self._check_room(new)
            self._check_home(new)
        if old is None or old.session_uids != new.session_uids:
            self._check_single(new)

    def _check_room(self, pod: SeenPod) -> None:
        """No pod gets what is not there: neither a GPU that is taken nor one that no node has."""
        requested = pod.requests(self._gpu)
        if not requested:
            return
        used = sum(pod.requests(self._gpu) for pod in self.pods.values() if not pod.ended)
        # Desktops go to the world's own nodes alone; others of the control plane have GPUs too.
        mine = [
            node
            for node in self.nodes.values()
            if node.metadata.labels.get(STAGE) == self._namespace
        ]
        there = sum(node.allocatable(self._gpu) for node in mine)
        self.most_gpus = max(self.most_gpus, used)
        if used > there:
            holders = sorted(
                (pod.metadata.name, pod.spec.node_name, "leaving" if pod.leaving else "")
                for pod in self.pods.values()
                if pod.requests(self._gpu) and not pod.ended
            )
            self._note(
                f"pod {pod.metadata.name} was made with {used} of {there} GPUs in use: {holders}"
            )

    def _check_home(self, pod: SeenPod) -> None:
        writers = (
            [one for one in self.pods.by_index("home", pod.home) if not one.ended]
            if pod.home
            else []
        )
        if len(writers) > 1:
            found = sorted((one.metadata.name, "leaving" if one.leaving else "") for one in writers)
            self._note(f"home {pod.home} has {len(writers)} writers: {found}")

    def _check_single(self, pod: SeenPod) -> None:
        for uid in pod.session_uids:
            live = [
                one
                for one in self.pods.by_index("session", uid)
                if not one.ended and not one.leaving
            ]
            if len(live) > 1:
                self._note(
                    f"session {uid} has {len(live)} pods:"
                    f" {sorted(one.metadata.name for one in live)}"
                )

    def _check_placed(self, pod: SeenPod) -> None:
        uid = pod.metadata.uid
        if not pod.unschedulable or pod.leaving:
            self._unplaced.pop(uid, None)
        else:
            self._unplaced.setdefault(uid, time.monotonic())

    def check_zombies(self) -> None:
        """Pods that were made although no node takes them, and that were not taken back."""
        now = time.monotonic()
        for uid, since in list(self._unplaced.items()):
            if now - since > ZOMBIE_AFTER:
                pod = next((pod for pod in self.pods.values() if pod.metadata.uid == uid), None)
                self._note(
                    f"pod {pod.metadata.name if pod else uid} is unschedulable since"
                    f" {now - since:.0f} s"
                )
                del self._unplaced[uid]

    def disorder(self) -> list[str]:
        """Differences from the desired state once all is quiet; empty when there are none."""
        return [*self._orphans(), *self._duplicates()]

    def _orphans(self) -> Iterator[str]:
        alive = {session.metadata.uid for session in self.sessions.values()}
        for kind, store in self.children.items():
            for child in store.values():
                for uid in child.session_uids:
                    if uid not in alive:
                        yield f"{kind} {child.metadata.name} is an orphan"
        for pod in self.pods.values():
            if any(uid not in alive for uid in pod.session_uids):
                yield f"Pod {pod.metadata.name} is an orphan"

    def _duplicates(self) -> Iterator[str]:
        for kind, store in (*self.children.items(), ("Pod", self.pods)):
            if kind == CLAIMS.kind:
                continue
            owners: dict[str, list[str]] = defaultdict(list)
            for child in store.values():  # type: ignore[attr-defined]
                for uid in child.session_uids:
                    owners[uid].append(child.metadata.name)
            for names in owners.values():
                # A pool's desktop brings its own Secret.
                if len(names) > 1 + (kind == SECRETS.kind):
                    yield f"one session has {len(names)} of {kind}: {sorted(names)}"
        hosts = Counter(route.host for route in self.children[ROUTES.kind].values())
        yield from (f"host {host} has {count} routes" for host, count in hosts.items() if count > 1)

    def children_of(self, session: VDISession) -> dict[str, int]:
        """The number of objects of each kind that this session owns."""
        uid = session.metadata.uid
        found = {kind: len(store.by_owner(uid)) for kind, store in self.children.items()}
        return found | {
            "Pod": len([pod for pod in self.pods.by_index("session", uid) if not pod.leaving])
        }
