"""The cluster's GPUs as frozen values made from the API's objects, and the configuration that each node gets. Pure.

`vdi.gpu.cluster` collects the objects; the doctor makes the same state from its snapshot.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from vdi.gpu.sharing.config import NOT_SHARED, RENAMED, RESOURCE, BadConfigError, Sharing, read_config

PRODUCT_LABEL = "nvidia.com/gpu.product"
# NVIDIA's support matrix of the Video Codec SDK: GPUs for computing that decode video and have no NVENC.
_WITHOUT_ENCODER = re.compile(r"(?<![A-Za-z0-9])(A100X?|A30X?|H100|H200|GH200)(?![A-Za-z0-9])")


def lacks_encoder(product: str) -> bool:
    """Whether this GPU has no NVENC; a product that is not known counts as one that has it."""

    return _WITHOUT_ENCODER.search(product) is not None


Raw = Mapping[str, Any]

# Where the GPU Operator is installed, unless its ClusterPolicy says otherwise.
OPERATOR_NAMESPACE = "gpu-operator"
CONFIG_LABEL = "nvidia.com/device-plugin.config"
# Annotation of ConfigMap and nodes: what was there before `vdi gpu configure`, for its undo.
BEFORE_ANNOTATION = "vdi.kasm.io/gpu-before"
# The volume that a DaemonSet without a configuration gets from us.
OUR_VOLUME = "vdi-gpu-config"
_PLUGIN_FOLDER = "/var/lib/kubelet/device-plugins"


def read_record(raw: Raw) -> dict[str, Any] | None:
    """What `vdi gpu configure` noted on this object; None when it did not, or when the note cannot be read."""
    text = (raw["metadata"].get("annotations") or {}).get(BEFORE_ANNOTATION)
    try:
        record = json.loads(text) if text else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


@dataclass(frozen=True, slots=True)
class Node:
    """A node, and how many GPUs are asked for by the pods on it."""

    raw: Raw
    in_use: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    def label(self, name: str) -> str:
        """A label's value; empty without it."""
        return str((self.raw["metadata"].get("labels") or {}).get(name, ""))

    def count(self, resource: str, where: str = "allocatable") -> int:
        """How many of a resource the node has: `allocatable` are the healthy ones of the `capacity`."""
        text = (self.raw.get("status", {}).get(where) or {}).get(resource, "0")
        return int(text) if str(text).isdigit() else 0

    @property
    def mig_resources(self) -> tuple[str, ...]:
        """The MIG devices that it advertises one by one (strategy mixed)."""
        there = self.raw.get("status", {}).get("capacity") or {}
        return tuple(
            sorted(each for each in there if each.startswith("nvidia.com/mig-") and self.count(each, "capacity"))
        )

    @property
    def mig(self) -> str:
        """How its GPUs are cut by MIG: none, single or mixed."""
        if self.mig_resources:
            return "mixed"
        cut = "-MIG-" in self.label("nvidia.com/gpu.product") or self.label("nvidia.com/mig.config") not in (
            "",
            "all-disabled",
        )
        return (self.label("nvidia.com/mig.strategy") or "single") if cut else "none"

    @property
    def sharing_label(self) -> str:
        """How GPU Feature Discovery says that its GPUs are shared: none, time-slicing, mps."""
        return self.label("nvidia.com/gpu.sharing-strategy")

    @property
    def mps(self) -> bool:
        """Whether its GPUs are shared by MPS."""
        return self.sharing_label == "mps" or self.label("nvidia.com/mps.capable") == "true"

    @property
    def has_gpu(self) -> bool:
        """Whether it has, or has had, a GPU that Kubernetes knows of."""
        known = self.label("nvidia.com/gpu.present") == "true" or self.label("nvidia.com/gpu.count") not in ("", "0")
        return known or bool(self.mig_resources) or any(self.count(each, "capacity") for each in (RESOURCE, RENAMED))

    @property
    def gpus(self) -> int | None:
        """How many there are before sharing: counted by GPU Feature Discovery, else noted by us; None is unknown."""
        label = self.label("nvidia.com/gpu.count")
        if label.isdigit():
            return int(label)
        noted = (read_record(self.raw) or {}).get("gpus")
        return noted if isinstance(noted, int) else None

    @property
    def on_k3s(self) -> bool:
        """Whether K3s runs it, which says so in its version."""
        return "+k3s" in str(self.raw.get("status", {}).get("nodeInfo", {}).get("kubeletVersion", ""))


