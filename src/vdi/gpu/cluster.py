"""All calls of `vdi gpu` to the API server: collects the state, measures the use, applies a plan."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from vdi.findings.model import Finding, Severity
from vdi.gpu.sharing.changes import CLUSTER_POLICIES, RUNTIME_CLASSES, Change
from vdi.gpu.sharing.dcgm import BadPageError, Gpu, GpuMeasurements, is_exporter, port_of, read_page
from vdi.gpu.sharing.request import RefusedError
from vdi.gpu.sharing.state import (
    DEFAULT_NAME,
    ClusterPolicy,
    DaemonSet,
    GpuState,
    active_policies,
    in_use,
    locate,
    names,
    observe,
    pods_of,
)
from vdi.kube.clock import Clock
from vdi.kube.errors import ApiError, Forbidden, KubeError, NotFound
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES, PODS
from vdi.kube.transport import Client

Raw = dict[str, Any]


async def collect(client: Client, *, usage: bool = True) -> GpuState:
    """The state of GPUs, device plugin and configuration; `usage` reads all pods of the cluster for what is in use.

    Raises a KubeError; RefusedError for several ClusterPolicies.
    """

    nodes, sets, policy, used = await asyncio.gather(
        client.list(NODES, into=Raw), client.list(DAEMON_SETS, into=Raw), _policy(client), _in_use(client, usage)
    )
    namespace = locate(policy, sets).namespace
    pods = await client.list(PODS, namespace=namespace, into=Raw)
    bare = locate(policy, sets, pods)
    maps = [await _config_map(client, namespace, name) for name in sorted({bare.config_name, DEFAULT_NAME} - {""})]
    return observe(
        bare,
        nodes=nodes,
        used=used,
        daemon_sets=sets,
        pods=pods,
        config_maps=[each for each in maps if each is not None],
        runtime_class=await _there(client, "nvidia"),
    )


async def _policy(client: Client) -> ClusterPolicy | None:
    """The ClusterPolicy; None on a cluster without the GPU Operator."""
    try:
        active = active_policies(await client.list(CLUSTER_POLICIES, into=Raw))
    except NotFound:
        return None
    if len(active) > 1:
        there = names(each.name for each in active)
        raise RefusedError(
            [f"There are several ClusterPolicies: {there}; allowed: one, because the GPU Operator uses only one."]
        )
    return active[0] if active else None


async def _config_map(client: Client, namespace: str, name: str) -> Raw | None:
    try:
        return await client.get(CONFIG_MAPS, name, namespace=namespace, into=Raw)
    except NotFound:
        return None


async def _there(client: Client, runtime_class: str) -> bool:
    try:
        await client.get(RUNTIME_CLASSES, runtime_class, into=Raw)
    except NotFound:
        return False
    return True


async def _in_use(client: Client, desired: bool) -> Counter[str]:
    """GPUs that pods ask for, by node."""
    if not desired:
        return Counter()
    placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
    return in_use(await client.list(PODS, field_selector=placed, into=Raw))


AT_ONCE = 8
PAGE_SECONDS = 3.0
MOST_BYTES = 4 * 2**20
# In all; nodes that were not asked until then are not known.
ALL_SECONDS = 20.0


async def measure(client: Client, nodes: Collection[str]) -> GpuMeasurements:
    """What the exporters say of these nodes' GPUs. Whatever goes wrong is a problem of the node, never an error."""
    try:
        found = [DaemonSet(each) for each in await client.list(DAEMON_SETS, into=Raw)]
        exporters = [each for each in found if is_exporter(each)]
        namespaces = sorted({exporter.namespace for exporter in exporters})
        pods = [pod for namespace in namespaces for pod in await client.list(PODS, namespace=namespace, into=Raw)]
    except KubeError as error:
        return GpuMeasurements(problems=dict.fromkeys(nodes, f"the DCGM exporter was not found: {error}"))
    names = tuple(f"{exporter.namespace}/{exporter.name}" for exporter in exporters)
    none = "no pod of the DCGM exporter runs there" if exporters else "no DCGM exporter runs in this cluster"
    problems = dict.fromkeys(nodes, none)
    measured: dict[str, tuple[Gpu, ...]] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(node: str, exporter: DaemonSet, pod: str) -> None:
        problems[node] = f"pod {exporter.namespace}/{pod} was not queried within {ALL_SECONDS:g} s"
        async with gate:
            try:
                measured[node] = await _read(client, exporter, pod)
                del problems[node]
            except (KubeError, BadPageError) as error:
                problems[node] = f"pod {exporter.namespace}/{pod}: {_words(error)}"

    asked = {
        pod["spec"].get("nodeName"): (exporter, pod["metadata"]["name"])
        for exporter in exporters
        for pod in pods_of(exporter.raw, pods)
    }
    try:
        async with asyncio.timeout(ALL_SECONDS):
            await asyncio.gather(*(ask(node, *there) for node, there in asked.items() if node in problems))
    except TimeoutError:
        pass  # said in `problems`
    return GpuMeasurements(names, measured, problems)


async def _read(client: Client, exporter: DaemonSet, pod: str) -> tuple[Gpu, ...]:
    page = await client.page_of_pod(
        exporter.namespace, pod, port_of(exporter), "/metrics", most_bytes=MOST_BYTES, seconds=PAGE_SECONDS
    )
    return read_page(page.decode("utf-8", "replace"))


def _words(error: Exception) -> str:
    if isinstance(error, Forbidden):
        return f"missing permission, the verb `get` on pods/proxy: {error.message}"
    return error.message if isinstance(error, ApiError) else str(error)


# Seconds between two looks while waiting; GPU Feature Discovery takes up to a minute for its labels.
LOOK_EVERY = 2.0


async def apply_change(client: Client, change: Change) -> None:
    """One change. ConfigMap and DaemonSet are changed only as they were looked at: Conflict when they are not."""
    if change.before is None:
        await client.create(change.resource, dict(change.after or {}), namespace=change.namespace, into=dict[str, Any])
        return
    if change.after is None:
        await client.delete(change.resource, change.name, namespace=change.namespace, into=dict[str, Any])
        return
    patch = change.patch
    if change.resource in (CONFIG_MAPS, DAEMON_SETS):  # the others are written all the time, and by us in single fields
        patch.setdefault("metadata", {})["resourceVersion"] = change.before["metadata"]["resourceVersion"]
    await client.patch(change.resource, change.name, patch, namespace=change.namespace, into=dict[str, Any])


async def restart_daemon_set(client: Client, daemon_set: DaemonSet, clock: Clock) -> None:
    """What `kubectl rollout restart` does."""
    note = {"annotations": {"kubectl.kubernetes.io/restartedAt": clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")}}
    patch = {"spec": {"template": {"metadata": note}}}
    await client.patch(DAEMON_SETS, daemon_set.name, patch, namespace=daemon_set.namespace, into=dict[str, Any])


async def wait_until_settled(
    client: Client,
    findings: Callable[[GpuState], list[Finding]],
    say: Callable[[str], None],
    *,
    seconds: float,
    clock: Clock,
) -> tuple[GpuState, list[Finding]]:
    """Look until nothing is wrong or unknown any more, or the time is over; what is left is returned, and then empty.

    `say` gets what is waited for.
    """
    deadline = clock.monotonic() + seconds
    while True:
        state = await collect(client, usage=False)
        left = [finding for finding in findings(state) if finding.severity is not Severity.WARNING]
        if not left or clock.monotonic() >= deadline:
            return state, left
        say(f"{left[0].object}: {left[0].message}")
        await clock.sleep(LOOK_EVERY)
