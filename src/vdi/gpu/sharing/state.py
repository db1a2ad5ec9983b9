"""The cluster's GPUs as frozen values made from the objects of a snapshot, and the configuration
that each node gets. Pure.

`vdi.gpu.cluster` collects the objects; the doctor has them in its snapshot. There are two kinds of
installation: NVIDIA's GPU Operator, whose ClusterPolicy rules the DaemonSets, and the device plugin
alone (its Helm chart or a manifest).
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from vdi.gpu.sharing.config import (
    NOT_SHARED,
    RENAMED,
    RESOURCE,
    BadConfigError,
    Sharing,
    read_config,
)
from vdi.kube.resource import CONFIG_MAPS, Resource
from vdi.snapshot.objects import Objects, convert_object, storage
from vdi.snapshot.objects.config import ConfigMap
from vdi.snapshot.objects.gpu import ClusterPolicy, Toolkit
from vdi.snapshot.objects.meta import Meta
from vdi.snapshot.objects.workloads import Container, Pod, WorkloadObject

Raw = Mapping[str, Any]

PRODUCT_LABEL = "nvidia.com/gpu.product"
CONFIG_LABEL = "nvidia.com/device-plugin.config"
# Namespace of the GPU Operator, unless its ClusterPolicy names another one.
OPERATOR_NAMESPACE = "gpu-operator"
# Name of the ConfigMap where nothing names another one.
DEFAULT_NAME = "time-slicing-config"
# Annotation of ConfigMap and nodes: the settings before `vdi gpu configure`, for its undo.
BEFORE_ANNOTATION = "vdi.kasm.io/gpu-before"
# Volume that `vdi gpu configure` adds to a device plugin without a configuration.
OUR_VOLUME = "vdi-gpu-config"
_PLUGIN_FOLDER = "/var/lib/kubelet/device-plugins"
# NVIDIA's support matrix of the Video Codec SDK: GPUs for computing that decode video and have no
# NVENC.
_WITHOUT_ENCODER = re.compile(r"(?<![A-Za-z0-9])(A100X?|A30X?|H100|H200|GH200)(?![A-Za-z0-9])")


def lacks_encoder(product: str) -> bool:
    """Whether this GPU has no NVENC. An unknown product counts as one that has it."""
    return _WITHOUT_ENCODER.search(product) is not None


def read_record(meta: Meta) -> dict[str, Any] | None:
    """The settings that `vdi gpu configure` noted on this object; None without a readable note."""
    try:
        record = json.loads(meta.annotations.get(BEFORE_ANNOTATION, "null"))
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node, and the number of GPUs that the pods on it request."""

    node: storage.Node
    in_use: int = 0

    @property
    def name(self) -> str:
        return self.node.metadata.name

    def label(self, name: str) -> str:
        """A label's value; empty without it."""
        return self.node.metadata.labels.get(name, "")

    def capacity(self, resource: str) -> int:
        return _whole(self.node.status.capacity, resource)

    def allocatable(self, resource: str) -> int:
        """The healthy ones of its capacity."""
        return _whole(self.node.status.allocatable, resource)

    @property
    def mig_resources(self) -> list[str]:
        """The MIG devices that it advertises one by one (strategy mixed)."""
        names = self.node.status.capacity
        devices = (name for name in names if name.startswith("nvidia.com/mig-"))
        return sorted(name for name in devices if self.capacity(name))

    @property
    def mig(self) -> str:
        """The MIG strategy of its GPUs: none, single or mixed."""
        if self.mig_resources:
            return "mixed"
        configured = self.label("nvidia.com/mig.config") not in ("", "all-disabled")
        if configured or "-MIG-" in self.label(PRODUCT_LABEL):
            return self.label("nvidia.com/mig.strategy") or "single"
        return "none"

    @property
    def sharing_label(self) -> str:
        """The method of sharing according to GPU Feature Discovery: none, time-slicing, mps."""
        return self.label("nvidia.com/gpu.sharing-strategy")

    @property
    def mps(self) -> bool:
        return self.sharing_label == "mps" or self.label("nvidia.com/mps.capable") == "true"

    @property
    def has_gpu(self) -> bool:
        """Whether Kubernetes knows, or has known, a GPU of this node."""
        return bool(
            self.label("nvidia.com/gpu.present") == "true"
            or self.label("nvidia.com/gpu.count") not in ("", "0")
            or self.mig_resources
            or self.capacity(RESOURCE)
            or self.capacity(RENAMED)
        )

    @property
    def gpus(self) -> int | None:
        """Number of GPUs before sharing: by GPU Feature Discovery, else as `vdi gpu configure`
        noted; None: unknown.
        """
        label = self.label("nvidia.com/gpu.count")
        if label.isdigit():
            return int(label)
        record = read_record(self.node.metadata) or {}
        noted = record.get("gpus")
        return noted if isinstance(noted, int) else None

    @property
    def on_k3s(self) -> bool:
        return "+k3s" in self.node.status.node_info.kubelet_version


