"""Requests of `vdi gpu configure` with the reasons against them, its plan and undo, and notes for
their reader. Pure.

    ConfigMap -> labels and notes of nodes -> ClusterPolicy (or DaemonSet) -> restart of pods that have not read it

The order matters: a label or a ClusterPolicy that names a configuration which does not exist yet
keeps the device plugin down.
"""

import copy
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from vdi.gpu.sharing.changes import Change, change_between, with_field
from vdi.gpu.sharing.config import (
    MIG_STRATEGIES,
    RENAMED,
    RESOURCE,
    BadConfigError,
    Sharing,
    read_config,
    render_config,
)
from vdi.gpu.sharing.findings import outdated_pods
from vdi.gpu.sharing.state import (
    BEFORE_ANNOTATION,
    CONFIG_LABEL,
    DEFAULT_NAME,
    OUR_VOLUME,
    PRODUCT_LABEL,
    DaemonSet,
    GpuNode,
    GpuState,
    effect_on,
    env_of,
    lacks_encoder,
    names,
    picker_of_plugin,
    read_config_map,
    read_record,
)
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES, Resource
from vdi.snapshot.objects import CLUSTER_POLICIES, convert_object
from vdi.snapshot.objects.config import ConfigMap
from vdi.snapshot.objects.meta import Meta

# Path of a field, and its value; None: without it.
Field = tuple[tuple[str, ...], Any]

_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_KEY_WORDS = "1 to 63 letters, digits, inner '-', '_' and '.' (it becomes a node label's value)"
_REPLICAS_WORDS = "a whole number from 1 up (1: not shared)"
DEFAULT_KEY = "any"
CONFIG_PATH = ("spec", "devicePlugin", "config")
LABEL_PATH = ("metadata", "labels", CONFIG_LABEL)
NOTE_PATH = ("metadata", "annotations", BEFORE_ANNOTATION)


class RefusedError(Exception):
    """Raised when a request is refused; `problems` are whole sentences. `usage`: the request itself
    is wrong.
    """

    def __init__(self, problems: Iterable[str], *, usage: bool = False) -> None:
        self.problems = tuple(problems)
        self.usage = usage
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class SharingRequest:
    """Named configurations, the name of the default, and nodes with another one."""

    configs: Mapping[str, Sharing]
    default: str
    nodes: Mapping[str, str] = field(default_factory=dict)


def parse_request(
    sharing: Sharing, default: str, configs: Iterable[str], nodes: Iterable[str]
) -> SharingRequest:
    """The request of `NAME=REPLICAS` and `NODE=NAME`. `sharing` is the default's; the others differ
    in replicas.

    Raises RefusedError with all problems.
    """
    problems: list[str] = []
    if sharing.replicas < 1:
        problems.append(f"--replicas is {sharing.replicas}; allowed: {_REPLICAS_WORDS}.")
    if sharing.mig_strategy not in ("none", "single"):
        why = (
            " With mixed, MIG devices are separate resources (nvidia.com/mig-...), which desktops"
            " do not use."
        )
        mixed = why if sharing.mig_strategy in MIG_STRATEGIES else ""
        problems.append(
            f"--mig-strategy is {sharing.mig_strategy!r}; allowed: none, single.{mixed}"
        )
    named = {default: sharing}
    if not _KEY.fullmatch(default):
        problems.append(f"--default is {default!r}; allowed: {_KEY_WORDS}.")
    for text in configs:
        name, _, count = text.partition("=")
        if not _KEY.fullmatch(name):
            problems.append(f"--config is {text!r}, its name is {name!r}; allowed: {_KEY_WORDS}.")
        elif not count.isascii() or not count.isdigit() or int(count) < 1:
            problems.append(
                f"--config is {text!r}, its replicas are {count!r}; allowed: {_REPLICAS_WORDS}."
            )
        elif name in named:
            problems.append(
                f"--config names {name!r} twice, or the default, which --replicas describes."
            )
        else:
            named[name] = replace(sharing, replicas=int(count))
    return SharingRequest(named, default, _parse_nodes(nodes, named, problems))


