"""The cluster's GPUs as frozen values made from the API's objects, and the configuration that each
node gets. Pure.

`vdi.gpu.cluster` collects the objects; the doctor makes the same state from its snapshot. There are
two kinds of installation: NVIDIA's GPU Operator, whose ClusterPolicy rules the DaemonSets, and the
device plugin alone (its Helm chart or a manifest).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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


def read_record(raw: Raw) -> dict[str, Any] | None:
    """The settings that `vdi gpu configure` noted on this object; None without a readable note."""
    text = (raw["metadata"].get("annotations") or {}).get(BEFORE_ANNOTATION)
    try:
        record = json.loads(text) if text else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True, slots=True)
class _Object:
    raw: Raw

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"]["namespace"])

    @property
    def helm_release(self) -> str:
        """The Helm release that it belongs to; empty: none."""
        return str(
            (self.raw["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name", "")
        )


@dataclass(frozen=True, slots=True)
class Node(_Object):
    """A node, and the number of GPUs that the pods on it request."""

    in_use: int = 0

    def label(self, name: str) -> str:
        """A label's value; empty without it."""
        return str((self.raw["metadata"].get("labels") or {}).get(name, ""))

    def count(self, resource: str, where: str = "allocatable") -> int:
        """The node's amount of a resource: `allocatable` are the healthy ones of the `capacity`."""
        text = (self.raw.get("status", {}).get(where) or {}).get(resource, "0")
        return int(text) if str(text).isdigit() else 0

    @property
    def mig_resources(self) -> tuple[str, ...]:
        """The MIG devices that it advertises one by one (strategy mixed)."""
        there = self.raw.get("status", {}).get("capacity") or {}
        return tuple(
            sorted(
                one
                for one in there
                if one.startswith("nvidia.com/mig-") and self.count(one, "capacity")
            )
        )

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
        known = self.label("nvidia.com/gpu.present") == "true" or self.label(
            "nvidia.com/gpu.count"
        ) not in ("", "0")
        return (
            known
            or bool(self.mig_resources)
            or any(self.count(one, "capacity") for one in (RESOURCE, RENAMED))
        )

    @property
    def gpus(self) -> int | None:
        """Number of GPUs before sharing: by GPU Feature Discovery, else as `vdi gpu configure`
        noted; None: unknown.
        """
        label = self.label("nvidia.com/gpu.count")
        if label.isdigit():
            return int(label)
        noted = (read_record(self.raw) or {}).get("gpus")
        return noted if isinstance(noted, int) else None

    @property
    def on_k3s(self) -> bool:
        return "+k3s" in str(
            self.raw.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", "")
        )


@dataclass(frozen=True, slots=True)
class ConfigMap(_Object):
    """A ConfigMap with named configurations."""

    @property
    def data(self) -> dict[str, str]:
        return dict(self.raw.get("data") or {})

    @property
    def changed_at(self) -> str:
        """Time of the last write to its data, as managed fields have it (RFC 3339, whole
        seconds).
        """
        meta = self.raw["metadata"]
        writes = [
            write
            for write in meta.get("managedFields") or ()
            if "f:data" in write.get("fieldsV1", {})
        ]
        return max(
            [str(one["time"]) for one in writes if "time" in one],
            default=meta.get("creationTimestamp", ""),
        )