def _whole(amounts: Mapping[str, str], resource: str) -> int:
    text = amounts.get(resource, "0")
    return int(text) if text.isdigit() else 0


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """A DaemonSet of NVIDIA's with its pods that are not being deleted: the device plugin's, GPU
    Feature Discovery beside it, or the DCGM exporter's.
    """

    workload: WorkloadObject
    pods: tuple[Pod, ...] = ()

    @property
    def name(self) -> str:
        return self.workload.metadata.name

    @property
    def namespace(self) -> str:
        return self.workload.metadata.namespace

    @property
    def containers(self) -> tuple[Container, ...]:
        return self.workload.spec.template.spec.containers

    @property
    def is_plugin(self) -> bool:
        """Whether this is NVIDIA's device plugin, by its volume and by its image or its container's
        name.
        """
        sources = (volume.host_path for volume in self.workload.spec.template.spec.volumes)
        folders = [source.path.rstrip("/") for source in sources if source]
        return _PLUGIN_FOLDER in folders and self.main is not None

    @property
    def main(self) -> Container | None:
        """The device plugin's own container."""
        for container in self.containers:
            image = PurePosixPath(container.image).name
            named = container.name in ("nvidia-device-plugin", "nvidia-device-plugin-ctr")
            if named or (image.startswith("k8s-device-plugin") and not _is_manager(container)):
                return container
        return None

    @property
    def manager(self) -> Container | None:
        """The container that picks each node's configuration by its label; None: all nodes have the
        same.
        """
        return next(filter(_is_manager, self.containers), None)

    @property
    def exporter(self) -> Container | None:
        """The DCGM exporter: the GPU Operator's, or that of NVIDIA's chart."""
        for container in self.containers:
            image = container.image.rpartition("/")[2]
            if container.name.endswith("dcgm-exporter") or image.startswith("dcgm-exporter"):
                return container
        return None

    @property
    def config_map(self) -> str | None:
        """Name of the ConfigMap whose configurations it reads."""
        reader = self.manager or self.main
        if reader is None:
            return None
        file = PurePosixPath(env_of(reader, "CONFIG_FILE"))
        folder = env_of(reader, "CONFIG_FILE_SRCDIR") or str(file.parent)
        volumes = {volume.name: volume for volume in self.workload.spec.template.spec.volumes}
        for mount in reader.volume_mounts:
            volume = volumes.get(mount.name)
            is_folder = mount.mount_path.rstrip("/") == folder.rstrip("/")
            if is_folder and volume and volume.config_map and volume.config_map.name:
                return volume.config_map.name
        return None

    @property
    def has_our_volume(self) -> bool:
        """Whether `vdi gpu configure` gave it the volume with its configuration."""
        return any(volume.name == OUR_VOLUME for volume in self.workload.spec.template.spec.volumes)

    @property
    def on_delete(self) -> bool:
        """Whether a rollout leaves its pods as they are until someone deletes them."""
        return self.workload.spec.update_strategy.type == "OnDelete"


def _is_manager(container: Container) -> bool:
    return "config-manager" in (*container.command, container.name)


def env_of(owner: Container | Toolkit | None, name: str) -> str:
    """An environment variable; empty when it is not set to a value."""
    variables = owner.env if owner else ()
    return next((variable.value for variable in variables if variable.name == name), "")


