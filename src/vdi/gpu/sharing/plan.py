"""Plans of `vdi gpu configure` and its undo: the changes between the state and the request, and notes for their reader.
Pure.

`make generate` writes the same objects as YAML, for people who apply files.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vdi.gpu.sharing.changes import CLUSTER_POLICIES, Change, change_between, to_yaml, with_field
from vdi.gpu.sharing.config import RENAMED, RESOURCE, Sharing, render_config
from vdi.gpu.sharing.findings import outdated_pods
from vdi.gpu.sharing.request import (
    RefusedError,
    SharingRequest,
    plain_plugin,
    problems_with,
    target_name,
    unknown_nodes,
)
from vdi.gpu.sharing.state import (
    BEFORE_ANNOTATION,
    CONFIG_LABEL,
    DEFAULT_NAME,
    OPERATOR_NAMESPACE,
    OUR_VOLUME,
    PRODUCT_LABEL,
    ConfigMap,
    DaemonSet,
    GpuState,
    Node,
    effect_on,
    lacks_encoder,
    names,
    picker_of_plugin,
    read_record,
)
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES

DEFAULT_KEY = "any"

_CONFIG_MAP = """\
# GPU time-slicing for NVIDIA's GPU Operator: 8 desktops per GPU. scripts/configure_gpu_slicing.sh applies it, patches
# the ClusterPolicy, restarts the device plugin and verifies the nodes. By hand:
#
#   kubectl apply -f manifests/gpu-time-slicing.yaml
#   kubectl patch clusterpolicy cluster-policy --type=merge --patch-file manifests/gpu-cluster-policy-patch.yaml
#   kubectl --namespace gpu-operator rollout restart daemonset nvidia-device-plugin-daemonset gpu-feature-discovery
#
# docs/gpu.md says what time-slicing is not (isolation).
"""

_POLICY_PATCH = """\
# A patch for the ClusterPolicy of NVIDIA's GPU Operator, see gpu-time-slicing.yaml. It is no object of its own: only
# the Operator's chart can make a ClusterPolicy, so `kubectl apply` refuses this file. Without `default` only nodes with
# the label nvidia.com/device-plugin.config=any take the configuration.
"""


def config_map(namespace: str, name: str, configs: Mapping[str, Sharing]) -> dict[str, Any]:
    """The ConfigMap with these named configurations."""
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: render_config(sharing) for key, sharing in configs.items()},
    }


def policy_config(name: str, default: str) -> dict[str, Any]:
    """`spec.devicePlugin.config` of the ClusterPolicy."""
    return {"name": name, "default": default}


def render_files() -> dict[str, str]:
    """The files' contents by name."""
    ours = config_map(OPERATOR_NAMESPACE, DEFAULT_NAME, {DEFAULT_KEY: Sharing()})
    patch = {"spec": {"devicePlugin": {"config": policy_config(DEFAULT_NAME, DEFAULT_KEY)}}}
    return {
        "gpu-time-slicing.yaml": f"{_CONFIG_MAP}{to_yaml(ours)}",
        "gpu-cluster-policy-patch.yaml": f"{_POLICY_PATCH}{to_yaml(patch)}",
    }


