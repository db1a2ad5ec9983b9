"""Plays the kubelets of all stand-in nodes: desktops that were bound become ready, pullers end.
Seeded delays.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from chaos.agents import ADDRESS
from vdi.cluster.objects import Pod
from vdi.kube.errors import Conflict, Invalid, KubeError, NotFound
from vdi.kube.resource import NODES, PODS
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector
from vdi.session.prepull import PREPULL, PREPULL_IMAGE


class Kubelet:
    """Deletions are the stand-in's business (tests/cluster/stand_in.py); this one only starts what
    was bound.
    """

    def __init__(
        self, api: Client, namespace: str, rng: random.Random, *, slowest: float = 0.3
    ) -> None:
        self.ready_pods = 0
        self._api = api
        self._namespace = namespace
        self._rng = rng
        self._slowest = slowest
        self._images: dict[str, list[dict[str, Any]]] = {}
        self._pods: Store[Pod] = Store()
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pods.listen(self._changed)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator["Kubelet"]:
        reflecting = asyncio.create_task(
            Reflector(self._api, PODS, Pod, self._pods, namespace=self._namespace).run()
        )
        try:
            yield self
            assert not reflecting.done(), reflecting.exception()
        finally:
            for task in (reflecting, *self._tasks):
                task.cancel()
            await asyncio.gather(reflecting, *self._tasks, return_exceptions=True)

    async def report(self, pod_name: str, **status: Any) -> None:
        """Say this of a pod, if it is still there."""
        with suppress(NotFound, Conflict, Invalid):
            await self._say(pod_name, {"status": status})

    async def _say(self, pod_name: str, patch: dict[str, Any]) -> None:
        await self._api.patch(
            PODS, pod_name, patch, namespace=self._namespace, subresource="status", into=msgspec.Raw
        )

    async def fail(self, pod_name: str, reason: str = "Error") -> None:
        """The pod has ended for good."""
        container = _container(
            ready=False, state={"terminated": {"exitCode": 137, "reason": reason}}
        )
        conditions = [{"type": "Ready", "status": "False", "lastTransitionTime": _now()}]
        await self.report(
            pod_name,
            phase="Failed",
            reason=reason,
            message="chaos",
            conditions=conditions,
            containerStatuses=[container],
        )

    def _changed(self, _old: Pod | None, new: Pod | None) -> None:
        if new is None or new.terminating or not new.spec.node_name:
            return
        if _is_to_start(new) and new.metadata.uid not in self._starting:
            self._starting.add(new.metadata.uid)
            self._spawn(self._start(new, self._rng.uniform(0.0, self._slowest)))
        elif _was_given_up(new):
            self._spawn(self._report_ready(new))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, pod: Pod, delay: float) -> None:
        """Once: a report whose answer was lost may have been taken, and the pod may have failed
        since.
        """
        await asyncio.sleep(delay)
        if PREPULL in pod.metadata.annotations:
            await self._persist(pod, _is_to_start, self._pull)
        elif await self._persist(pod, _is_to_start, self._run):
            self.ready_pods += 1

    async def _report_ready(self, pod: Pod) -> None:
        """The lifecycle controller had lost patience with the node: it never takes back what it
        said of the pods.
        """
        await self._persist(pod, _was_given_up, self._run)

    async def _persist(
        self, pod: Pod, due: Callable[[Pod], bool], report: Callable[[Pod], Awaitable[None]]
    ) -> bool:
        """Report until the API server has taken it, as long as it is due; whether it was this
        report that it took.
        """
        while (present := self._present(pod)) and due(present):
            try:
                await report(present)
            except (NotFound, Invalid):
                return False
            except KubeError:  # the API server is being restarted, or the pod has just been changed
                await asyncio.sleep(0.1)
            else:
                return True
        return False

    def _present(self, pod: Pod) -> Pod | None:
        present = self._pods.get(pod.metadata.namespace, pod.metadata.name)
        return present if present and present.metadata.uid == pod.metadata.uid else None

    async def _run(self, pod: Pod) -> None:
        now = _now()
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now}
            for kind in ("Ready", "PodScheduled")
        ]
        container = _container(ready=True, state={"running": {"startedAt": now}})
        status = {
            "phase": "Running",
            "podIP": ADDRESS,
            "conditions": conditions,
            "containerStatuses": [container],
        }
        meta = {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version}
        await self._say(pod.metadata.name, {"metadata": meta, "status": status})

    async def _pull(self, pod: Pod) -> None:
        image = pod.metadata.annotations[PREPULL_IMAGE]
        images = self._images.setdefault(pod.spec.node_name, [])
        images.append({"names": [image], "sizeBytes": 1})
        listed = {"status": {"images": images}}
        with suppress(NotFound):
            await self._api.patch(
                NODES, pod.spec.node_name, listed, subresource="status", into=msgspec.Raw
            )
        ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        container = {**_container(ready=False, state=ended), "name": "pull"}
        await self.report(pod.metadata.name, phase="Succeeded", containerStatuses=[container])


def _is_to_start(pod: Pod) -> bool:
    return pod.status.phase in ("", "Pending")


def _was_given_up(pod: Pod) -> bool:
    """Whether somebody else says that it is not ready, though its desktop is: a kubelet that lives
    contradicts.
    """
    return (
        pod.status.phase == "Running"
        and pod.desktop is not None
        and pod.desktop.ready
        and not pod.ready
    )


def _container(*, ready: bool, state: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "desktop",
        "image": "x",
        "imageID": "sha256:1",
        "ready": ready,
        "restartCount": 0,
        "state": state,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