def _parse_nodes(
    nodes: Iterable[str], named: Mapping[str, Sharing], problems: list[str]
) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in nodes:
        node, sign, name = text.partition("=")
        if not node or not sign or name not in named:
            problems.append(
                f"--node is {text!r}; allowed: NODE=NAME, with NAME one of"
                f" {', '.join(sorted(named))}."
            )
        elif node in chosen:
            problems.append(f"--node names node {node!r} twice.")
        else:
            chosen[node] = name
    if problems:
        raise RefusedError(problems, usage=True)
    return chosen


def target_name(state: GpuState) -> str:
    """Name of the ConfigMap to write: our own under the GPU Operator, otherwise the device
    plugin's.
    """
    if state.policy:
        return DEFAULT_NAME
    return state.config_name or DEFAULT_NAME


def plain_plugin(state: GpuState) -> DaemonSet | None:
    """The device plugin of a cluster without the GPU Operator; None unless there is exactly one."""
    if len(state.plugins) == 1:
        return state.plugins[0]
    return None


def unknown_nodes(state: GpuState, request: SharingRequest) -> Iterator[str]:
    """Nodes of the request that do not exist or have no GPU."""
    with_gpu = {node.name for node in state.gpu_nodes}
    known = {node.name for node in state.nodes}
    for name in request.nodes:
        if name not in with_gpu:
            if name in known:
                why = "has no GPU that Kubernetes knows of"
            else:
                why = "is not in this cluster"
            yield f"--node names {name!r}, which {why}; allowed: {names(sorted(with_gpu))}."


def problems_with(state: GpuState, request: SharingRequest) -> Iterator[str]:
    """Reasons of the cluster against the request."""
    if not state.gpu_nodes:
        yield (
            "No node has a GPU that Kubernetes knows of (label nvidia.com/gpu.present=true or"
            f" resource {RESOURCE}): install driver, container toolkit and device plugin first."
        )
    if state.policy is not None and not state.policy.spec.device_plugin.enabled:
        yield (
            f"ClusterPolicy {state.policy.metadata.name}: spec.devicePlugin.enabled is false; allowed: true,"
            " because the device plugin shares GPUs."
        )
    if state.policy is None:
        yield from _plain_problems(state, request)
    target = state.config_maps.get(target_name(state))
    for key in request.configs:
        text = target.data.get(key) if target else None
        if text is not None and _is_mps(text):
            yield (
                f"Key {key} of ConfigMap {state.namespace}/{target_name(state)} has sharing.mps; a"
                " node can be shared by MPS or by time-slicing, not by both. Choose another name,"
                " or remove that key."
            )
    for node in state.gpu_nodes:
        yield from _node_problems(node, state, request)


def _is_mps(text: str) -> bool:
    try:
        return read_config(text).strategy == "mps"
    except BadConfigError as error:
        return "mps" in str(error)


def _plain_problems(state: GpuState, request: SharingRequest) -> Iterator[str]:
    plugin = plain_plugin(state)
    if plugin is None:
        plugin_names = names(f"{plugin.namespace}/{plugin.name}" for plugin in state.plugins)
        yield (
            "There is no ClusterPolicy of the GPU Operator, and these DaemonSets have NVIDIA's"
            f" device plugin: {plugin_names}; allowed: exactly one."
        )
        return
    where = f"DaemonSet {plugin.namespace}/{plugin.name}"
    if (
        plugin.config_map is None
        and env_of(plugin.main, "CONFIG_FILE")
        and not plugin.has_our_volume
    ):
        file = env_of(plugin.main, "CONFIG_FILE")
        yield (
            f"{where}: CONFIG_FILE is {file!r}, which is not in a ConfigMap; allowed: a file of a"
            " ConfigMap volume."
        )
    if plugin.manager is None and (request.nodes or len(request.configs) > 1):
        yield (
            f"{where} gives all nodes the same configuration. Several configurations need the"
            " config-manager: the chart nvidia-device-plugin includes it with the values"
            " config.name and config.default, and so does the GPU Operator."
        )
    if plugin.config_map is not None:
        target = state.config_maps.get(plugin.config_map)
        keys = {**(target.data if target else {}), **dict.fromkeys(request.configs, "")}
        picked = picker_of_plugin(plugin).pick("", keys)
        if picked != request.default:
            yield (
                f"{where} gives nodes without a label the configuration {picked or 'none'!r}, not"
                f" {request.default!r}; allowed: --default {picked}, or the chart's value"
                f" config.default={request.default}."
            )


