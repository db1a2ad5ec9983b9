"""A request to share GPUs, and the reasons why it cannot be applied to this cluster. Pure.

Each reason names the field, the value and what is allowed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from vdi.gpu.sharing.config import MIG_STRATEGIES, RESOURCE, BadConfigError, Sharing, read_config
from vdi.gpu.sharing.state import (
    CONFIG_LABEL,
    DEFAULT_NAME,
    DaemonSet,
    GpuState,
    Node,
    env_of,
    names,
    picker_of_plugin,
)

_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_KEY_WORDS = "1 to 63 letters, digits, inner '-', '_' and '.' (it becomes a node label's value)"
_REPLICAS_WORDS = "a whole number from 1 up (1: not shared)"


class RefusedError(Exception):
    """Raised when a request is refused; `problems` are whole sentences. `usage`: the request itself is wrong."""

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
    sharing: Sharing, default: str, configs: Iterable[str] = (), nodes: Iterable[str] = ()
) -> SharingRequest:
    """The request of `NAME=REPLICAS` and `NODE=NAME`. `sharing` is the default's; the others differ in replicas.

    Raises RefusedError with all problems.
    """
    problems: list[str] = []
    if sharing.replicas < 1:
        problems.append(f"--replicas is {sharing.replicas}; allowed: {_REPLICAS_WORDS}.")
    if sharing.mig_strategy not in ("none", "single"):
        why = " With mixed, MIG devices are separate resources (nvidia.com/mig-...), which desktops do not use."
        mixed = why if sharing.mig_strategy in MIG_STRATEGIES else ""
        problems.append(f"--mig-strategy is {sharing.mig_strategy!r}; allowed: none, single.{mixed}")
    named = {default: sharing}
    if not _KEY.fullmatch(default):
        problems.append(f"--default is {default!r}; allowed: {_KEY_WORDS}.")
    for text in configs:
        name, _, count = text.partition("=")
        if not _KEY.fullmatch(name):
            problems.append(f"--config is {text!r}, its name is {name!r}; allowed: {_KEY_WORDS}.")
        elif not count.isascii() or not count.isdigit() or int(count) < 1:
            problems.append(f"--config is {text!r}, its replicas are {count!r}; allowed: {_REPLICAS_WORDS}.")
        elif name in named:
            problems.append(f"--config names {name!r} twice, or the default, which --replicas describes.")
        else:
            named[name] = replace(sharing, replicas=int(count))
    return SharingRequest(named, default, _parse_nodes(nodes, named, problems))


def _parse_nodes(nodes: Iterable[str], named: Mapping[str, Sharing], problems: list[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in nodes:
        node, sign, name = text.partition("=")
        if not node or not sign or name not in named:
            problems.append(f"--node is {text!r}; allowed: NODE=NAME, with NAME one of {', '.join(sorted(named))}.")
        elif node in chosen:
            problems.append(f"--node names node {node!r} twice.")
        else:
            chosen[node] = name
    if problems:
        raise RefusedError(problems, usage=True)
    return chosen


def target_name(state: GpuState) -> str:
    """Name of the ConfigMap to write: our own under the GPU Operator, otherwise the device plugin's."""
    return DEFAULT_NAME if state.policy else state.config_name or DEFAULT_NAME


def plain_plugin(state: GpuState) -> DaemonSet | None:
    """The device plugin of a cluster without the GPU Operator; None unless there is exactly one."""
    return state.plugins[0] if len(state.plugins) == 1 else None


def unknown_nodes(state: GpuState, request: SharingRequest) -> Iterator[str]:
    """Nodes of the request that do not exist or have no GPU."""
    with_gpu = {node.name for node in state.gpu_nodes}
    known = {node.name for node in state.nodes}
    for name in request.nodes:
        if name not in with_gpu:
            why = "has no GPU that Kubernetes knows of" if name in known else "is not in this cluster"
            yield f"--node names {name!r}, which {why}; allowed: {names(sorted(with_gpu))}."


