"""What a person should know who shares GPUs, said where it applies. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from vdi.gpu.products import PRODUCT_LABEL, lacks_encoder
from vdi.gpu.sharing.changes import CLUSTER_POLICIES
from vdi.gpu.sharing.config import RENAMED, Sharing
from vdi.gpu.sharing.effect import effect_on, picker_of_plugin
from vdi.gpu.sharing.plan import SharingPlan
from vdi.gpu.sharing.state import ConfigMap, GpuState, names
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES


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
    if config_map is not None and config_map.of_helm:
        yield (
            f"ConfigMap {state.namespace}/{config_map.name} belongs to the Helm release {config_map.of_helm}: set "
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
        if plugin.of_helm:
            yield (
                f"DaemonSet {plugin.namespace}/{plugin.name} belongs to the Helm release {plugin.of_helm}: also set "
                f"config.name={plugin.config_map} and config.default={picker_of_plugin(plugin).default or 'any'} in "
                "its values, so that the next upgrade keeps them."
            )
