"""How the sharing of GPUs reads: the page of `status`, the findings of `verify`, the plan of `configure`."""

from collections.abc import Sequence
from typing import Any

from vdi.cli.output import columns
from vdi.gpu.sharing.changes import diff_lines
from vdi.gpu.sharing.config import RENAMED, RESOURCE
from vdi.gpu.sharing.dcgm import GpuMeasurements
from vdi.gpu.sharing.effect import effect_on, picker_of
from vdi.gpu.sharing.notes import notes_on
from vdi.gpu.sharing.plan import SharingPlan
from vdi.gpu.sharing.state import DaemonSet, GpuState, Node

UNKNOWN = "UNKNOWN"
WHOLE_GPUS = (
    "BUSY and MEMORY are those of whole GPUs: under time-slicing it is unknown how much each desktop uses, and "
    "whether it is idle."
)


def status_data(state: GpuState, measured: GpuMeasurements | None = None) -> dict[str, Any]:
    """What `status -o json` prints; without `measured` nothing of how busy the GPUs are."""
    policy = state.policy
    return {
        "namespace": state.namespace,
        "clusterPolicy": policy.name if policy else None,
        "configMap": state.config_name or None,
        "default": picker_of(state).default or None,
        "devicePlugins": [_plugin_data(plugin) for plugin in state.plugins],
        "runtimeClassNvidia": state.runtime_class,
        "nodes": [
            _node_data(node, state) | (_busy_data(node.name, measured) if measured else {}) for node in state.gpu_nodes
        ],
        "notes": list(notes_on(state)),
    } | ({"dcgmExporters": list(measured.exporters)} if measured else {})


def _busy_data(node: str, measured: GpuMeasurements) -> dict[str, Any]:
    gpus = [
        {
            "gpu": gpu.index,
            "model": gpu.model,
            "busy": gpu.busy,
            "memoryUsedMiB": gpu.memory_used,
            "memoryMiB": gpu.memory,
        }
        for gpu in measured.nodes.get(node, ())
    ]
    return {"busy": measured.busy(node), "busyUnknown": measured.problems.get(node), "measured": gpus}


def _plugin_data(plugin: DaemonSet) -> dict[str, Any]:
    status = plugin.raw.get("status", {})
    ready, desired = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
    return {"namespace": plugin.namespace, "name": plugin.name, "ready": ready, "desired": desired}


def _node_data(node: Node, state: GpuState) -> dict[str, Any]:
    effect = effect_on(node, state)
    sharing = effect.sharing
    resource = sharing.resource if sharing else RESOURCE
    return {
        "node": node.name,
        "gpus": node.gpus,
        "product": node.label("nvidia.com/gpu.product") or None,
        "mig": node.mig,
        "config": effect.config or None,
        "sharing": sharing.method if sharing else None,
        "replicas": sharing.replicas if sharing else None,
        "resource": resource,
        "advertised": node.count(resource, "capacity"),
        "allocatable": node.count(resource),
        "inUse": node.in_use,
        "problem": effect.problem or None,
    }


def status_lines(state: GpuState, measured: GpuMeasurements) -> list[str]:
    """What `status` prints for people."""
    data = status_data(state, measured)
    kind = f"GPU Operator, ClusterPolicy {data['clusterPolicy']}" if state.policy else "device plugin"
    chosen = f"{state.namespace}/{data['configMap']}" if data["configMap"] else "none: GPUs are not shared"
    facts = {
        "Managed by": kind,
        "ConfigMap": chosen + (f", default {data['default']}" if data["default"] else ""),
        "Device plugin": "; ".join(
            f"{plugin['namespace']}/{plugin['name']}, {plugin['ready']} of {plugin['desired']} pods ready"
            for plugin in data["devicePlugins"]
        )
        or "none found",
        "RuntimeClass": "nvidia exists" if state.runtime_class else "nvidia does not exist",
        "DCGM exporter": ", ".join(measured.exporters) or "none found",
    }
    lines = [f"{name + ':':<15}{value}" for name, value in facts.items()]
    if not data["nodes"]:
        return [*lines, "", f"No node has a GPU that Kubernetes knows of ({RESOURCE} or {RENAMED})."]
    header = ["NODE", "GPUS", "PRODUCT", "CONFIG", "SHARING", "REPLICAS", "RESOURCE", "ADVERTISED", "IN USE"]
    header += ["BUSY", "MEMORY"]
    fields = ("node", "gpus", "product", "config", "sharing", "replicas", "resource", "advertised", "inUse")
    rows = [["-" if node[field] is None else str(node[field]) for field in fields] for node in data["nodes"]]
    rows = [[*row, *_busy_cells(node)] for row, node in zip(rows, data["nodes"], strict=True)]
    lines += ["", *columns(header, rows)]
    unknown = [
        f"Node {node['node']}: {UNKNOWN}: {node['busyUnknown']}" for node in data["nodes"] if node["busyUnknown"]
    ]
    notes = [WHOLE_GPUS] if measured.nodes else []
    return [*lines, *note_lines([*data["notes"], *notes, *unknown])]


def _busy_cells(node: dict[str, Any]) -> list[str]:
    used = [gpu["memoryUsedMiB"] for gpu in node["measured"]]
    there = [gpu["memoryMiB"] for gpu in node["measured"]]
    busy = UNKNOWN if node["busy"] is None else f"{node['busy']:.0%}"
    if not there or None in there:
        return [busy, UNKNOWN]
    return [busy, f"{sum(used) / 1024:.1f} of {sum(there) / 1024:.1f} GiB"]


def note_lines(notes: Sequence[str]) -> list[str]:
    """Notes as a part of a page."""
    return ["", "Notes", *(f"  {note}" for note in notes)] if notes else []


def healthy_lines(state: GpuState) -> list[str]:
    """One line for each node that is as it should be."""
    lines = []
    for node in status_data(state)["nodes"]:
        gpus = "? GPUs" if node["gpus"] is None else "1 GPU" if node["gpus"] == 1 else f"{node['gpus']} GPUs"
        count = f"{gpus} x {node['replicas']}"
        lines.append(f"✓ node {node['node']}: {count} = {node['allocatable']} {node['resource']}")
    return lines


def plan_lines(plan: SharingPlan) -> list[str]:
    """What would be done, as diffs."""
    if plan.empty:
        return ["Nothing to change."]
    lines = [
        line
        for change in plan.changes
        for line in [change.title, *(f"  {diff_line}" for diff_line in diff_lines(change)), ""]
    ]
    return lines + [f"restart DaemonSet {daemon_set.namespace}/{daemon_set.name}" for daemon_set in plan.restarts]


def plan_data(plan: SharingPlan) -> dict[str, Any]:
    """What would be done, for `-o json`."""
    changes = [
        {
            "action": "create" if change.before is None else "delete" if change.after is None else "patch",
            "kind": change.resource.kind,
            "namespace": change.namespace,
            "name": change.name,
            "body": dict(change.after or {})
            if change.before is None
            else None
            if change.after is None
            else change.patch,
        }
        for change in plan.changes
    ]
    restarts = [{"namespace": daemon_set.namespace, "name": daemon_set.name} for daemon_set in plan.restarts]
    return {"steps": changes, "restarts": restarts}