def _node_problems(node: GpuNode, state: GpuState, request: SharingRequest) -> Iterator[str]:
    plugin = plain_plugin(state)
    by_label = state.policy is not None or plugin is None or plugin.manager is not None
    if by_label:
        label = request.nodes.get(node.name) or node.label(CONFIG_LABEL)
    else:
        label = ""
    target = state.config_maps.get(target_name(state))
    allowed = {*request.configs, *(target.data if target else ())}
    if label and label not in allowed:
        yield (
            f"Node {node.name} has the label {CONFIG_LABEL}={label}, which would be an unknown"
            f" configuration; allowed: {names(sorted(allowed))}. Add"
            f" --node {node.name}={request.default}, or --config {label}=REPLICAS."
        )
        return
    sharing = request.configs.get(label or request.default)
    if sharing is not None and sharing.replicas > 1:
        yield from _partition_problems(node, sharing)


def _partition_problems(node: GpuNode, sharing: Sharing) -> Iterator[str]:
    """MPS and MIG of a node whose GPUs are to be shared."""
    if node.mps:
        yield (
            f"Node {node.name} is shared by MPS (label"
            f" nvidia.com/gpu.sharing-strategy={node.sharing_label or 'none'},"
            f" nvidia.com/mps.capable={node.label('nvidia.com/mps.capable') or 'false'}); a node"
            " can be shared by MPS or by time-slicing, not by both. Turn MPS off first."
        )
    if node.mig == "mixed":
        yield (
            f"Node {node.name} advertises MIG devices separately ({names(node.mig_resources)});"
            f" allowed: MIG strategy single, or MIG off, because desktops request {RESOURCE}."
        )
    elif node.mig not in ("none", sharing.mig_strategy):
        yield (
            f"Node {node.name} has its GPUs partitioned by MIG (strategy {node.mig}), and"
            f" migStrategy would be {sharing.mig_strategy}; allowed: --mig-strategy {node.mig}, or"
            " MIG off on the node."
        )


def build_config_map(namespace: str, name: str, data: Mapping[str, str]) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": meta,
        "data": dict(data),
    }