CONFIG_PATH = ("spec", "devicePlugin", "config")
NOTE_PATH = ("metadata", "annotations", BEFORE_ANNOTATION)


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """The changes in their order, then the DaemonSets to restart: empty when all is as requested."""

    changes: tuple[Change, ...] = ()
    restarts: tuple[DaemonSet, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.changes and not self.restarts


def default_key(state: GpuState, asked: str | None) -> str:
    """The name of the default configuration: as asked, else the one that is in effect, else `any`."""
    policy = state.policy
    if policy is None:
        own = picker_of_plugin(plain_plugin(state)).default
    else:  # of somebody else's ConfigMap the default says nothing about ours
        own = str(policy.config.get("default") or "") if policy.config.get("name") == DEFAULT_NAME else ""
    return asked or own or DEFAULT_KEY


def plan_configure(state: GpuState, request: SharingRequest) -> SharingPlan:
    """The changes for a request. Raises RefusedError with every reason against it."""
    unknown = list(unknown_nodes(state, request))
    if unknown:
        raise RefusedError(unknown, usage=True)
    problems = list(problems_with(state, request))
    if problems:
        raise RefusedError(problems)
    maps = _config_map_change(state, request)
    rollout = _policy_change(state, request) if state.policy is not None else _daemon_set_change(state, request)
    nodes = [change for node in state.nodes if (change := _node_change(node, state, request))]
    changes = tuple(change for change in (maps, *nodes, rollout) if change is not None)
    return SharingPlan(changes, restarts_for(state, data_changes=_changes_data(maps), rolls_anyway=rollout is not None))


def _config_map_change(state: GpuState, request: SharingRequest) -> Change | None:
    name = target_name(state)
    there = state.config_maps.get(name)
    texts = {key: render_config(sharing) for key, sharing in request.configs.items()}
    old = there.data if there else {}
    texts = {key: old[key] if old.get(key, "").strip() == text else text for key, text in texts.items()}
    desired = there.raw if there else config_map(state.namespace, name, {})
    record = (read_record(there.raw) if there else None) or {"made": there is None, "keys": {}}
    if state.policy is not None:
        record.setdefault("policy", dict(state.policy.config) or None)
    for key in texts:
        record["keys"].setdefault(key, old.get(key))
    after = with_field(desired, ("data",), {**old, **texts})
    return change_between(CONFIG_MAPS, there.raw if there else None, with_field(after, NOTE_PATH, note_of(record)))


def _changes_data(change: Change | None) -> bool:
    return change is not None and (change.before or {}).get("data") != (change.after or {}).get("data")


def note_of(record: dict[str, Any]) -> str:
    """A note as the annotation's value."""
    return json.dumps(record, sort_keys=True)


def _node_change(node: Node, state: GpuState, request: SharingRequest) -> Change | None:
    record = read_record(node.raw) or {}
    after: Any = node.raw
    desired = request.nodes.get(node.name)
    if desired is not None and desired != node.label(CONFIG_LABEL):
        record.setdefault("config", node.label(CONFIG_LABEL) or None)
        after = with_field(after, ("metadata", "labels", CONFIG_LABEL), desired)
    if node.has_gpu and node.gpus is None and (count := _counted(node, state)):
        record["gpus"] = count
    return change_between(NODES, node.raw, with_field(after, NOTE_PATH, note_of(record)) if record else after)


def _counted(node: Node, state: GpuState) -> int | None:
    """The GPUs of a node that nothing shares yet: what it advertises."""
    sharing = effect_on(node, state).sharing
    return node.count(RESOURCE, "capacity") if sharing is not None and sharing.replicas == 1 else None


def _policy_change(state: GpuState, request: SharingRequest) -> Change | None:
    policy = state.policy
    assert policy is not None  # noqa: S101 - the caller has looked
    desired = {**policy.config, **policy_config(target_name(state), request.default)}
    return change_between(CLUSTER_POLICIES, policy.raw, with_field(policy.raw, CONFIG_PATH, desired))


def _daemon_set_change(state: GpuState, request: SharingRequest) -> Change | None:
    """Give a device plugin that has no configuration ours; one that has one reads it as it is."""
    plugin = plain_plugin(state)
    if plugin is None or plugin.config_map is not None:
        return None
    folder = f"/{OUR_VOLUME}"
    main = dict(plugin.main or {})
    main["env"] = [*(main.get("env") or ()), {"name": "CONFIG_FILE", "value": f"{folder}/{request.default}"}]
    mount = {"name": OUR_VOLUME, "mountPath": folder, "readOnly": True}
    main["volumeMounts"] = [*(main.get("volumeMounts") or ()), mount]
    volume = {"name": OUR_VOLUME, "configMap": {"name": target_name(state)}}
    return with_pod_parts(plugin, main, [*(plugin.pod_spec.get("volumes") or ()), volume])


def with_pod_parts(plugin: DaemonSet, main: dict[str, Any], volumes: list[Any]) -> Change | None:
    """The device plugin with another main container and other volumes."""
    containers = [
        main if container["name"] == main["name"] else container for container in plugin.pod_spec["containers"]
    ]
    path = ("spec", "template", "spec")
    after = with_field(plugin.raw, (*path, "containers"), containers)
    return change_between(DAEMON_SETS, plugin.raw, with_field(after, (*path, "volumes"), volumes))


def restarts_for(state: GpuState, *, data_changes: bool, rolls_anyway: bool) -> tuple[DaemonSet, ...]:
    """Which DaemonSets read the ConfigMap, do so only when they start, and would not restart by themselves."""
    if rolls_anyway:
        return ()
    return tuple(
        plugin
        for plugin in (*state.plugins, *state.readers)
        if plugin.pods
        and plugin.config_map == target_name(state)
        and (data_changes or bool(outdated_pods(plugin, state)))
    )


def plan_undo(state: GpuState) -> SharingPlan:
    """Back to what was before the first `vdi gpu configure`, except where somebody has chosen otherwise since.

    Raises RefusedError when nothing was noted.
    """
    name = target_name(state)
    there = state.config_maps.get(name)
    record = read_record(there.raw) if there else None
    if there is None or record is None:
        found = "does not exist" if there is None else f"has no annotation {BEFORE_ANNOTATION}"
        raise RefusedError(
            [
                f"There is nothing to undo: ConfigMap {state.namespace}/{name} {found}, so `vdi gpu configure` did"
                " not make these settings."
            ]
        )
    rollout = _undo_policy(state, record) if state.policy is not None else _undo_daemon_set(state)
    maps = _undo_config_map(there, record)
    nodes = [change for node in state.nodes if (change := _undo_node(node, record))]
    changes = tuple(change for change in (*nodes, rollout, maps) if change is not None)
    return SharingPlan(changes, restarts_for(state, data_changes=True, rolls_anyway=rollout is not None))


def _undo_node(node: Node, record: dict[str, Any]) -> Change | None:
    noted = read_record(node.raw)
    if noted is None:
        return None
    after = with_field(node.raw, NOTE_PATH, None)
    if "config" in noted and node.label(CONFIG_LABEL) in record.get("keys", {}):
        after = with_field(after, ("metadata", "labels", CONFIG_LABEL), noted["config"])
    return change_between(NODES, node.raw, after)


def _undo_policy(state: GpuState, record: dict[str, Any]) -> Change | None:
    policy = state.policy
    assert policy is not None  # noqa: S101 - the caller has looked
    if policy.config.get("name") != target_name(state):
        return None
    return change_between(CLUSTER_POLICIES, policy.raw, with_field(policy.raw, CONFIG_PATH, record.get("policy")))


def _undo_daemon_set(state: GpuState) -> Change | None:
    plugin = plain_plugin(state)
    if plugin is None or not plugin.has_our_volume:
        return None
    main = dict(plugin.main or {})
    folder = f"/{OUR_VOLUME}/"
    main["env"] = [
        variable
        for variable in main.get("env") or ()
        if not (variable["name"] == "CONFIG_FILE" and str(variable.get("value", "")).startswith(folder))
    ]
    main["volumeMounts"] = [
        volume_mount for volume_mount in main.get("volumeMounts") or () if volume_mount["name"] != OUR_VOLUME
    ]
    volumes = [volume for volume in plugin.pod_spec.get("volumes") or () if volume["name"] != OUR_VOLUME]
    return with_pod_parts(plugin, {key: value for key, value in main.items() if value}, volumes)


def _undo_config_map(there: ConfigMap, record: dict[str, Any]) -> Change | None:
    data: dict[str, str] = there.data
    for key, old in record.get("keys", {}).items():
        data.pop(key, None)
        if old is not None:
            data[key] = old
    if record.get("made") and not data:
        return change_between(CONFIG_MAPS, there.raw, None)
    after = with_field(with_field(there.raw, NOTE_PATH, None), ("data",), data)
    return change_between(CONFIG_MAPS, there.raw, after)


def state_after(state: GpuState, plan: SharingPlan) -> GpuState:
    """The cluster as it is configured once the plan is applied; the nodes' numbers are those of before."""
    maps, policy = dict(state.config_maps), state.policy
    for change in plan.changes:
        if change.resource == CONFIG_MAPS:
            maps.pop(change.name, None)
            if change.after is not None:
                maps[change.name] = ConfigMap(change.after)
        if change.resource == CLUSTER_POLICIES and policy is not None and change.after is not None:
            policy = replace(policy, raw=change.after)
    changed_nodes = {change.name: change.after for change in plan.changes if change.resource == NODES}
    nodes = tuple(replace(node, raw=changed_nodes.get(node.name) or node.raw) for node in state.nodes)
    sets = {change.name: change.after for change in plan.changes if change.resource == DAEMON_SETS}
    plugins = tuple(replace(plugin, raw=sets.get(plugin.name) or plugin.raw) for plugin in state.plugins)
    return replace(state, nodes=nodes, config_maps=maps, policy=policy, plugins=plugins)


def sharing_of(state: GpuState) -> dict[str, tuple[str, Sharing]]:
    """For each node with GPUs its configuration, where that is known."""
    effects = {node.name: effect_on(node, state) for node in state.gpu_nodes}
    return {name: (effect.config, effect.sharing) for name, effect in effects.items() if effect.sharing is not None}


ISOLATES_NOTHING = (
    "Time-slicing isolates neither memory nor faults: every desktop on a GPU can fill its whole memory, and a "
    "crash of the GPU affects all of them."
)


def notes_on(state: GpuState) -> Iterator[str]:
    """About the GPUs and the configured state: encoders, isolation, then what settings and cluster bring with them."""
    shared = {name: each for name, (_, each) in sharing_of(state).items() if each.replicas > 1}
    if without := [node.name for node in state.gpu_nodes if lacks_encoder(node.label(PRODUCT_LABEL))]:
        yield f"{names(without)}: these GPUs have no video encoder (NVENC): desktops there encode on the CPU."
    if not shared:
        return
    yield ISOLATES_NOTHING
    yield from _memory_notes(state, shared)
    if any(each.rename for each in shared.values()):
        yield (
            f"With renameByDefault the resource is {RENAMED}: set gpuResource={RENAMED} in the values of charts/vdi"
            " (VDI_GPU_RESOURCE), or no session finds a node."
        )
    if any(each.fail_requests_greater_than_one for each in shared.values()):
        yield (
            "failRequestsGreaterThanOne is true: a pod that requests two slices becomes Failed "
            "(UnexpectedAdmissionError) and is not retried: no template may have maxGPU above 1."
        )
    else:
        yield (
            "failRequestsGreaterThanOne is false: a pod may request two slices, which may be of the same GPU and "
            "have no effect."
        )
    if state.on_k3s:
        yield (
            "K3s creates the RuntimeClass nvidia itself; it is not created here. Unless the node runs with "
            "default-runtime: nvidia, templates need placement.runtimeClassName: nvidia."
        )
    yield from _owner_notes(state)


def _memory_notes(state: GpuState, shared: dict[str, Sharing]) -> Iterator[str]:
    alike: dict[tuple[int, int], list[str]] = {}
    for node in state.gpu_nodes:
        sharing, memory = shared.get(node.name), node.label("nvidia.com/gpu.memory")
        if sharing is not None and memory.isdigit():
            alike.setdefault((int(memory), sharing.replicas), []).append(node.name)
    for (memory_mib, replicas), there in alike.items():
        yield (
            f"{names(there)}: {memory_mib} MiB per GPU for {replicas} desktops are {memory_mib // replicas} MiB "
            "each if they share evenly, which nothing enforces."
        )
    for node in state.gpu_nodes:
        sharing = shared.get(node.name)
        if sharing is None:
            continue
        if node.gpus is not None and node.in_use > node.gpus * sharing.replicas:
            slots = node.gpus * sharing.replicas
            yield (
                f"Node {node.name}: {node.in_use} GPU slots are in use, and it will have {slots}. "
                "Running desktops are not affected; new ones wait until enough of them have ended."
            )


def _owner_notes(state: GpuState) -> Iterator[str]:
    config_map = state.config_map
    if config_map is not None and config_map.helm_release:
        yield (
            f"ConfigMap {state.namespace}/{config_map.name} belongs to the Helm release {config_map.helm_release}: set "
            "the same content in that release's values (charts/vdi: gpu.timeSlicing), or its next upgrade reverts "
            "it."
        )
    if state.policy is not None:
        strategy = str(state.policy.section("mig").get("strategy") or "")
        written = {each.mig_strategy for _, each in sharing_of(state).values()}
        if strategy and written - {strategy}:
            yield (
                f"ClusterPolicy {state.policy.name} has mig.strategy {strategy}, which overrides the "
                "configuration's migStrategy; on GPUs without MIG the result is the same."
            )
    for plugin in state.plugins if state.policy is None else ():
        if plugin.helm_release:
            yield (
                f"DaemonSet {plugin.namespace}/{plugin.name} belongs to the Helm release {plugin.helm_release}: also set "
                f"config.name={plugin.config_map} and config.default={picker_of_plugin(plugin).default or 'any'} in "
                "its values, so that the next upgrade keeps them."
            )
