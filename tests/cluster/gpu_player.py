"""There is no GPU here: this plays NVIDIA's part against a real API server, as its components'
sources have it.

- the GPU Operator renders the DaemonSets from the ClusterPolicy (controllers/object_controls.go);
- kubelets start their pods (the DaemonSets themselves are run by the real controller manager and
  scheduler);
- each node's device plugin reads the ConfigMap **when its pod starts** and never again, the
  config-manager follows the node's label among what was read then (cmd/config-manager), and only
  then the node's numbers change;
- GPU Feature Discovery labels the node in the same way.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from cluster.stand_in import in_background
from vdi.cluster.units import format_time
from vdi.kube.config import load_config
from vdi.kube.errors import Conflict, NotFound
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES, PODS, Resource
from vdi.kube.transport import Client

Object = dict[str, Any]
POLICIES = Resource("nvidia.com", "v1", "clusterpolicies", "ClusterPolicy", namespaced=False)
NAMESPACE = "gpu-operator"
PLUGIN, DISCOVERY = "nvidia-device-plugin-daemonset", "gpu-feature-discovery"
GPU = "nvidia.com/gpu"

_REQUIRED = (
    *(
        "daemonsets",
        "dcgm",
        "dcgmExporter",
        "devicePlugin",
        "driver",
        "gfd",
        "nodeStatusExporter",
        "operator",
    ),
    "toolkit",
)
_ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_TEXT = {"type": "string"}
_CONFIG = {"type": "object", "properties": {"name": _TEXT, "default": _TEXT}}
_PLUGIN = {"type": "object", "properties": {"enabled": {"type": "boolean"}, "config": _CONFIG}}
_PARTS = {**dict.fromkeys((*_REQUIRED, "mig"), _ANYTHING), "devicePlugin": _PLUGIN}
_SPEC = {"type": "object", "required": [*_REQUIRED], "properties": _PARTS}
_STATUS = {
    "type": "object",
    "required": ["namespace", "state"],
    "properties": {"namespace": _TEXT, "state": _TEXT},
}
_SCHEMA = {"type": "object", "properties": {"spec": _SPEC, "status": _STATUS}}
_VERSION: Object = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}}
# What of NVIDIA's CRD is looked at here, with the fields that it requires.
CRD: Object = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "clusterpolicies.nvidia.com"},
    "spec": {
        "group": "nvidia.com",
        "scope": "Cluster",
        "names": {
            "kind": "ClusterPolicy",
            "listKind": "ClusterPolicyList",
            "plural": "clusterpolicies",
        },
        "versions": [_VERSION | {"schema": {"openAPIV3Schema": _SCHEMA}}],
    },
}
POLICY: Object = {
    "apiVersion": "nvidia.com/v1",
    "kind": "ClusterPolicy",
    "metadata": {"name": "cluster-policy"},
    "spec": {
        **{part: {} for part in _REQUIRED},
        "devicePlugin": {"enabled": True},
        "toolkit": {"enabled": False},
    },
}


@dataclass
class Player:
    """Looks at the cluster ten times a second and does what NVIDIA's components would."""

    api: Client
    # Physical GPUs by node.
    gpus: dict[str, int]
    # Whether the GPU Operator is there; without it the DaemonSets are the test's own.
    operator: bool = True
    discovery: bool = True
    # By node: the plugin's pod that read the ConfigMap, and what it read.
    read: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)

    async def play(self) -> None:
        while True:
            # Objects go while they are looked at; the next look is soon.
            with suppress(NotFound, Conflict):
                if self.operator:
                    await self._render()
                await self._start_pods()
            await asyncio.sleep(0.1)

    async def _render(self) -> None:
        policy = await self.api.get(POLICIES, "cluster-policy", into=Object)
        config = policy["spec"]["devicePlugin"].get("config") or {}
        for name in (PLUGIN, DISCOVERY):
            desired = daemon_set(name, config.get("name"), config.get("default", ""))
            await self.api.apply(DAEMON_SETS, name, desired, namespace=NAMESPACE, into=Object)

    async def _start_pods(self) -> None:
        for pod in await self.api.list(PODS, namespace=NAMESPACE, into=Object):
            node, name = pod["spec"].get("nodeName"), pod["metadata"]["name"]
            if node not in self.gpus or "deletionTimestamp" in pod["metadata"]:
                continue
            plugin = name.startswith(PLUGIN)
            if plugin and self.read.get(node, ("",))[0] != pod["metadata"]["uid"]:
                self.read[node] = (pod["metadata"]["uid"], await self._config_of(pod))
            if plugin:
                await self._advertise(node, pod, self.read[node][1])
            if pod.get("status", {}).get("phase") != "Running":
                await self._run(name)

    async def _run(self, pod: str) -> None:
        now = format_time(datetime.now(UTC))
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        status = {"status": {"phase": "Running", "conditions": [ready]}}
        await self.api.patch(
            PODS, pod, status, namespace=NAMESPACE, subresource="status", into=Object
        )

    async def _config_of(self, pod: Object) -> dict[str, str]:
        names = [
            volume["configMap"]["name"]
            for volume in pod["spec"]["volumes"]
            if "configMap" in volume
        ]
        own = [name for name in names if name != "kube-root-ca.crt"]
        if not own:
            return {}
        found = await self.api.get(CONFIG_MAPS, own[0], namespace=NAMESPACE, into=Object)
        return dict(found.get("data") or {})

    async def _advertise(self, name: str, pod: Object, configs: dict[str, str]) -> None:
        node = await self.api.get(NODES, name, into=Object)
        env = {
            variable["name"]: variable.get("value", "")
            for box in pod["spec"]["containers"]
            for variable in box.get("env", ())
        }
        key = node["metadata"]["labels"].get("nvidia.com/device-plugin.config") or env.get(
            "DEFAULT_CONFIG"
        )
        if "DEFAULT_CONFIG" not in env:
            key = env.get("CONFIG_FILE", "").rpartition("/")[2]
        slicing = (yaml.safe_load(configs.get(key or "", "{}")).get("sharing") or {}).get(
            "timeSlicing"
        ) or {}
        replicas = slicing["resources"][0]["replicas"] if slicing else 1
        resource = f"{GPU}.shared" if slicing.get("renameByDefault") else GPU
        room = {GPU: "0", f"{GPU}.shared": "0", resource: str(self.gpus[name] * replicas)}
        capacity = node["status"]["capacity"]
        if any(capacity.get(each, "0") != count for each, count in room.items()):
            body = {"status": {"capacity": room, "allocatable": room}}
            await self.api.patch(NODES, name, body, subresource="status", into=Object)
        if self.discovery:
            labels = {
                "gpu.replicas": str(replicas),
                "gpu.sharing-strategy": "time-slicing" if slicing else "none",
            }
            desired = {f"nvidia.com/{label}": value for label, value in labels.items()}
            if any(
                node["metadata"]["labels"].get(label) != value for label, value in desired.items()
            ):
                await self.api.patch(NODES, name, {"metadata": {"labels": desired}}, into=Object)