def _helm_release(raw: Raw) -> str:
    return str((raw["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name", ""))


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """A ConfigMap with named configurations."""

    raw: Raw

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def data(self) -> dict[str, str]:
        """The configurations by name."""
        return dict(self.raw.get("data") or {})

    @property
    def of_helm(self) -> str:
        """The Helm release that it belongs to; empty when it belongs to none."""
        return _helm_release(self.raw)

    @property
    def changed_at(self) -> str:
        """When its data was written last, as far as the API server remembers (RFC 3339, whole seconds)."""
        meta = self.raw["metadata"]
        writes = [
            managed_field
            for managed_field in meta.get("managedFields") or ()
            if "f:data" in managed_field.get("fieldsV1", {})
        ]
        return max(
            [str(write["time"]) for write in writes if "time" in write], default=meta.get("creationTimestamp", "")
        )


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """A DaemonSet that reads the configuration: the device plugin's, or GPU Feature Discovery beside it."""

    raw: Raw
    pods: tuple[Raw, ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Its namespace."""
        return str(self.raw["metadata"]["namespace"])

    @property
    def pod_spec(self) -> Raw:
        """The template's spec."""
        spec: Raw = self.raw["spec"]["template"]["spec"]
        return spec

    @property
    def is_plugin(self) -> bool:
        """Whether this is NVIDIA's device plugin, by what it mounts and by its image or its container's name."""
        paths = [(volume.get("hostPath") or {}).get("path", "") for volume in self.pod_spec.get("volumes") or ()]
        return any(path.rstrip("/") == _PLUGIN_FOLDER for path in paths) and self.main is not None

    @property
    def main(self) -> Raw | None:
        """The device plugin's own container."""
        for container in self.pod_spec.get("containers") or ():
            image = PurePosixPath(str(container.get("image", ""))).name
            named = container["name"] in ("nvidia-device-plugin", "nvidia-device-plugin-ctr")
            if named or (image.startswith("k8s-device-plugin") and not _manages(container)):
                main: Raw = container
                return main
        return None

    @property
    def manager(self) -> Raw | None:
        """The container that picks each node's configuration by its label; None where all nodes have the same."""
        return next((container for container in self.pod_spec.get("containers") or () if _manages(container)), None)

    @property
    def config_map(self) -> str | None:
        """The ConfigMap whose configurations it reads."""
        reader = self.manager or self.main
        volumes = {volume["name"]: volume for volume in self.pod_spec.get("volumes") or ()}
        for mount in (reader or {}).get("volumeMounts") or ():
            name = (volumes.get(mount["name"], {}).get("configMap") or {}).get("name")
            folder = env_of(reader, "CONFIG_FILE_SRCDIR") or str(PurePosixPath(env_of(reader, "CONFIG_FILE")).parent)
            if name and mount["mountPath"].rstrip("/") == folder.rstrip("/"):
                return str(name)
        return None

    @property
    def on_delete(self) -> bool:
        """Whether its pods stay as they are until somebody deletes them."""
        return bool((self.raw["spec"].get("updateStrategy") or {}).get("type") == "OnDelete")

    @property
    def of_helm(self) -> str:
        """The Helm release that it belongs to; empty when it belongs to none."""
        return _helm_release(self.raw)


def _manages(container: Raw) -> bool:
    return "config-manager" in (container.get("command") or ()) or container["name"] == "config-manager"


def env_of(container: Raw | None, name: str) -> str:
    """A container's environment variable; empty when it is not set to a value."""
    for variable in (container or {}).get("env") or ():
        if variable["name"] == name:
            return str(variable.get("value") or "")
    return ""


def has_our_volume(plugin: DaemonSet) -> bool:
    """Whether the DaemonSet reads its configuration through the volume that we gave it."""
    return any(volume["name"] == OUR_VOLUME for volume in plugin.pod_spec.get("volumes") or ())


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """The ClusterPolicy of the GPU Operator."""

    raw: Raw

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.raw["metadata"]["name"])

    def section(self, name: str) -> Raw:
        """A part of the spec; empty when it is not there."""
        part: Raw = self.raw.get("spec", {}).get(name) or {}
        return part

    @property
    def config(self) -> Raw:
        """`spec.devicePlugin.config`: name and default."""
        config: Raw = self.section("devicePlugin").get("config") or {}
        return config


@dataclass(frozen=True, slots=True)
class GpuState:
    """All that is looked at. `namespace` is where ConfigMap and device plugin live."""

    namespace: str
    nodes: tuple[Node, ...] = ()
    plugins: tuple[DaemonSet, ...] = ()
    # Other DaemonSets that read the same ConfigMap.
    readers: tuple[DaemonSet, ...] = ()
    policy: ClusterPolicy | None = None
    # The ConfigMap that is in effect and the one that we write, by name, where they exist.
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    runtime_class: bool = False

    @property
    def gpu_nodes(self) -> tuple[Node, ...]:
        """The nodes with GPUs."""
        return tuple(node for node in self.nodes if node.has_gpu)

    @property
    def config_name(self) -> str:
        """The name of the plugin's ConfigMap; empty without one."""
        if self.policy is not None:
            return str(self.policy.config.get("name") or "")
        return next((plugin.config_map for plugin in self.plugins if plugin.config_map), "")

    @property
    def config_map(self) -> ConfigMap | None:
        """The plugin's ConfigMap, if it is there."""
        return self.config_maps.get(self.config_name)

    @property
    def on_k3s(self) -> bool:
        """Whether a node with GPUs is one of K3s."""
        return any(node.on_k3s for node in self.gpu_nodes)


def names(items: Iterable[str]) -> str:
    """For sentences: `a, b`, or `none`."""
    return ", ".join(items) or "none"


def active_policies(policies: Iterable[Raw]) -> list[ClusterPolicy]:
    """The ClusterPolicies that the GPU Operator obeys: it ignores all but one, and says so in their status."""
    return [ClusterPolicy(policy) for policy in policies if policy.get("status", {}).get("state") != "ignored"]


def locate(policy: ClusterPolicy | None, daemon_sets: Iterable[Raw], pods: Sequence[Raw] = ()) -> GpuState:
    """Where ConfigMap and device plugin live, and the plugin's DaemonSets; the ClusterPolicy's status says where."""
    plugins = [DaemonSet(daemon_set, pods_of(daemon_set, pods)) for daemon_set in daemon_sets]
    plugins = [plugin for plugin in plugins if plugin.is_plugin]
    configured = str((policy.raw.get("status") or {}).get("namespace") or "") if policy else ""
    namespace = configured or (plugins[0].namespace if plugins else OPERATOR_NAMESPACE)
    mine = [plugin for plugin in plugins if policy is None or plugin.namespace == namespace]
    return GpuState(namespace, plugins=tuple(mine), policy=policy)


def observe(
    bare: GpuState,
    *,
    nodes: Iterable[Raw],
    used: Counter[str],
    daemon_sets: Iterable[Raw],
    pods: Sequence[Raw],
    config_maps: Iterable[Raw],
    runtime_class: bool,
) -> GpuState:
    """What `locate` has found, with all that is judged. `used`: GPUs asked for, by node; `pods`: the plugins' own."""
    readers = [DaemonSet(daemon_set, pods_of(daemon_set, pods)) for daemon_set in daemon_sets]
    return GpuState(
        bare.namespace,
        nodes=tuple(Node(node, used[str(node["metadata"]["name"])]) for node in nodes),
        plugins=bare.plugins,
        readers=tuple(reader for reader in readers if _reads(reader, bare)),
        policy=bare.policy,
        config_maps={each.name: each for each in map(ConfigMap, config_maps)},
        runtime_class=runtime_class,
    )


def in_use(pods: Iterable[Raw]) -> Counter[str]:
    """GPUs that pods ask for, by node."""
    used: Counter[str] = Counter()
    for pod in pods:
        if node := pod["spec"].get("nodeName"):
            used[node] += sum(_asked(container) for container in pod["spec"]["containers"])
    return used


def _reads(daemon_set: DaemonSet, bare: GpuState) -> bool:
    """Whether it reads the plugin's configuration without being the plugin: GPU Feature Discovery."""
    if daemon_set.is_plugin or daemon_set.namespace != bare.namespace:
        return False
    return bool(bare.config_name) and daemon_set.config_map == bare.config_name


def pods_of(daemon_set: Raw, pods: Iterable[Raw]) -> tuple[Raw, ...]:
    """Those of the pods that are the DaemonSet's own, and that are not being deleted."""
    uid = daemon_set["metadata"].get("uid")
    return tuple(
        pod
        for pod in pods
        if any(owner_reference.get("uid") == uid for owner_reference in pod["metadata"].get("ownerReferences") or ())
        and "deletionTimestamp" not in pod["metadata"]
    )


def _asked(container: Raw) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(int(limits[each]) for each in (RESOURCE, RENAMED) if str(limits.get(each, "")).isdigit())


# What the ConfigMap is called where nothing has chosen another name.
DEFAULT_NAME = "time-slicing-config"


@dataclass(frozen=True, slots=True)
class ConfigPicker:
    """How the device plugin picks a configuration for a node that has no label."""

    default: str = ""
    by_label: bool = True
    fallbacks: tuple[str, ...] = ("empty",)

    def pick(self, label: str, keys: Mapping[str, str]) -> str | None:
        """The key for a node with this label; empty: no configuration, None: the plugin's pod fails to start."""
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
    """How it is done on this cluster. The GPU Operator's fallback is no configuration at all."""
    if state.policy is not None:
        return ConfigPicker(default=str(state.policy.config.get("default") or ""))
    return picker_of_plugin(next((plugin for plugin in state.plugins if plugin.config_map), None))


def picker_of_plugin(plugin: DaemonSet | None) -> ConfigPicker:
    """How a DaemonSet of the plugin's Helm chart, or of anybody's manifest, does it."""
    if plugin is None:
        return ConfigPicker()
    if plugin.manager is None:
        return ConfigPicker(default=PurePosixPath(env_of(plugin.main, "CONFIG_FILE")).name, by_label=False)
    fallbacks = tuple(filter(None, env_of(plugin.manager, "FALLBACK_STRATEGIES").split(",")))
    return ConfigPicker(default=env_of(plugin.manager, "DEFAULT_CONFIG"), fallbacks=fallbacks)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a node gets: the name of its configuration and what that does, or the problem with it."""

    config: str = ""
    # None when it is not known, because of the problem.
    sharing: Sharing | None = NOT_SHARED
    problem: str = ""
    allowed: str = ""


def effect_on(node: Node, state: GpuState) -> Effect:
    """What the plugin is configured to do on this node."""
    name, found = state.config_name, state.config_map
    if not name:
        return Effect()
    if found is None:
        return Effect(sharing=None, problem=f"ConfigMap {state.namespace}/{name} is missing")
    picker, label = picker_of(state), node.label(CONFIG_LABEL)
    key = picker.pick(label, found.data)
    if key is None:
        desired = f"label {CONFIG_LABEL}={label}" if label and picker.by_label else f"the default {picker.default!r}"
        problem = f"{desired} is not a key of ConfigMap {state.namespace}/{name}"
        return Effect(config=label, sharing=None, problem=problem, allowed=names(sorted(found.data)))
    if not key:
        return Effect()
    try:
        return Effect(config=key, sharing=read_config(found.data[key]))
    except BadConfigError as error:
        problem = f"key {key} of ConfigMap {state.namespace}/{name}: {error}"
        return Effect(config=key, sharing=None, problem=problem)