@dataclass(frozen=True, slots=True)
class GpuState:
    """GPUs, device plugin and configuration of a cluster. `namespace`: that of ConfigMap and device
    plugin.
    """

    namespace: str
    nodes: tuple[GpuNode, ...] = ()
    plugins: tuple[DaemonSet, ...] = ()
    # Other DaemonSets that read the same ConfigMap: GPU Feature Discovery.
    readers: tuple[DaemonSet, ...] = ()
    policy: ClusterPolicy | None = None
    # The ConfigMap that is in effect and the one that `vdi gpu configure` writes, by name, where
    # they exist.
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    runtime_class: bool = False
    # DaemonSets of the DCGM exporter.
    exporters: tuple[DaemonSet, ...] = ()
    # Objects as the API server has them, by plural, namespace and name: what plans change. Empty in
    # the doctor, which plans nothing.
    originals: Mapping[tuple[str, str, str], Raw] = field(default_factory=dict)

    @property
    def gpu_nodes(self) -> tuple[GpuNode, ...]:
        return tuple(node for node in self.nodes if node.has_gpu)

    @property
    def config_name(self) -> str:
        """Name of the plugin's ConfigMap; empty without one."""
        if self.policy is not None:
            return self.policy.spec.device_plugin.config.name
        return next((plugin.config_map for plugin in self.plugins if plugin.config_map), "")

    @property
    def config_map(self) -> ConfigMap | None:
        """The plugin's ConfigMap, if it exists."""
        return self.config_maps.get(self.config_name)

    def original(self, resource: Resource, meta: Meta) -> Raw:
        return self.originals[resource.plural, meta.namespace, meta.name]

    @property
    def on_k3s(self) -> bool:
        return any(node.on_k3s for node in self.gpu_nodes)


def names(items: Iterable[str]) -> str:
    """For sentences: `a, b`, or `none`."""
    return ", ".join(items) or "none"


def read_config_map(raw: Raw) -> ConfigMap:
    """A ConfigMap with the whole texts: those of a snapshot may be given to other people."""
    config_map: ConfigMap = convert_object(CONFIG_MAPS.plural, raw)
    config_map.data = dict(raw.get("data") or {})
    return config_map


def active_policies(policies: Iterable[ClusterPolicy]) -> list[ClusterPolicy]:
    """ClusterPolicies that the GPU Operator obeys: it marks all but one as ignored in their
    status.
    """
    return [policy for policy in policies if policy.status.state != "ignored"]


def observe(objects: Objects) -> GpuState:
    """The state made of a snapshot's objects. Pods without an end count as users of GPUs.

    ClusterPolicies and DaemonSets alone give `namespace` and `config_name`, which say what else to
    read.
    """
    policy = next(iter(active_policies(objects.clusterpolicies)), None)
    used, pods = _use_of_pods(objects.pods)
    sets = [DaemonSet(each, tuple(pods[each.metadata.uid])) for each in objects.daemonsets]
    plugins = [daemon_set for daemon_set in sets if daemon_set.is_plugin]
    namespace = plugins[0].namespace if plugins else OPERATOR_NAMESPACE
    if policy is not None:
        namespace = policy.status.namespace or namespace
        plugins = [plugin for plugin in plugins if plugin.namespace == namespace]
    config_maps = [each for each in objects.configmaps if each.metadata.namespace == namespace]
    state = GpuState(
        namespace,
        nodes=tuple(GpuNode(node, used[node.metadata.name]) for node in objects.nodes),
        plugins=tuple(plugins),
        policy=policy,
        config_maps={config_map.metadata.name: config_map for config_map in config_maps},
        runtime_class=any(each.metadata.name == "nvidia" for each in objects.runtimeclasses),
        exporters=tuple(daemon_set for daemon_set in sets if daemon_set.exporter),
    )
    readers = []
    for daemon_set in sets:
        is_here = daemon_set.namespace == namespace and not daemon_set.is_plugin
        if is_here and daemon_set.config_map == state.config_name:
            readers.append(daemon_set)
    return replace(state, readers=tuple(readers))


