"""Nodes without machines: kept Ready against the node lifecycle controller; their pods go when they
are deleted.

Runs in a thread of its own, since the fixtures and tests around it are of both kinds, with and
without an event loop.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from support.waiting import eventually, wait_until
from vdi.cluster.objects import Pod
from vdi.cluster.units import format_time
from vdi.kube.config import load_config
from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.kube.resource import LEASES, NODES, PODS
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector

T = TypeVar("T")
Object = dict[str, Any]
# Label of the nodes that are looked after here; with the value "heartbeat" their pods are left to
# the test.
MARK = "vdi.test/stand-in"
# The node that every test finds: 64 GPUs, 64 CPUs, 256Gi, 500 pods.
STAND_IN = "stand-in"
ROOM = {"nvidia.com/gpu": "64", "cpu": "64", "memory": "256Gi", "pods": "500"}
_NOTHING_HEARD = "Kubelet stopped posting node status."
# Seconds between two heartbeats; the lifecycle controller loses patience after 50.
_BEAT = 5.0


async def add_node(
    api: Client,
    name: str,
    room: Mapping[str, str] = ROOM,
    *,
    labels: Mapping[str, str] | None = None,
    taints: Sequence[Object] = (),
) -> None:
    """Make a node; return when it is Ready and the controllers have taken their own taint off
    it.
    """
    marks = {
        MARK: "true",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        **(labels or {}),
    }
    node: Object = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": marks}}
    if taints:
        node["spec"] = {"taints": list(taints)}
    await api.create(NODES, node, into=msgspec.Raw)
    status = {"capacity": dict(room), "allocatable": dict(room), "conditions": [_ready()]}
    await api.patch(NODES, name, {"status": status}, subresource="status", into=msgspec.Raw)

    async def has_lease() -> bool:
        # The API server makes the namespace of these Leases in its own time.
        with suppress(NotFound):
            await _renew(api, name)
            return True
        return False

    await eventually(
        has_lease, f"node {name} has a Lease, as a kubelet makes one when it registers"
    )

    async def untainted() -> bool:
        found = await api.get(NODES, name, into=dict)
        return not any(
            taint["key"] == "node.kubernetes.io/not-ready"
            for taint in found["spec"].get("taints", ())
        )

    # Where an API server was killed just before, the controllers become leaders again and list
    # everything first.
    await eventually(untainted, f"node {name} is open for pods", 90)


async def remove_node(api: Client, name: str) -> None:
    """Delete a node, if it is there."""
    with suppress(NotFound):
        await api.delete(NODES, name, into=dict)
    with suppress(NotFound):
        await api.delete(LEASES, name, namespace="kube-node-lease", into=dict)


class Administrator:
    """The client of the thread that stands in for the nodes, for fixtures that have no event
    loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, api: Client) -> None:
        self._loop, self._api = loop, api

    def run(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """The result of `work`."""
        return asyncio.run_coroutine_threadsafe(work(self._api), self._loop).result(90)


@contextmanager
def in_background(
    name: str, work: Callable[[threading.Event], Coroutine[Any, Any, None]]
) -> Iterator[asyncio.AbstractEventLoop]:
    """Runs `work` in a thread with an event loop of its own, until the context ends: then it is
    cancelled.

    The context begins when `work` has set its event.
    """
    ready, failures, loop = threading.Event(), list[BaseException](), asyncio.new_event_loop()
    task = loop.create_task(work(ready))

    def life() -> None:
        try:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(task)
        except BaseException as failure:
            failures.append(failure)
        finally:
            # What it does in threads goes on to its end.
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    thread = threading.Thread(target=life, name=name)
    thread.start()
    try:
        wait_until(f"{name} is ready", lambda: ready.is_set() or failures)
        assert not failures, failures
        yield loop
        assert not failures, failures
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(task.cancel)
        thread.join(60)


@contextmanager
def nodes_stand_in(kubeconfig: Path) -> Iterator[Administrator]:
    """One node for everybody, and a kubelet's heartbeat for all marked nodes, while the context
    lasts.
    """
    api = Client(load_config(kubeconfig), field_manager="stand-in")
    with in_background("the nodes' stand-in", partial(_live, api)) as loop:
        yield Administrator(loop, api)


async def _live(client: Client, ready: threading.Event) -> None:
    async with client as api, asyncio.TaskGroup() as group:
        pods: Store[Pod] = Store()
        doomed: asyncio.Queue[Pod] = asyncio.Queue()
        pods.listen(lambda _, new: _consider(new, doomed))
        reflector = Reflector(api, PODS, Pod, pods, field_selector="spec.nodeName!=")
        for work in (reflector.run(), _beat(api), _let_go(api, doomed)):
            group.create_task(work)
        await add_node(api, STAND_IN)
        ready.set()


def _consider(pod: Pod | None, doomed: asyncio.Queue[Pod]) -> None:
    if pod is not None and pod.metadata.deletion_timestamp:
        doomed.put_nowait(pod)


async def _let_go(api: Client, doomed: asyncio.Queue[Pod]) -> None:
    """The kubelet's last step, once the containers have stopped; pods on other nodes wait for their
    own.
    """
    while True:
        pod = await doomed.get()
        try:
            node = await api.get(NODES, pod.spec.node_name, into=dict)
            if node["metadata"]["labels"].get(MARK) == "true":
                meta = pod.metadata
                await api.delete(
                    PODS,
                    meta.name,
                    namespace=meta.namespace,
                    uid=meta.uid,
                    grace_seconds=0,
                    into=msgspec.Raw,
                )
        except (NotFound, Conflict):
            continue
        except KubeError:  # the API server is being restarted
            await asyncio.sleep(0.2)
            doomed.put_nowait(pod)


async def _beat(api: Client) -> None:
    while True:
        with suppress(KubeError):  # while the API server is being restarted
            for node in await api.list(NODES, label_selector=MARK, into=dict):
                name = node["metadata"]["name"]
                await _renew(api, name)
                if _was_given_up(node):
                    status = {"status": {"conditions": [_ready()]}}
                    await api.patch(NODES, name, status, subresource="status", into=msgspec.Raw)
        await asyncio.sleep(_BEAT)


def _was_given_up(node: Object) -> bool:
    """Whether the lifecycle controller says that nothing was heard of it: a kubelet that lives
    contradicts.
    """
    conditions = node.get("status", {}).get("conditions", ())
    return any(
        condition["type"] == "Ready" and condition.get("message") == _NOTHING_HEARD
        for condition in conditions
    )


def _ready() -> Object:
    times = dict.fromkeys(
        ("lastHeartbeatTime", "lastTransitionTime"), format_time(datetime.now(UTC))
    )
    return {"type": "Ready", "status": "True", "reason": "StandIn", "message": "", **times}


async def _renew(api: Client, node: str) -> None:
    lease: Object = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": node, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": node,
            "leaseDurationSeconds": 40,
            "renewTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
        },
    }
    await api.apply(LEASES, node, lease, namespace="kube-node-lease", into=msgspec.Raw)