def problems_with(state: GpuState, request: SharingRequest) -> Iterator[str]:
    """Reasons of the cluster against the request."""
    if not state.gpu_nodes:
        yield (
            f"No node has a GPU that Kubernetes knows of (label nvidia.com/gpu.present=true or resource {RESOURCE}):"
            " install driver, container toolkit and device plugin first."
        )
    if state.policy is not None and state.policy.section("devicePlugin").get("enabled") is False:
        yield (
            f"ClusterPolicy {state.policy.name}: spec.devicePlugin.enabled is false; allowed: true, because the "
            "device plugin shares GPUs."
        )
    if state.policy is None:
        yield from _plain_problems(state, request)
    target = state.config_maps.get(target_name(state))
    for key in request.configs:
        text = target.data.get(key) if target else None
        if text is not None and _is_mps(text):
            yield (
                f"Key {key} of ConfigMap {state.namespace}/{target_name(state)} has sharing.mps; a node can be "
                "shared by MPS or by time-slicing, not by both. Choose another name, or remove that key."
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
        found = names(f"{plugin.namespace}/{plugin.name}" for plugin in state.plugins)
        yield (
            "There is no ClusterPolicy of the GPU Operator, and these DaemonSets have NVIDIA's device plugin: "
            f"{found}; allowed: exactly one."
        )
        return
    where = f"DaemonSet {plugin.namespace}/{plugin.name}"
    if plugin.config_map is None and env_of(plugin.main, "CONFIG_FILE") and not plugin.has_our_volume:
        file = env_of(plugin.main, "CONFIG_FILE")
        yield f"{where}: CONFIG_FILE is {file!r}, which is not in a ConfigMap; allowed: a file of a ConfigMap volume."
    if plugin.manager is None and (request.nodes or len(request.configs) > 1):
        yield (
            f"{where} gives all nodes the same configuration. Several configurations need the config-manager: the "
            "chart nvidia-device-plugin includes it with the values config.name and config.default, and so does "
            "the GPU Operator."
        )
    if plugin.config_map is not None:
        target = state.config_maps.get(plugin.config_map)
        keys = {**(target.data if target else {}), **dict.fromkeys(request.configs, "")}
        picked = picker_of_plugin(plugin).pick("", keys)
        if picked != request.default:
            yield (
                f"{where} gives nodes without a label the configuration {picked or 'none'!r}, not {request.default!r};"
                f" allowed: --default {picked}, or the chart's value config.default={request.default}."
            )


def _node_problems(node: Node, state: GpuState, request: SharingRequest) -> Iterator[str]:
    plugin = plain_plugin(state)
    by_label = state.policy is not None or plugin is None or plugin.manager is not None
    label = (request.nodes.get(node.name) or node.label(CONFIG_LABEL)) if by_label else ""
    target = state.config_maps.get(target_name(state))
    if label and label not in request.configs and not (target and label in target.data):
        allowed = names(sorted({*request.configs, *(target.data if target else {})}))
        yield (
            f"Node {node.name} has the label {CONFIG_LABEL}={label}, which would be an unknown configuration; "
            f"allowed: {allowed}. Add --node {node.name}={request.default}, or --config {label}=REPLICAS."
        )
        return
    sharing = request.configs.get(label or request.default)
    if sharing is None or sharing.replicas == 1:
        return
    if node.mps:
        yield (
            f"Node {node.name} is shared by MPS (label "
            f"nvidia.com/gpu.sharing-strategy={node.sharing_label or 'none'}, "
            f"nvidia.com/mps.capable={node.label('nvidia.com/mps.capable') or 'false'}); a node can be shared by "
            "MPS or by time-slicing, not by both. Turn MPS off first."
        )
    if node.mig == "mixed":
        yield (
            f"Node {node.name} advertises MIG devices separately ({names(node.mig_resources)}); allowed: MIG "
            f"strategy single, or MIG off, because desktops request {RESOURCE}."
        )
    elif node.mig not in ("none", sharing.mig_strategy):
        yield (
            f"Node {node.name} has its GPUs partitioned by MIG (strategy {node.mig}), and migStrategy would be "
            f"{sharing.mig_strategy}; allowed: --mig-strategy {node.mig}, or MIG off on the node."
        )