def _use_of_pods(pods: Iterable[Pod]) -> tuple[Counter[str], Mapping[str, list[Pod]]]:
    """GPUs that pods request, by node; and pods that are not being deleted, by their owner's
    uid.
    """
    used: Counter[str] = Counter()
    by_owner: dict[str, list[Pod]] = defaultdict(list)
    for pod in pods:
        if pod.status.phase in ("Succeeded", "Failed"):
            continue
        if pod.spec.node_name:
            used[pod.spec.node_name] += _gpus_of(pod)
        if not pod.terminating:
            for owner in pod.metadata.owner_references:
                by_owner[owner.uid].append(pod)
    return used, by_owner


def _gpus_of(pod: Pod) -> int:
    gpus = 0
    for container in pod.spec.containers:
        limits = container.resources.limits
        gpus += _whole(limits, RESOURCE) + _whole(limits, RENAMED)
    return gpus


@dataclass(frozen=True, slots=True)
class ConfigPicker:
    """The rules by which the device plugin's config-manager picks a configuration for a node."""

    default: str = ""
    by_label: bool = True
    fallbacks: tuple[str, ...] = ("empty",)

    def pick(self, label: str, keys: Mapping[str, str]) -> str | None:
        """The key for a node with this label; empty: no configuration, None: the plugin's pod fails
        to start.
        """
        if label and self.by_label:
            return label if label in keys else None
        if self.default:
            return self.default if self.default in keys else None
        for fallback in self.fallbacks:
            if fallback == "named" and "default" in keys:
                return "default"
            if fallback == "single" and len(keys) == 1:
                return next(iter(keys))
            if fallback == "empty":
                return ""
        return None


def picker_of(state: GpuState) -> ConfigPicker:
    """The rules on this cluster. Under the GPU Operator the fallback is no configuration at all."""
    if state.policy is not None:
        return ConfigPicker(default=state.policy.spec.device_plugin.config.default)
    return picker_of_plugin(next((plugin for plugin in state.plugins if plugin.config_map), None))


def picker_of_plugin(plugin: DaemonSet | None) -> ConfigPicker:
    """The rules of a DaemonSet of the plugin's Helm chart, or of a manifest."""
    if plugin is None:
        return ConfigPicker()
    if plugin.manager is None:
        return ConfigPicker(
            default=PurePosixPath(env_of(plugin.main, "CONFIG_FILE")).name, by_label=False
        )
    fallbacks = tuple(filter(None, env_of(plugin.manager, "FALLBACK_STRATEGIES").split(",")))
    return ConfigPicker(default=env_of(plugin.manager, "DEFAULT_CONFIG"), fallbacks=fallbacks)


@dataclass(frozen=True, slots=True)
class Effect:
    """The configuration of a node, by name, and its effect. `sharing` None: unknown, because of the
    problem.
    """

    config: str = ""
    sharing: Sharing | None = NOT_SHARED
    problem: str = ""
    allowed: str = ""


def effect_on(node: GpuNode, state: GpuState) -> Effect:
    """The effect of the plugin's configuration on this node."""
    name, config_map = state.config_name, state.config_map
    if not name:
        return Effect()
    if config_map is None:
        return Effect(sharing=None, problem=f"ConfigMap {state.namespace}/{name} is missing")
    picker, label = picker_of(state), node.label(CONFIG_LABEL)
    key = picker.pick(label, config_map.data)
    if key is None:
        chosen = f"the default {picker.default!r}"
        if label and picker.by_label:
            chosen = f"label {CONFIG_LABEL}={label}"
        problem = f"{chosen} is not a key of ConfigMap {state.namespace}/{name}"
        allowed = names(sorted(config_map.data))
        return Effect(config=label, sharing=None, problem=problem, allowed=allowed)
    if not key:
        return Effect()
    try:
        return Effect(config=key, sharing=read_config(config_map.data[key]))
    except BadConfigError as error:
        problem = f"key {key} of ConfigMap {state.namespace}/{name}: {error}"
        return Effect(config=key, sharing=None, problem=problem)
