"""The queue with thousands who wait: how long its decisions take. `python -m bench.queue`; needs no
cluster.

The operator's own queue on its own caches, which are filled by hand with what an API server would
send: 100 nodes with 8 GPUs each, a desktop on every GPU, and 5,000 sessions of 1,000 people in
line, every tenth with a home on one node; and 200 placeholders, which ask an autoscaler for nodes
for the first of them. A decision waits for nothing, so what is measured is the CPU time of the one
thread: other programs do not count in it.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from bench.report import goal
from bench.rows import add_json_option, write_rows
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.capacity import Demand
from vdi.cluster.objects import Node, PersistentVolume, PersistentVolumeClaim, Pod
from vdi.kube.clock import SystemClock
from vdi.kube.transport import Client
from vdi.operator.caches import Caches, ClusterContext
from vdi.operator.controllers.placeholders import PLACEHOLDERS, Placeholders
from vdi.operator.queueing import QueueManager
from vdi.operator.runtime import settle_memory
from vdi.session.autoscaling import AutoscalerEvent, AutoscalingSettings, NodeRequest
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Desktop, resolve

NODES, GPUS, PEOPLE = 100, 8, 1000
AIM_MS = 10.0


class NoServer:
    """Takes every write: only the thread's own time is measured."""

    field_manager = "bench"

    def __init__(self) -> None:
        self._version = 1_000_000

    async def create(self, _resource: object, body: dict[str, Any], **_: object) -> msgspec.Raw:
        """As the API server answers."""
        self._version += 1
        made = {"uid": f"uid-{self._version}", "resourceVersion": str(self._version)}
        made["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return msgspec.Raw(msgspec.json.encode({**body, "metadata": {**body["metadata"], **made}}))

    async def delete(self, *_: object, **__: object) -> None:
        """Gone at once."""


class FullCluster:
    """A full cluster, and the operator's queue in front of it."""

    def __init__(self, waiting: int, placeholders: int) -> None:
        self.caches = Caches(
            cast(Client, SimpleNamespace(field_manager="bench")), ("bench",), SystemClock()
        )
        self.woken: list[tuple[str, str]] = []
        policy = ClusterSettings()
        cluster = ClusterContext(
            cast(Client, NoServer()), self.caches, policy, SystemClock(), ("bench",)
        )
        node_requests: dict[Demand, NodeRequest] = {}
        self.admission = QueueManager(
            cluster,
            weights={},
            node_requests=node_requests if placeholders else None,
            on_admitted=lambda _: None,
            enqueue=self.woken.append,
            yield_capacity=lambda _: None,
        )
        settings = AutoscalingSettings(
            placeholders, namespace="places", image="x", priority_class="low"
        )
        self.placeholders = Placeholders(cluster, settings, self.admission, node_requests)
        self._version = 0
        template = self._made(
            VDITemplate, "desktop", spec={"image": "x", "resources": {"maxGPU": 8}}
        )
        self.caches.templates.observe(template)
        self.pods = self._fill()
        self.sessions = [self.session(f"w{number}", number) for number in range(waiting)]
        desktops = [resolve(session, template, policy) for session in self.sessions]
        self.desktops = [desktop for desktop in desktops if isinstance(desktop, Desktop)]
        self.homes = [self._home(number) if number % 10 == 0 else None for number in range(waiting)]

    def session(self, name: str, number: int, **status: Any) -> VDISession:
        """One session; every fifth asks for more than one GPU, every seventh is more important."""
        resources = {"gpu": 1 + (number % 5 == 0) * (number % 3)}
        spec = {"user": f"p{number % PEOPLE}@x.yz", "template": "desktop", "resources": resources}
        made: VDISession = self._made(
            VDISession, name, spec=spec | {"priority": int(number % 7 == 0)}, status=status
        )
        return made

    def request(self, number: int) -> bool:
        """Whether that session may go."""
        return (
            self.admission.request(self.sessions[number], self.desktops[number], self.homes[number])
            is None
        )

    def end(self, pod: Pod) -> None:
        self.caches.pods.observe_deleted(
            msgspec.structs.replace(pod, metadata=self._newer(pod.metadata))
        )

    def refuse(self) -> None:
        """An autoscaler says of each placeholder that it adds no node: as many Events."""
        for pod in self.caches.placeholders.values():
            regarding = {"kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid}
            note = (
                f"pod didn't trigger scale-up: {self._version} node(s) had untolerated taint(s), 1"
                " in backoff"
            )
            reason = "NotTriggerScaleUp"
            name = f"e-{pod.metadata.name}"
            event = self._made(AutoscalerEvent, name, regarding=regarding, reason=reason, note=note)
            self.caches.autoscaler_events.observe(event)

    def _fill(self) -> list[Pod]:
        pods = []
        room = {"nvidia.com/gpu": str(GPUS), "cpu": "64", "memory": "512Gi", "pods": "110"}
        for node in range(NODES):
            labels = {"kubernetes.io/hostname": f"n{node}"}
            status = {"allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]}
            self.caches.nodes.observe(self._made(Node, f"n{node}", labels=labels, status=status))
            volume = {"nodeSelectorTerms": [{"matchExpressions": [_on(f"n{node}")]}]}
            self.caches.volumes.observe(
                self._made(
                    PersistentVolume, f"v{node}", spec={"nodeAffinity": {"required": volume}}
                )
            )
            for gpu in range(GPUS):
                number = node * GPUS + gpu
                ends = (datetime.now(UTC) + timedelta(minutes=number)).strftime(
                    "%Y-%m-%dT%H:%M:%SZ"
                )
                session = self.session(f"r{number}", number, phase="Running", expiresAt=ends)
                self.caches.sessions.observe(session)
                pods.append(self._pod(session, f"n{node}"))
                self.caches.pods.observe(pods[-1])
        return pods

    def _pod(self, session: VDISession, node: str) -> Pod:
        owner = {
            "apiVersion": "v",
            "kind": "VDISession",
            "name": session.metadata.name,
            "uid": session.metadata.uid,
        }
        takes = {"requests": {"cpu": "250m", "memory": "1Gi", "nvidia.com/gpu": "1"}}
        spec = {"nodeName": node, "containers": [{"resources": takes}]}
        user = {"vdi.kasm.io/user": session.spec.user}
        made: Pod = self._made(
            Pod, session.metadata.name, spec=spec, annotations=user, ownerReferences=[owner]
        )
        return made

    def _home(self, number: int) -> PersistentVolumeClaim:
        made: PersistentVolumeClaim = self._made(
            PersistentVolumeClaim, f"home-{number}", spec={"volumeName": f"v{number // 10 % NODES}"}
        )
        return made

    def _made(self, kind: type[Any], name: str, **fields: Any) -> Any:
        self._version += 1
        here = {
            "name": name,
            "namespace": "bench",
            "uid": f"uid-{name}",
            "resourceVersion": str(self._version),
        }
        for field in ("labels", "annotations", "ownerReferences"):
            if field in fields:
                here[field] = fields.pop(field)
        if kind in (Node, PersistentVolume, VDITemplate):
            here["namespace"] = ""
        return msgspec.convert({"metadata": here, **fields}, kind)

    def _newer(self, metadata: Any) -> Any:
        self._version += 1
        return msgspec.structs.replace(metadata, resource_version=str(self._version))


def _on(node: str) -> dict[str, Any]:
    return {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}


def timed(calls: list[Callable[[], object]]) -> list[float]:
    """Milliseconds of each."""
    lengths = []
    for call in calls:
        began = time.thread_time()
        call()
        lengths.append((time.thread_time() - began) * 1000)
    return sorted(lengths)


def measure(waiting: int, placeholders: int) -> dict[str, dict[str, float]]:
    """All figures, in milliseconds."""
    world = FullCluster(waiting, placeholders)
    enough = min(400, len(world.pods))
    settle_memory()  # as the operator does once its caches are full
    results = {
        f"somebody asks in vain, {waiting} times": timed(
            [partial(world.request, n) for n in range(waiting)]
        )
    }
    assert len(world.admission.waits()) == waiting, "everybody waits"
    asyncio.run(_make_placeholders(world, placeholders))
    results["the same session asks again"] = timed(
        [partial(world.request, n) for n in range(min(1000, waiting))]
    )
    results["a desktop ends, the next session is let in"] = timed(
        [partial(world.end, p) for p in world.pods[:enough]]
    )
    let_in = waiting - len(world.admission.waits())
    assert 0 < let_in <= enough and len(world.woken) == let_in, (let_in, len(world.woken))
    slices = asyncio.run(_enqueue_outdated(world))
    results["every 5 s: who is to be told a new place, per slice"] = slices
    if placeholders:
        name = f"a look at {placeholders} placeholders, after a change"
        results[name] = asyncio.run(_look_at_placeholders(world))
    return {name: _sum_up(lengths) for name, lengths in results.items()}


async def _make_placeholders(world: FullCluster, count: int) -> None:
    """The first look makes them; their autoscaler refuses."""
    if count:
        await world.placeholders.reconcile(PLACEHOLDERS)
        world.refuse()
        assert len(world.caches.placeholders) == count, len(world.caches.placeholders)


async def _look_at_placeholders(world: FullCluster) -> list[float]:
    """Each look follows an Event of the autoscaler."""
    lengths = []
    for _ in range(100):
        world.refuse()
        began = time.thread_time()
        await world.placeholders.reconcile(PLACEHOLDERS)
        lengths.append((time.thread_time() - began) * 1000)
    return sorted(lengths)


async def _enqueue_outdated(world: FullCluster) -> list[float]:
    """How long the event loop stands still each time while those who wait are looked at."""
    now = int(time.time() * 1000) + 5000
    task = asyncio.ensure_future(world.admission._enqueue_outdated(now))
    lengths = []
    while not task.done():
        began = time.thread_time()
        await asyncio.sleep(0)
        lengths.append((time.thread_time() - began) * 1000)
    await task
    return sorted(lengths)


def _sum_up(lengths: list[float]) -> dict[str, float]:
    return {
        "p50": round(lengths[len(lengths) // 2], 3),
        "p99": round(lengths[min(len(lengths) - 1, len(lengths) * 99 // 100)], 3),
        "max": round(lengths[-1], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.queue", description="How long the queue's decisions take."
    )
    parser.add_argument("--waiting", type=int, default=5000, help="sessions in line (default 5000)")
    parser.add_argument(
        "--placeholders",
        type=int,
        default=200,
        help="pods that ask an autoscaler for nodes (default 200; 0: none)",
    )
    add_json_option(parser)
    options = parser.parse_args()
    results = measure(options.waiting, options.placeholders)
    given = {"waiting": options.waiting, "placeholders": options.placeholders}
    write_rows(options.json, {**given, "aim_ms": AIM_MS, "results": results})
    print(
        f"{options.waiting} waiting, {NODES} nodes, {NODES * GPUS} desktops, {options.placeholders}"
        f" placeholders; Python {platform.python_version()}; ms"
    )
    for name, figures in results.items():
        print(
            f"  {name:<60}" + "".join(f"{key} {value:>8.3f}   " for key, value in figures.items())
        )
    is_met = all(figures["max"] <= AIM_MS for figures in results.values())
    print(goal(is_met, f"each decision in at most {AIM_MS:g} ms"))


if __name__ == "__main__":
    main()