@dataclass(frozen=True, slots=True)
class DaemonSet(_Object):
    """A DaemonSet that reads the configuration: the device plugin's, or GPU Feature Discovery
    beside it.
    """

    pods: tuple[Raw, ...] = ()

    @property
    def pod_spec(self) -> Raw:
        spec: Raw = self.raw["spec"]["template"]["spec"]
        return spec

    @property
    def containers(self) -> list[Raw]:
        return list(self.pod_spec.get("containers") or ())

    @property
    def volumes(self) -> list[Raw]:
        return list(self.pod_spec.get("volumes") or ())

    @property
    def is_plugin(self) -> bool:
        """Whether this is NVIDIA's device plugin, by its volume and by its image or its container's
        name.
        """
        paths = [(volume.get("hostPath") or {}).get("path", "") for volume in self.volumes]
        return any(path.rstrip("/") == _PLUGIN_FOLDER for path in paths) and self.main is not None

    @property
    def main(self) -> Raw | None:
        """The device plugin's own container."""
        for container in self.containers:
            image = PurePosixPath(str(container.get("image", ""))).name
            named = container["name"] in ("nvidia-device-plugin", "nvidia-device-plugin-ctr")
            if named or (image.startswith("k8s-device-plugin") and not _is_manager(container)):
                return container
        return None

    @property
    def manager(self) -> Raw | None:
        """The container that picks each node's configuration by its label; None: all nodes have the
        same.
        """
        return next((container for container in self.containers if _is_manager(container)), None)

    @property
    def config_map(self) -> str | None:
        """Name of the ConfigMap whose configurations it reads."""
        reader = self.manager or self.main
        volumes = {volume["name"]: volume for volume in self.volumes}
        for mount in (reader or {}).get("volumeMounts") or ():
            name = (volumes.get(mount["name"], {}).get("configMap") or {}).get("name")
            folder = env_of(reader, "CONFIG_FILE_SRCDIR") or str(
                PurePosixPath(env_of(reader, "CONFIG_FILE")).parent
            )
            if name and mount["mountPath"].rstrip("/") == folder.rstrip("/"):
                return str(name)
        return None

    @property
    def has_our_volume(self) -> bool:
        """Whether `vdi gpu configure` gave it the volume with its configuration."""
        return any(volume["name"] == OUR_VOLUME for volume in self.volumes)

    @property
    def on_delete(self) -> bool:
        """Whether a rollout leaves its pods as they are until someone deletes them."""
        return bool((self.raw["spec"].get("updateStrategy") or {}).get("type") == "OnDelete")


def _is_manager(container: Raw) -> bool:
    return (
        "config-manager" in (container.get("command") or ())
        or container["name"] == "config-manager"
    )


def env_of(container: Raw | None, name: str) -> str:
    """A container's environment variable; empty when it is not set to a value."""
    for variable in (container or {}).get("env") or ():
        if variable["name"] == name:
            return str(variable.get("value") or "")
    return ""


@dataclass(frozen=True, slots=True)
class ClusterPolicy(_Object):
    """The ClusterPolicy of the GPU Operator."""

    def section(self, name: str) -> Raw:
        """A field of the spec; empty when it is not there."""
        part: Raw = self.raw.get("spec", {}).get(name) or {}
        return part

    @property
    def config(self) -> Raw:
        config: Raw = self.section("devicePlugin").get("config") or {}
        return config


@dataclass(frozen=True, slots=True)
class GpuState:
    """GPUs, device plugin and configuration of a cluster. `namespace`: that of ConfigMap and device
    plugin.
    """

    namespace: str
    nodes: tuple[Node, ...] = ()
    plugins: tuple[DaemonSet, ...] = ()
    # Other DaemonSets that read the same ConfigMap: GPU Feature Discovery.
    readers: tuple[DaemonSet, ...] = ()
    policy: ClusterPolicy | None = None
    # The ConfigMap that is in effect and the one that `vdi gpu configure` writes, by name, where
    # they exist.
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    runtime_class: bool = False

    @property
    def gpu_nodes(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.has_gpu)

    @property
    def config_name(self) -> str:
        """Name of the plugin's ConfigMap; empty without one."""
        if self.policy is not None:
            return str(self.policy.config.get("name") or "")
        return next((plugin.config_map for plugin in self.plugins if plugin.config_map), "")

    @property
    def config_map(self) -> ConfigMap | None:
        """The plugin's ConfigMap, if it exists."""
        return self.config_maps.get(self.config_name)

    @property
    def on_k3s(self) -> bool:
        return any(node.on_k3s for node in self.gpu_nodes)


