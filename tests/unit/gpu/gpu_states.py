"""Clusters with GPUs, in the shapes that NVIDIA's GPU Operator and device plugin give their
objects.
"""

from dataclasses import replace
from typing import Any

import msgspec

from vdi.gpu.sharing import plan
from vdi.gpu.sharing.config import RESOURCE, Sharing
from vdi.gpu.sharing.plan import SharingPlan, SharingRequest, state_after
from vdi.gpu.sharing.state import (
    CONFIG_LABEL,
    DaemonSet,
    GpuNode,
    GpuState,
    effect_on,
    read_config_map,
)
from vdi.snapshot.objects import convert_object
from vdi.snapshot.objects.config import ConfigMap
from vdi.snapshot.objects.gpu import ClusterPolicy

Obj = dict[str, Any]

LONG_AGO = "2026-11-20T08:00:00Z"
EARLIER = "2026-11-20T09:00:00Z"
LATER = "2026-11-20T10:00:00Z"
EIGHT = SharingRequest({"any": Sharing()}, "any")
SEVERAL = SharingRequest(
    {"any": Sharing(), "big": Sharing(2), "whole": Sharing(1)}, "any", {"b": "big", "c": "whole"}
)


def raw_of(struct: Any) -> Obj:
    """The object that the API server would have."""
    raw: Obj = msgspec.json.decode(msgspec.json.encode(struct))
    return raw


def node_of(raw: Obj) -> GpuNode:
    return GpuNode(convert_object("nodes", raw))


def with_originals(state: GpuState) -> GpuState:
    """The state as `vdi gpu configure` collects it. Objects that it has already stay."""
    originals: dict[tuple[str, str, str], Any] = {}
    for plural, structs in (
        ("nodes", [node.node for node in state.nodes]),
        ("daemonsets", [plugin.workload for plugin in state.plugins]),
        ("configmaps", list(state.config_maps.values())),
        ("clusterpolicies", [state.policy] if state.policy else []),
    ):
        for struct in structs:
            meta = struct.metadata
            originals[plural, meta.namespace, meta.name] = raw_of(struct)
    return replace(state, originals={**originals, **state.originals})


def plan_configure(state: GpuState, request: SharingRequest) -> SharingPlan:
    return plan.plan_configure(with_originals(state), request)


def plan_undo(state: GpuState) -> SharingPlan:
    return plan.plan_undo(with_originals(state))


def a_node(
    name: str = "gpu-1",
    gpus: int = 1,
    labels: Obj | None = None,
    *,
    advertises: int | None = None,
    k3s: str = "",
) -> GpuNode:
    """A node as GPU Feature Discovery labels it while nothing is shared; `labels` without their
    `nvidia.com/`.
    """
    count = str(gpus if advertises is None else advertises)
    found = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.product": "NVIDIA-L4",
        "nvidia.com/gpu.memory": "23034",
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
        **{f"nvidia.com/{key}": value for key, value in (labels or {}).items()},
    }
    room = {"cpu": "8", RESOURCE: count}
    status = {
        "capacity": dict(room),
        "allocatable": dict(room),
        "nodeInfo": {"kubeletVersion": f"v1.34.4{k3s}"},
    }
    return node_of({"metadata": {"name": name, "labels": found}, "status": status})


def shared(node: GpuNode, replicas: int = 8, *, resource: str = RESOURCE) -> GpuNode:
    """The node once device plugin and GPU Feature Discovery share its GPUs."""
    raw = raw_of(node.node)
    labels = raw["metadata"].get("labels", {})
    gpus = int(labels.get("nvidia.com/gpu.count") or node.capacity(RESOURCE))
    if "nvidia.com/gpu.replicas" in labels:
        labels["nvidia.com/gpu.replicas"] = str(replicas)
        labels["nvidia.com/gpu.sharing-strategy"] = "time-slicing" if replicas > 1 else "none"
    for numbers in (raw["status"]["capacity"], raw["status"]["allocatable"]):
        numbers |= {RESOURCE: "0", resource: str(gpus * replicas)}
    return replace(node, node=node_of(raw).node)


def unlabelled(node: GpuNode) -> GpuNode:
    """The node without GPU Feature Discovery."""
    raw = raw_of(node.node)
    raw["metadata"]["labels"] = {}
    return replace(node, node=node_of(raw).node)


def labelled(node: GpuNode, value: str, label: str = CONFIG_LABEL) -> GpuNode:
    raw = raw_of(node.node)
    raw["metadata"].setdefault("labels", {})[label] = value
    return replace(node, node=node_of(raw).node)


def a_config_map(
    changed_at: str = EARLIER, name: str = "time-slicing-config", **data: str
) -> ConfigMap:
    writes = [{"manager": "kubectl", "time": changed_at, "fieldsV1": {"f:data": {"f:any": {}}}}]
    meta = {
        "name": name,
        "namespace": "gpu-operator",
        "creationTimestamp": LONG_AGO,
        "managedFields": writes,
    }
    return read_config_map(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}
    )


