"""Clusters with GPUs, in the shapes that NVIDIA's GPU Operator and device plugin give their
objects.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

from vdi.gpu.sharing.config import RESOURCE, Sharing
from vdi.gpu.sharing.plan import SharingPlan, SharingRequest, plan_configure, state_after
from vdi.gpu.sharing.state import (
    CONFIG_LABEL,
    ClusterPolicy,
    ConfigMap,
    DaemonSet,
    GpuState,
    Node,
    effect_on,
)

Obj = dict[str, Any]

LONG_AGO = "2026-11-20T08:00:00Z"
EARLIER = "2026-11-20T09:00:00Z"
LATER = "2026-11-20T10:00:00Z"
EIGHT = SharingRequest({"any": Sharing()}, "any")
SEVERAL = SharingRequest(
    {"any": Sharing(), "big": Sharing(2), "whole": Sharing(1)}, "any", {"b": "big", "c": "whole"}
)


def a_node(
    name: str = "gpu-1",
    gpus: int = 1,
    labels: Obj | None = None,
    *,
    advertises: int | None = None,
    k3s: str = "",
) -> Node:
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
    return Node({"metadata": {"name": name, "labels": found}, "status": status})


def shared(node: Node, replicas: int = 8, *, resource: str = RESOURCE) -> Node:
    """The node once device plugin and GPU Feature Discovery share its GPUs."""
    raw = deepcopy(dict(node.raw))
    labels = raw["metadata"]["labels"]
    gpus = int(labels.get("nvidia.com/gpu.count") or node.count(RESOURCE, "capacity"))
    if "nvidia.com/gpu.replicas" in labels:
        labels["nvidia.com/gpu.replicas"] = str(replicas)
        labels["nvidia.com/gpu.sharing-strategy"] = "time-slicing" if replicas > 1 else "none"
    for numbers in (raw["status"]["capacity"], raw["status"]["allocatable"]):
        numbers |= {RESOURCE: "0", resource: str(gpus * replicas)}
    return replace(node, raw=raw)


def unlabelled(node: Node) -> Node:
    """The node without GPU Feature Discovery."""
    return replace(node, raw={**node.raw, "metadata": {**node.raw["metadata"], "labels": {}}})


def labelled(node: Node, value: str, label: str = CONFIG_LABEL) -> Node:
    labels = {**node.raw["metadata"]["labels"], label: value}
    return replace(node, raw={**node.raw, "metadata": {**node.raw["metadata"], "labels": labels}})


def a_config_map(
    changed_at: str = EARLIER, name: str = "time-slicing-config", **data: str
) -> ConfigMap:
    writes = [{"manager": "kubectl", "time": changed_at, "fieldsV1": {"f:data": {}}}]
    meta = {
        "name": name,
        "namespace": "gpu-operator",
        "creationTimestamp": LONG_AGO,
        "managedFields": writes,
    }
    return ConfigMap({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})


def a_policy(config: Obj | None = None, **sections: Obj) -> ClusterPolicy:
    plugin: Obj = {"enabled": True} | ({"config": config} if config else {})
    spec = {"devicePlugin": plugin, **sections}
    return ClusterPolicy(
        {
            "metadata": {"name": "cluster-policy"},
            "spec": spec,
            "status": {"namespace": "gpu-operator"},
        }
    )


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
    return DaemonSet(
        {"metadata": meta, "spec": {"template": {"spec": pod_spec}}, "status": status}, (pod,)
    )


def fresh(*nodes: Node) -> GpuState:
    """The GPU Operator as it comes: nothing shared."""
    return GpuState(
        "gpu-operator",
        nodes=nodes or (a_node(),),
        plugins=(a_daemon_set(),),
        policy=a_policy(),
        runtime_class=True,
    )


def played(observed: GpuState, plan: SharingPlan) -> GpuState:
    """The cluster after the plan: GPU Operator, device plugin and Feature Discovery do what they
    are configured to.
    """
    reported = state_after(observed, plan)
    if reported.policy is not None:
        name, default = reported.config_name, str(reported.policy.config.get("default") or "")
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


def configured(*nodes: Node, request: SharingRequest = EIGHT) -> GpuState:
    """The GPU Operator with time-slicing as it should be."""
    before = fresh(*nodes)
    return played(before, plan_configure(before, request))