@dataclass(frozen=True, slots=True)
class SharingPlan:
    """Changes in their order, then the DaemonSets to restart."""

    changes: tuple[Change, ...] = ()
    restarts: tuple[DaemonSet, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.changes and not self.restarts


def default_key(state: GpuState, requested: str | None) -> str:
    """Name of the default configuration: as requested, else the one in effect, else `any`."""
    if state.policy is None:
        own = picker_of_plugin(plain_plugin(state)).default
    else:
        config = state.policy.spec.device_plugin.config
        # The default of another ConfigMap is not a key of the one that we write.
        own = config.default if config.name == DEFAULT_NAME else ""
    return requested or own or DEFAULT_KEY


def plan_configure(state: GpuState, request: SharingRequest) -> SharingPlan:
    """The changes for a request. Raises RefusedError with every reason against it."""
    if unknown := list(unknown_nodes(state, request)):
        raise RefusedError(unknown, usage=True)
    if problems := list(problems_with(state, request)):
        raise RefusedError(problems)
    config_map = _config_map_change(state, request)
    if state.policy is not None:
        name = (*CONFIG_PATH, "name"), target_name(state)
        default = (*CONFIG_PATH, "default"), request.default
        rollout = _edit(state, CLUSTER_POLICIES, state.policy.metadata, name, default)
    else:
        rollout = _daemon_set_change(state, request)
    nodes = (_node_change(node, state, request) for node in state.nodes)
    data_changes = config_map is not None and "data" in config_map.patch
    return _plan(
        state, (config_map, *nodes, rollout), rolls=rollout is not None, data_changes=data_changes
    )


def _plan(
    state: GpuState, changes: Iterable[Change | None], *, rolls: bool, data_changes: bool
) -> SharingPlan:
    """The changes, with restarts of the DaemonSets that read the ConfigMap only when they start.

    `rolls`: the changes restart them anyway.
    """
    restarts: list[DaemonSet] = []
    for plugin in () if rolls else (*state.plugins, *state.readers):
        reads_it = plugin.pods and plugin.config_map == target_name(state)
        if reads_it and (data_changes or outdated_pods(plugin, state)):
            restarts.append(plugin)
    return SharingPlan(tuple(change for change in changes if change is not None), tuple(restarts))


def _note(record: dict[str, Any]) -> Field:
    return NOTE_PATH, json.dumps(record, sort_keys=True)


def _edit(state: GpuState, resource: Resource, meta: Meta, *fields: Field) -> Change | None:
    """The change that sets these fields, or removes those with None."""
    before = after = state.original(resource, meta)
    for path, value in fields:
        after = with_field(after, path, value)
    return change_between(resource, before, after)


def _config_map_change(state: GpuState, request: SharingRequest) -> Change | None:
    name = target_name(state)
    there = state.config_maps.get(name)
    old = there.data if there else {}
    texts = {key: render_config(sharing) for key, sharing in request.configs.items()}
    # A text that differs in white space alone would restart the device plugin for nothing.
    texts = {
        key: old[key] if old.get(key, "").strip() == text else text for key, text in texts.items()
    }
    record = read_record(there.metadata) if there else None
    record = record or {"made": there is None, "keys": {}}
    if state.policy is not None:
        config = msgspec.to_builtins(state.policy.spec.device_plugin.config)
        record.setdefault("policy", config or None)
    # The note keeps the settings before the first run: a second one must not note our own as the
    # ones to go back to.
    for key in texts:
        record["keys"].setdefault(key, old.get(key))
    if there is not None:
        return _edit(
            state, CONFIG_MAPS, there.metadata, (("data",), {**old, **texts}), _note(record)
        )
    config_map = with_field(build_config_map(state.namespace, name, texts), *_note(record))
    return change_between(CONFIG_MAPS, None, config_map)


def _node_change(node: GpuNode, state: GpuState, request: SharingRequest) -> Change | None:
    record = read_record(node.node.metadata) or {}
    fields: list[Field] = []
    desired = request.nodes.get(node.name)
    if desired is not None and desired != node.label(CONFIG_LABEL):
        record.setdefault("config", node.label(CONFIG_LABEL) or None)
        fields.append((LABEL_PATH, desired))
    if node.has_gpu and node.gpus is None:
        # Nothing shares its GPUs yet, so it advertises as many as it has. Later this number is the
        # only proof.
        sharing = effect_on(node, state).sharing
        count = node.capacity(RESOURCE)
        if sharing is not None and sharing.replicas == 1 and count:
            record["gpus"] = count
    if record:
        fields.append(_note(record))
    return _edit(state, NODES, node.node.metadata, *fields)


def _daemon_set_change(state: GpuState, request: SharingRequest) -> Change | None:
    """Our configuration for a device plugin that has none; one that has a ConfigMap reads it as it
    is.
    """
    plugin = plain_plugin(state)
    if plugin is None or plugin.config_map is not None:
        return None
    folder = f"/{OUR_VOLUME}"
    variable = {"name": "CONFIG_FILE", "value": f"{folder}/{request.default}"}
    mount = {"name": OUR_VOLUME, "mountPath": folder, "readOnly": True}
    volume = {"name": OUR_VOLUME, "configMap": {"name": target_name(state)}}

    def add(spec: dict[str, Any], main: dict[str, Any]) -> None:
        main["env"] = [*main.get("env", ()), variable]
        main["volumeMounts"] = [*main.get("volumeMounts", ()), mount]
        spec["volumes"] = [*spec.get("volumes", ()), volume]

    return _edit_plugin(state, plugin, add)


def _edit_plugin(
    state: GpuState,
    plugin: DaemonSet,
    edit: Callable[[dict[str, Any], dict[str, Any]], None],
) -> Change | None:
    """The change that `edit` makes in the pod's spec and in the main container."""
    before = state.original(DAEMON_SETS, plugin.workload.metadata)
    after = copy.deepcopy(dict(before))
    spec = after["spec"]["template"]["spec"]
    for container in spec["containers"]:
        if plugin.main is not None and container["name"] == plugin.main.name:
            edit(spec, container)
    return change_between(DAEMON_SETS, before, after)


def plan_undo(state: GpuState) -> SharingPlan:
    """Back to the settings before the first `vdi gpu configure`, except those that someone has
    changed since.

    Raises RefusedError when nothing was noted.
    """
    name = target_name(state)
    there = state.config_maps.get(name)
    record = read_record(there.metadata) if there else None
    if there is None or record is None:
        if there is None:
            problem = "does not exist"
        else:
            problem = f"has no annotation {BEFORE_ANNOTATION}"
        raise RefusedError(
            [
                f"There is nothing to undo: ConfigMap {state.namespace}/{name} {problem}, so `vdi gpu"
                " configure` did not make these settings."
            ]
        )
    rollout = None
    if state.policy is None:
        rollout = _undo_daemon_set(state)
    elif state.policy.spec.device_plugin.config.name == name:
        config = CONFIG_PATH, record.get("policy")
        rollout = _edit(state, CLUSTER_POLICIES, state.policy.metadata, config)
    # Nodes and ClusterPolicy stop naming the configurations before the ConfigMap loses them.
    changes = (
        *(_undo_node(node, state, record) for node in state.nodes),
        rollout,
        _undo_config_map(there, state, record),
    )
    return _plan(state, changes, rolls=rollout is not None, data_changes=True)


def _undo_node(node: GpuNode, state: GpuState, record: dict[str, Any]) -> Change | None:
    noted = read_record(node.node.metadata)
    if noted is None:
        return None
    fields: list[Field] = [(NOTE_PATH, None)]
    # A label that someone has set to another configuration since then is not ours to remove.
    if "config" in noted and node.label(CONFIG_LABEL) in record.get("keys", {}):
        fields.append((LABEL_PATH, noted["config"]))
    return _edit(state, NODES, node.node.metadata, *fields)


def _undo_daemon_set(state: GpuState) -> Change | None:
    plugin = plain_plugin(state)
    if plugin is None or not plugin.has_our_volume:
        return None

    def is_ours(entry: dict[str, Any]) -> bool:
        file = str(entry.get("value", ""))
        return entry["name"] == OUR_VOLUME or (
            entry["name"] == "CONFIG_FILE" and file.startswith(f"/{OUR_VOLUME}/")
        )

    def remove(spec: dict[str, Any], main: dict[str, Any]) -> None:
        for owner, name in ((main, "env"), (main, "volumeMounts"), (spec, "volumes")):
            owner[name] = [entry for entry in owner.get(name, ()) if not is_ours(entry)]
            if not owner[name]:
                del owner[name]

    return _edit_plugin(state, plugin, remove)


def _undo_config_map(there: ConfigMap, state: GpuState, record: dict[str, Any]) -> Change | None:
    noted = record.get("keys", {})
    data = {key: text for key, text in there.data.items() if key not in noted}
    data |= {key: old for key, old in noted.items() if old is not None}
    if record.get("made") and not data:
        return change_between(CONFIG_MAPS, state.original(CONFIG_MAPS, there.metadata), None)
    return _edit(state, CONFIG_MAPS, there.metadata, (NOTE_PATH, None), (("data",), data))


def state_after(state: GpuState, plan: SharingPlan) -> GpuState:
    """The state once the plan is applied, for notes and findings: no plan can be made of it. The
    numbers that nodes advertise are those of before.
    """
    after = {
        (change.resource, change.namespace, change.name): change.after for change in plan.changes
    }
    config_maps = dict(state.config_maps)
    for (resource, _, name), raw in after.items():
        if resource == CONFIG_MAPS:
            config_maps.pop(name, None)
            if raw is not None:
                config_maps[name] = read_config_map(raw)

    def changed(resource: Resource, current: Any) -> Any:
        meta = current.metadata
        raw = after.get((resource, meta.namespace or None, meta.name))
        if raw:
            return convert_object(resource.plural, raw)
        return current

    nodes = [replace(node, node=changed(NODES, node.node)) for node in state.nodes]
    plugins = [
        replace(plugin, workload=changed(DAEMON_SETS, plugin.workload)) for plugin in state.plugins
    ]
    return replace(
        state,
        nodes=tuple(nodes),
        plugins=tuple(plugins),
        config_maps=config_maps,
        policy=state.policy and changed(CLUSTER_POLICIES, state.policy),
        originals={},
    )


def notes_on(state: GpuState) -> Iterator[str]:
    """Notes on the configured state: encoders, isolation, then effects of the settings and of the
    cluster.
    """
    shared: list[tuple[GpuNode, Sharing]] = []
    strategies = set()
    for node in state.gpu_nodes:
        sharing = effect_on(node, state).sharing
        if sharing:
            strategies.add(sharing.mig_strategy)
            if sharing.replicas > 1:
                shared.append((node, sharing))
    without = [node.name for node in state.gpu_nodes if lacks_encoder(node.label(PRODUCT_LABEL))]
    if without:
        yield (
            f"{names(without)}: these GPUs have no video encoder (NVENC): desktops there encode on"
            " the CPU."
        )
    if not shared:
        return
    yield (
        "Time-slicing isolates neither memory nor faults: every desktop on a GPU can fill its whole"
        " memory, and a crash of the GPU affects all of them."
    )
    yield from _memory_notes(shared)
    if any(sharing.rename for _, sharing in shared):
        yield (
            f"With renameByDefault the resource is {RENAMED}: set gpuResource={RENAMED} in the"
            " values of charts/vdi (VDI_GPU_RESOURCE), or no session finds a node."
        )
    if any(sharing.fail_requests_greater_than_one for _, sharing in shared):
        yield (
            "failRequestsGreaterThanOne is true: a pod that requests two slices becomes Failed "
            "(UnexpectedAdmissionError) and is not retried: no template may have maxGPU above 1."
        )
    else:
        yield (
            "failRequestsGreaterThanOne is false: a pod may request two slices, which may be of the"
            " same GPU and have no effect."
        )
    if state.on_k3s:
        yield (
            "K3s creates the RuntimeClass nvidia itself; it is not created here. Unless the node"
            " runs with default-runtime: nvidia, templates need placement.runtimeClassName: nvidia."
        )
    yield from _owner_notes(state, strategies)


def _memory_notes(shared: Collection[tuple[GpuNode, Sharing]]) -> Iterator[str]:
    alike: dict[tuple[int, int], list[str]] = {}
    for node, sharing in shared:
        if (memory := node.label("nvidia.com/gpu.memory")).isdigit():
            alike.setdefault((int(memory), sharing.replicas), []).append(node.name)
    for (memory_mib, replicas), there in alike.items():
        yield (
            f"{names(there)}: {memory_mib} MiB per GPU for {replicas} desktops are"
            f" {memory_mib // replicas} MiB each if they share evenly, which nothing enforces."
        )
    for node, sharing in shared:
        slots = None if node.gpus is None else node.gpus * sharing.replicas
        if slots is not None and node.in_use > slots:
            yield (
                f"Node {node.name}: {node.in_use} GPU slots are in use, and it will have {slots}. "
                "Running desktops are not affected; new ones wait until enough of them have ended."
            )


def _owner_notes(state: GpuState, mig_strategies: set[str]) -> Iterator[str]:
    config_map = state.config_map
    if config_map is not None and config_map.metadata.helm_release:
        yield (
            f"ConfigMap {state.namespace}/{config_map.metadata.name} belongs to the Helm release"
            f" {config_map.metadata.helm_release}: set the same content in that release's values"
            " (charts/vdi: gpu.timeSlicing), or its next upgrade reverts it."
        )
    if state.policy is not None:
        strategy = state.policy.spec.mig.strategy
        if strategy and mig_strategies - {strategy}:
            yield (
                f"ClusterPolicy {state.policy.metadata.name} has mig.strategy {strategy}, which overrides"
                " the configuration's migStrategy; on GPUs without MIG the result is the same."
            )
    for plugin in state.plugins if state.policy is None else ():
        release = plugin.workload.metadata.helm_release
        if release:
            yield (
                f"DaemonSet {plugin.namespace}/{plugin.name} belongs to the Helm release"
                f" {release}: also set config.name={plugin.config_map} and"
                f" config.default={picker_of_plugin(plugin).default or 'any'} in its values, so"
                " that the next upgrade keeps them."
            )