def a_policy(config: Obj | None = None, **sections: Obj) -> ClusterPolicy:
    plugin: Obj = {"enabled": True} | ({"config": config} if config else {})
    spec = {"devicePlugin": plugin, **sections}
    policy: ClusterPolicy = convert_object(
        "clusterpolicies",
        {
            "metadata": {"name": "cluster-policy"},
            "spec": spec,
            "status": {"namespace": "gpu-operator"},
        },
    )
    return policy


def a_daemon_set(
    name: str = "nvidia-device-plugin-daemonset",
    *,
    config_map: str | None = None,
    default: str = "",
    fallbacks: str = "empty",
    made: str = LATER,
    ready: int = 1,
    plugin: bool = True,
) -> DaemonSet:
    """As the GPU Operator renders it: with the config-manager when the ClusterPolicy names a
    ConfigMap.
    """
    volumes: list[Obj] = (
        [{"name": "dp", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}] if plugin else []
    )
    containers: list[Obj] = [
        {"name": "nvidia-device-plugin" if plugin else "gpu-feature-discovery", "image": "x/y:1"}
    ]
    if config_map:
        volumes.append({"name": config_map, "configMap": {"name": config_map}})
        containers[0] |= {"env": [{"name": "CONFIG_FILE", "value": "/config/config.yaml"}]}
        environment = {
            "CONFIG_FILE_SRCDIR": "/available-configs",
            "DEFAULT_CONFIG": default,
            "FALLBACK_STRATEGIES": fallbacks,
        }
        containers.append(
            {
                "name": "config-manager",
                "command": ["config-manager"],
                "env": [{"name": key, "value": value} for key, value in environment.items()],
                "volumeMounts": [{"name": config_map, "mountPath": "/available-configs"}],
            }
        )
    return with_pods(name, {"containers": containers, "volumes": volumes}, made, ready)


def a_static_plugin(**env: str) -> DaemonSet:
    """As NVIDIA's static manifest has it, without any configuration."""
    main = {
        "name": "nvidia-device-plugin-ctr",
        "image": "nvcr.io/nvidia/k8s-device-plugin:v0.17.1",
        "env": [
            {"name": "FAIL_ON_INIT_ERROR", "value": "false"},
            *({"name": k, "value": v} for k, v in env.items()),
        ],
        "volumeMounts": [{"name": "dir", "mountPath": "/var/lib/kubelet/device-plugins"}],
    }
    volumes = [
        {
            "name": "dir",
            "hostPath": {"path": "/var/lib/kubelet/device-plugins", "type": "Directory"},
        }
    ]
    return with_pods(
        "nvidia-device-plugin-daemonset", {"containers": [main], "volumes": volumes}, LATER, 1
    )


def with_pods(name: str, pod_spec: Obj, made: str, ready: int) -> DaemonSet:
    meta = {"name": name, "namespace": "gpu-operator", "generation": 2, "uid": name}
    status = {
        "observedGeneration": 2,
        "desiredNumberScheduled": 1,
        "updatedNumberScheduled": 1,
        "numberReady": ready,
    }
    pod = {"metadata": {"name": f"{name}-x", "creationTimestamp": made}}
    workload = {"metadata": meta, "spec": {"template": {"spec": pod_spec}}, "status": status}
    return DaemonSet(convert_object("daemonsets", workload), (convert_object("pods", pod),))


def fresh(*nodes: GpuNode) -> GpuState:
    """The GPU Operator as it comes: nothing shared."""
    return GpuState(
        "gpu-operator",
        nodes=nodes or (a_node(),),
        plugins=(a_daemon_set(),),
        policy=a_policy(),
        runtime_class=True,
    )


def played(observed: GpuState, changes: SharingPlan) -> GpuState:
    """The cluster after the plan: GPU Operator, device plugin and Feature Discovery do what they
    are configured to.
    """
    reported = state_after(observed, changes)
    if reported.policy is not None:
        name, default = reported.config_name, reported.policy.spec.device_plugin.config.default
        sets = (a_daemon_set(config_map=name or None, default=default),)
        readers = (
            (a_daemon_set("gpu-feature-discovery", config_map=name, plugin=False),) if name else ()
        )
        reported = replace(reported, plugins=sets, readers=readers)
    nodes = []
    for node in reported.nodes:
        sharing = effect_on(node, reported).sharing
        assert sharing is not None
        nodes.append(
            shared(node, sharing.replicas, resource=sharing.resource) if node.has_gpu else node
        )
    return replace(reported, nodes=tuple(nodes))


def configured(*nodes: GpuNode, request: SharingRequest = EIGHT) -> GpuState:
    """The GPU Operator with time-slicing as it should be."""
    before = fresh(*nodes)
    return played(before, plan_configure(before, request))
