"""All calls of `vdi gpu` to the API server: collects the state, measures the use, applies a plan.

`vdi doctor --fix` applies its changes with `apply_change` too.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from vdi.findings.model import Finding, Severity
from vdi.gpu.sharing.changes import CLUSTER_POLICIES, RUNTIME_CLASSES, Change
from vdi.gpu.sharing.dcgm import BadPageError, Gpu, GpuMeasurements, is_exporter, port_of, read_page
from vdi.gpu.sharing.plan import RefusedError
from vdi.gpu.sharing.state import (
    DEFAULT_NAME,
    ClusterPolicy,
    DaemonSet,
    GpuState,
    active_policies,
    in_use,
    names,
    observe,
    pods_of,
)
from vdi.kube.clock import Clock
from vdi.kube.errors import ApiError, Forbidden, KubeError, NotFound
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES, PODS, Resource
from vdi.kube.transport import Client

Raw = dict[str, Any]

# DCGM exporters that are queried at the same time, limits of one page, and the time for all of
# them.
AT_ONCE = 8
PAGE_SECONDS = 3.0
PAGE_BYTES = 4 * 2**20
ALL_SECONDS = 20.0
# Pause while waiting for the cluster. GPU Feature Discovery takes up to a minute for its labels.
_POLL_SECONDS = 2.0


async def collect(client: Client, *, usage: bool = True) -> GpuState:
    """The state of GPUs, device plugin and configuration. `usage`: read all pods, for the GPUs that
    are in use.

    Raises a KubeError; RefusedError for several ClusterPolicies.
    """
    nodes, sets, policy, used = await asyncio.gather(
        client.list(NODES, into=Raw),
        client.list(DAEMON_SETS, into=Raw),
        _policy(client),
        _in_use(client, usage),
    )
    located = observe(policy, sets)
    names = sorted({located.config_name, DEFAULT_NAME} - {""})
    maps = [await _get(client, CONFIG_MAPS, name, located.namespace) for name in names]
    return observe(
        policy,
        sets,
        nodes=nodes,
        used=used,
        pods=await client.list(PODS, namespace=located.namespace, into=Raw),
        config_maps=[config_map for config_map in maps if config_map is not None],
        runtime_class=await _get(client, RUNTIME_CLASSES, "nvidia") is not None,
    )


async def _policy(client: Client) -> ClusterPolicy | None:
    """The ClusterPolicy; None on a cluster without the GPU Operator."""
    # Without the GPU Operator the API server does not know the kind.
    try:
        active = active_policies(await client.list(CLUSTER_POLICIES, into=Raw))
    except NotFound:
        return None
    if len(active) > 1:
        there = names(each.name for each in active)
        raise RefusedError(
            [
                f"There are several ClusterPolicies: {there}; allowed: one, because the GPU"
                " Operator uses only one."
            ]
        )
    return active[0] if active else None


async def _get(
    client: Client, kind: Resource, name: str, namespace: str | None = None
) -> Raw | None:
    try:
        return await client.get(kind, name, namespace=namespace, into=Raw)
    except NotFound:
        return None


async def _in_use(client: Client, usage: bool) -> Counter[str]:
    if not usage:
        return Counter()
    placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
    return in_use(await client.list(PODS, field_selector=placed, into=Raw))


async def measure(client: Client, nodes: Collection[str]) -> GpuMeasurements:
    """Use of these nodes' GPUs by their DCGM exporters. An error is a problem of its node, and is
    never raised.
    """
    try:
        sets = [DaemonSet(daemon_set) for daemon_set in await client.list(DAEMON_SETS, into=Raw)]
        exporters = [daemon_set for daemon_set in sets if is_exporter(daemon_set)]
        namespaces = sorted({exporter.namespace for exporter in exporters})
        pods = [
            pod
            for namespace in namespaces
            for pod in await client.list(PODS, namespace=namespace, into=Raw)
        ]
    except KubeError as error:
        return GpuMeasurements(
            problems=dict.fromkeys(nodes, f"the DCGM exporter was not found: {error}")
        )
    names = tuple(f"{exporter.namespace}/{exporter.name}" for exporter in exporters)
    none = (
        "no pod of the DCGM exporter runs there"
        if exporters
        else "no DCGM exporter runs in this cluster"
    )
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
            await asyncio.gather(
                *(ask(node, *there) for node, there in asked.items() if node in problems)
            )
    except TimeoutError:
        pass  # those that are left have their problem already
    return GpuMeasurements(names, measured, problems)


async def _read(client: Client, exporter: DaemonSet, pod: str) -> tuple[Gpu, ...]:
    page = await client.page_of_pod(
        exporter.namespace,
        pod,
        port_of(exporter),
        "/metrics",
        most_bytes=PAGE_BYTES,
        seconds=PAGE_SECONDS,
    )
    return read_page(page.decode("utf-8", "replace"))


def _words(error: Exception) -> str:
    if isinstance(error, Forbidden):
        return f"missing permission, the verb `get` on pods/proxy: {error.message}"
    return error.message if isinstance(error, ApiError) else str(error)


async def apply_change(client: Client, change: Change, *, only_as_seen: bool = False) -> None:
    """Create, patch or delete the object. ConfigMaps and DaemonSets are patched only as they were
    when collected.

    `only_as_seen`: so is every other object. Raises Conflict, or NotFound, when someone else was
    there first.
    """
    kind, namespace = change.resource, change.namespace
    if change.before is None:
        await client.create(kind, dict(change.after or {}), namespace=namespace, into=Raw)
        return
    seen = change.before["metadata"]
    if change.after is None:
        await client.delete(kind, change.name, namespace=namespace, uid=seen["uid"], into=Raw)
        return
    patch = change.patch
    # Kubelets and the GPU Operator write nodes and ClusterPolicies all the time: a plan that
    # changes single fields of them would nearly always meet a conflict.
    if only_as_seen or kind in (CONFIG_MAPS, DAEMON_SETS):
        patch.setdefault("metadata", {})["resourceVersion"] = seen["resourceVersion"]
    await client.patch(kind, change.name, patch, namespace=namespace, into=Raw)


async def restart_daemon_set(client: Client, daemon_set: DaemonSet, clock: Clock) -> None:
    """Restart as `kubectl rollout restart` does."""
    note = {
        "annotations": {
            "kubectl.kubernetes.io/restartedAt": clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        }
    }
    patch = {"spec": {"template": {"metadata": note}}}
    await client.patch(
        DAEMON_SETS, daemon_set.name, patch, namespace=daemon_set.namespace, into=Raw
    )


async def wait_until_settled(
    client: Client,
    findings: Callable[[GpuState], list[Finding]],
    say: Callable[[str], None],
    *,
    seconds: float,
    clock: Clock,
) -> tuple[GpuState, list[Finding]]:
    """Collect until there are only warnings, or the time is over. Returns the last state, and the
    findings left.

    `say` gets the finding that is waited for.
    """
    deadline = clock.monotonic() + seconds
    while True:
        state = await collect(client, usage=False)
        left = [finding for finding in findings(state) if finding.severity is not Severity.WARNING]
        if not left or clock.monotonic() >= deadline:
            return state, left
        say(f"{left[0].object}: {left[0].message}")
        await clock.sleep(_POLL_SECONDS)