def daemon_set(name: str, config_map: str | None, default: str) -> Object:
    """As the GPU Operator, and in its outlines the chart nvidia-device-plugin, have it."""
    main: Object = {
        "name": name.removesuffix("-daemonset"),
        "image": "nvcr.io/nvidia/k8s-device-plugin:v0.17.1",
    }
    boxes, volumes = [main], []
    if name == PLUGIN:
        main["volumeMounts"] = [
            {"name": "device-plugin", "mountPath": "/var/lib/kubelet/device-plugins"}
        ]
        volumes.append(
            {"name": "device-plugin", "hostPath": {"path": "/var/lib/kubelet/device-plugins"}}
        )
    if config_map:
        main["env"] = [{"name": "CONFIG_FILE", "value": "/config/config.yaml"}]
        environment = {
            "NODE_LABEL": "nvidia.com/device-plugin.config",
            "CONFIG_FILE_SRCDIR": "/available-configs",
            "DEFAULT_CONFIG": default,
            "FALLBACK_STRATEGIES": "empty",
        }
        manager: Object = {
            "name": "config-manager",
            "image": main["image"],
            "command": ["config-manager"],
        }
        manager["env"] = [{"name": key, "value": value} for key, value in environment.items()]
        manager["volumeMounts"] = [{"name": "available-configs", "mountPath": "/available-configs"}]
        boxes.append(manager)
        volumes.append({"name": "available-configs", "configMap": {"name": config_map}})
    spec = {
        "nodeSelector": {"nvidia.com/gpu.present": "true"},
        "automountServiceAccountToken": False,
        "containers": boxes,
        "volumes": volumes,
    }
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


@contextmanager
def played(
    kubeconfig: Path, gpus: dict[str, int], *, operator: bool = True, discovery: bool = True
) -> Iterator[Player]:
    """NVIDIA's components, in a thread of their own, while the context lasts."""
    players: list[Player] = []

    async def live(ready: threading.Event) -> None:
        async with Client(load_config(kubeconfig), field_manager="gpu-operator") as api:
            players.append(Player(api, gpus, operator, discovery))
            ready.set()
            await players[0].play()

    with in_background("NVIDIA's components", live):
        yield players[0]