def names(items: Iterable[str]) -> str:
    """For sentences: `a, b`, or `none`."""
    return ", ".join(items) or "none"


def active_policies(policies: Iterable[Raw]) -> list[ClusterPolicy]:
    """ClusterPolicies that the GPU Operator obeys: it marks all but one as ignored in their
    status.
    """
    return [
        ClusterPolicy(policy)
        for policy in policies
        if policy.get("status", {}).get("state") != "ignored"
    ]


def observe(
    policy: ClusterPolicy | None,
    daemon_sets: Iterable[Raw],
    *,
    nodes: Iterable[Raw] = (),
    used: Mapping[str, int] | None = None,
    pods: Sequence[Raw] = (),
    config_maps: Iterable[Raw] = (),
    runtime_class: bool = False,
) -> GpuState:
    """The state made of the API's objects. `used`: GPUs requested, by node; `pods`: those of the
    DaemonSets.

    Policy and DaemonSets alone give `namespace` and `config_name`, which say what else to read.
    """
    sets = [DaemonSet(daemon_set, pods_of(daemon_set, pods)) for daemon_set in daemon_sets]
    plugins = [one for one in sets if one.is_plugin]
    configured = str((policy.raw.get("status") or {}).get("namespace") or "") if policy else ""
    namespace = configured or (plugins[0].namespace if plugins else OPERATOR_NAMESPACE)
    mine = tuple(plugin for plugin in plugins if policy is None or plugin.namespace == namespace)
    found = GpuState(
        namespace,
        nodes=tuple(
            Node(node, (used or {}).get(str(node["metadata"]["name"]), 0)) for node in nodes
        ),
        plugins=mine,
        policy=policy,
        config_maps={one.name: one for one in map(ConfigMap, config_maps)},
        runtime_class=runtime_class,
    )
    name = found.config_name
    readers = [
        one
        for one in sets
        if not one.is_plugin and one.namespace == namespace and name == one.config_map
    ]
    return replace(found, readers=tuple(readers))


def in_use(pods: Iterable[Raw]) -> Counter[str]:
    """GPUs that pods request, by node."""
    used: Counter[str] = Counter()
    for pod in pods:
        for container in pod["spec"]["containers"] if pod["spec"].get("nodeName") else ():
            limits = (container.get("resources") or {}).get("limits") or {}
            counts = [str(limits.get(resource, "")) for resource in (RESOURCE, RENAMED)]
            used[pod["spec"]["nodeName"]] += sum(int(count) for count in counts if count.isdigit())
    return used


def pods_of(daemon_set: Raw, pods: Iterable[Raw]) -> tuple[Raw, ...]:
    """The DaemonSet's pods that are not being deleted."""
    uid = daemon_set["metadata"].get("uid")
    return tuple(
        pod
        for pod in pods
        if any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences") or ())
        and "deletionTimestamp" not in pod["metadata"]
    )


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
        return ConfigPicker(default=str(state.policy.config.get("default") or ""))
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


def effect_on(node: Node, state: GpuState) -> Effect:
    """The effect of the plugin's configuration on this node."""
    name, found = state.config_name, state.config_map
    if not name:
        return Effect()
    if found is None:
        return Effect(sharing=None, problem=f"ConfigMap {state.namespace}/{name} is missing")
    picker, label = picker_of(state), node.label(CONFIG_LABEL)
    key = picker.pick(label, found.data)
    if key is None:
        desired = (
            f"label {CONFIG_LABEL}={label}"
            if label and picker.by_label
            else f"the default {picker.default!r}"
        )
        problem = f"{desired} is not a key of ConfigMap {state.namespace}/{name}"
        return Effect(
            config=label, sharing=None, problem=problem, allowed=names(sorted(found.data))
        )
    if not key:
        return Effect()
    try:
        return Effect(config=key, sharing=read_config(found.data[key]))
    except BadConfigError as error:
        problem = f"key {key} of ConfigMap {state.namespace}/{name}: {error}"
        return Effect(config=key, sharing=None, problem=problem)
