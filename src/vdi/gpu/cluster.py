"""All calls of `vdi gpu` to the API server: collects the state, measures the use, applies a plan.

`vdi doctor --fix` applies its changes with `apply_change` too.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from vdi.findings.model import Finding, Severity
from vdi.gpu.sharing.changes import Change
from vdi.gpu.sharing.dcgm import BadPageError, Gpu, GpuMeasurements, read_page
from vdi.gpu.sharing.plan import RefusedError
from vdi.gpu.sharing.state import (
    DEFAULT_NAME,
    DaemonSet,
    GpuState,
    active_policies,
    names,
    observe,
    read_config_map,
)
from vdi.kube.clock import Clock
from vdi.kube.errors import ApiError, Forbidden, KubeError
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES, PODS
from vdi.kube.transport import Client
from vdi.snapshot.objects import (
    CLUSTER_POLICIES,
    RUNTIME_CLASSES,
    Objects,
    convert_object,
    read_object,
)
from vdi.snapshot.objects.workloads import Pod
from vdi.snapshot.reader import Reader

Raw = dict[str, Any]

# DCGM exporters that are queried at the same time, limits of one page, and the time for all of
# them.
AT_ONCE = 8
PAGE_SECONDS = 3.0
PAGE_BYTES = 4 * 2**20
ALL_SECONDS = 20.0
# Of an exporter that names no port.
DEFAULT_PORT = 9400
# Pause while waiting for the cluster. GPU Feature Discovery takes up to a minute for its labels.
_POLL_SECONDS = 2.0


class UnreadableError(Exception):
    """Raised when a kind cannot be read: a part of the state would be wrong advice. The message
    names the missing permission.
    """


async def collect(client: Client, *, usage: bool = True) -> GpuState:
    """The state of GPUs, device plugin and configuration. `usage`: read the pods of all namespaces,
    for the GPUs that are in use and for the DCGM exporters.

    Raises a KubeError; UnreadableError; RefusedError for several ClusterPolicies.
    """
    originals: dict[tuple[str, str, str], Raw] = {}

    def decode(plural: str, item: msgspec.Raw) -> Any:
        if plural == PODS.plural:
            return read_object(plural, item)
        raw: Raw = msgspec.json.decode(item)
        meta = raw["metadata"]
        originals[plural, meta.get("namespace", ""), meta["name"]] = raw
        if plural == CONFIG_MAPS.plural:
            return read_config_map(raw)
        return convert_object(plural, raw)

    reader = Reader(client, "vdi-gpu", decode=decode)
    placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
    await asyncio.gather(
        *(reader.all_of(kind) for kind in (NODES, DAEMON_SETS, CLUSTER_POLICIES)),
        reader.one(RUNTIME_CLASSES, "nvidia"),
        *([reader.all_of(PODS, field_selector=placed)] if usage else []),
    )
    located = observe(Objects(**reader.objects))
    for name in sorted({located.config_name, DEFAULT_NAME} - {""}):
        await reader.one(CONFIG_MAPS, name, located.namespace)
    if not usage:
        await reader.all_of(PODS, located.namespace)
    for unread in reader.unread.values():
        raise UnreadableError(
            "\n  ".join((f"{unread.words} {unread.remedy.sentence}", *unread.remedy.commands))
        )
    objects = Objects(**reader.objects)
    policies = [policy.metadata.name for policy in active_policies(objects.clusterpolicies)]
    if len(policies) > 1:
        raise RefusedError(
            [
                f"There are several ClusterPolicies: {names(policies)}; allowed: one, because the"
                " GPU Operator uses only one."
            ]
        )
    return replace(observe(objects), originals=originals)


async def measure(client: Client, state: GpuState) -> GpuMeasurements:
    """Use of the GPUs by the DCGM exporters of their nodes. An error is a problem of its node, and
    is never raised.
    """
    exporters = tuple(f"{exporter.namespace}/{exporter.name}" for exporter in state.exporters)
    missing = "no DCGM exporter runs in this cluster"
    if exporters:
        missing = "no pod of the DCGM exporter runs there"
    problems = dict.fromkeys((node.name for node in state.gpu_nodes), missing)
    measured: dict[str, tuple[Gpu, ...]] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(pod: Pod, port: int) -> None:
        node, name = pod.spec.node_name, f"pod {pod.metadata.namespace}/{pod.metadata.name}"
        problems[node] = f"{name} was not queried within {ALL_SECONDS:g} s"
        async with gate:
            try:
                measured[node] = await _read(client, pod, port)
                del problems[node]
            except (KubeError, BadPageError) as error:
                problems[node] = f"{name}: {_words(error)}"

    # One on each node.
    targets: dict[str, tuple[Pod, int]] = {}
    for exporter in state.exporters:
        ports = exporter.exporter.ports if exporter.exporter else ()
        port = ports[0].container_port if ports else DEFAULT_PORT
        targets |= {pod.spec.node_name: (pod, port) for pod in exporter.pods}
    try:
        async with asyncio.timeout(ALL_SECONDS):
            await asyncio.gather(
                *(ask(*target) for node, target in targets.items() if node in problems)
            )
    except TimeoutError:
        pass  # those that are left have their problem already
    return GpuMeasurements(exporters, measured, problems)


async def _read(client: Client, pod: Pod, port: int) -> tuple[Gpu, ...]:
    page = await client.page_of_pod(
        pod.metadata.namespace,
        pod.metadata.name,
        port,
        "/metrics",
        most_bytes=PAGE_BYTES,
        seconds=PAGE_SECONDS,
    )
    return read_page(page.decode("utf-8", "replace"))


def _words(error: Exception) -> str:
    if isinstance(error, Forbidden):
        return f"missing permission, the verb `get` on pods/proxy: {error.message}"
    if isinstance(error, ApiError):
        return error.message
    return str(error)


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
