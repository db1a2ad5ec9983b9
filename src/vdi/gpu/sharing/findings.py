"""Findings about shared GPUs, from the configuration to the node that shows its effect. Pure.

`vdi gpu verify` and the doctor report them. A finding is named for the bad state. One that only
follows from another is not made: a node without a configuration that shares its GPUs is not blamed
for advertising them once.
"""

from collections.abc import Iterator

from vdi.findings.model import Finding, Remedy, Severity
from vdi.gpu.sharing.config import MPS, RENAMED, RESOURCE, BadConfigError, Sharing, read_config
from vdi.gpu.sharing.state import (
    CONFIG_LABEL,
    DaemonSet,
    GpuNode,
    GpuState,
    effect_on,
    env_of,
    names,
    picker_of,
)

K3S_SOCKET = "/run/k3s/containerd/containerd.sock"
_CONFIGURE = Remedy.run("vdi gpu configure")


def find(state: GpuState) -> list[Finding]:
    """All findings about a state, causes first."""
    return [*configuration_findings(state), *plugin_findings(state), *node_findings(state)]


def configuration_findings(state: GpuState) -> Iterator[Finding]:
    """Findings about ConfigMap and ClusterPolicy."""
    policy, name = state.policy, state.config_name
    where = "device plugin"
    if policy:
        where = f"clusterpolicy/{policy.metadata.name}"
    if not name:
        yield _finding(
            "gpu_sharing_not_configured",
            where,
            "The device plugin is not configured to share GPUs: each GPU serves one desktop.",
            _CONFIGURE,
        )
        return
    there = state.config_map
    if there is None:
        yield _finding(
            "gpu_config_map_missing",
            where,
            f"It names ConfigMap {state.namespace}/{name}, which does not exist.",
            _CONFIGURE,
        )
        return
    yield from _default_findings(state, where)
    for key, text in sorted(there.data.items()):
        try:
            read_config(text)
        except BadConfigError as error:
            yield _finding(
                "gpu_config_invalid",
                f"configmap/{state.namespace}/{name} key {key}",
                "The device plugin cannot use this configuration.",
                Remedy.run(f"kubectl --namespace {state.namespace} edit configmap {name}"),
                str(error),
            )
    yield from _trap_findings(state)


def _default_findings(state: GpuState, where: str) -> Iterator[Finding]:
    picker, keys = picker_of(state), state.config_map.data if state.config_map else {}
    if picker.default and picker.default not in keys:
        yield _finding(
            "gpu_default_key_missing",
            where,
            f"Its default {picker.default!r} is not a key of ConfigMap {state.config_name}.",
            _CONFIGURE,
            f"ConfigMap {state.config_name} has: {names(sorted(keys))}",
            "nodes without their own label get no device plugin at all",
        )
    unlabelled = [node.name for node in state.gpu_nodes if not node.label(CONFIG_LABEL)]
    if not picker.default and unlabelled and not picker.pick("", keys):
        yield _finding(
            "gpu_default_key_unset",
            where,
            "It has no default key, so nodes without their own label share no GPUs.",
            _CONFIGURE,
            f"ConfigMap: {state.config_name}",
            f"without the label {CONFIG_LABEL}: {names(unlabelled)}",
        )


def _trap_findings(state: GpuState) -> Iterator[Finding]:
    """Settings that break GPU pods on K3s although all numbers are right."""
    if not state.on_k3s:
        return
    if not state.runtime_class:
        yield _finding(
            "gpu_runtime_class_missing",
            "runtimeclass/nvidia",
            "This RuntimeClass does not exist: pods with runtimeClassName nvidia are refused.",
            Remedy(
                "Install nvidia-container-toolkit on the node, then restart K3s (of an agent:"
                " k3s-agent).",
                ("systemctl restart k3s",),
            ),
            "K3s creates this RuntimeClass itself when it finds the toolkit",
            severity=Severity.WARNING,
        )
    policy = state.policy
    if policy is None or not policy.spec.toolkit.enabled:
        return
    socket = env_of(policy.spec.toolkit, "CONTAINERD_SOCKET")
    if socket != K3S_SOCKET:
        yield _finding(
            "gpu_toolkit_paths_not_k3s",
            f"clusterpolicy/{policy.metadata.name}",
            "The toolkit's pods configure a containerd other than the one of K3s.",
            Remedy(
                "In the Helm values of the GPU Operator set toolkit.env"
                f" CONTAINERD_SOCKET={K3S_SOCKET}, or toolkit.enabled=false if"
                " nvidia-container-toolkit is installed on the node."
            ),
            f"toolkit.env CONTAINERD_SOCKET is {socket or 'not set'}",
            f"the containerd of K3s listens at {K3S_SOCKET}",
            severity=Severity.WARNING,
        )


def plugin_findings(state: GpuState) -> Iterator[Finding]:
    """Findings about the DaemonSets that read the configuration."""
    if not state.gpu_nodes:
        yield _finding(
            "gpu_nodes_missing",
            "nodes",
            "No node has a GPU that Kubernetes knows of.",
            Remedy(
                "Install the driver and the container toolkit on the GPU nodes, then the GPU"
                " Operator or the device plugin."
            ),
            f"no label nvidia.com/gpu.present=true, no resource {RESOURCE}",
        )
    if not state.plugins:
        yield _finding(
            "gpu_device_plugin_missing",
            "daemonsets",
            "No DaemonSet runs NVIDIA's device plugin.",
            Remedy("Install the GPU Operator or the chart nvidia-device-plugin."),
            "no DaemonSet mounts /var/lib/kubelet/device-plugins",
        )
    for daemon_set in (*state.plugins, *state.readers):
        yield from _rollout_findings(daemon_set, state)


def _rollout_findings(daemon_set: DaemonSet, state: GpuState) -> Iterator[Finding]:
    where = f"daemonset/{daemon_set.namespace}/{daemon_set.name}"
    kubectl = f"kubectl --namespace {daemon_set.namespace}"
    if state.policy is not None and daemon_set.is_plugin and not _rendered(daemon_set, state):
        desired = "no ConfigMap"
        if state.config_name:
            default = picker_of(state).default or "none"
            desired = f"ConfigMap {state.config_name} with default {default}"
        yield _finding(
            "gpu_policy_not_taken_up",
            where,
            "The GPU Operator has not applied the ClusterPolicy to it yet.",
            Remedy.run(f"kubectl --namespace {state.namespace} logs deployment/gpu-operator"),
            f"the ClusterPolicy requests {desired}",
            f"it has ConfigMap {daemon_set.config_map or 'none'}",
        )
        return
    outdated = outdated_pods(daemon_set, state)
    if outdated:
        restart = f"{kubectl} rollout restart daemonset {daemon_set.name}"
        if daemon_set.on_delete:
            restart = f"{kubectl} delete pod {' '.join(outdated)}"
        yield _finding(
            "gpu_config_not_read",
            where,
            f"Its pods have not read the last change of ConfigMap {state.config_name}.",
            Remedy.run(restart),
            f"older than the change: {names(outdated)}",
        )
    status = daemon_set.workload.status
    expected, ready = status.desired_number_scheduled, status.number_ready
    updated = status.updated_number_scheduled
    unobserved = status.observed_generation < daemon_set.workload.metadata.generation
    if unobserved or updated < expected or ready < expected:
        plugin = daemon_set.is_plugin
        yield _finding(
            "gpu_device_plugin_not_ready" if plugin else "gpu_config_reader_not_ready",
            where,
            f"{updated} of {expected} pods are of the latest revision, and {ready} are ready.",
            Remedy.run(f"{kubectl} describe daemonset {daemon_set.name}"),
        )


def _rendered(daemon_set: DaemonSet, state: GpuState) -> bool:
    """Whether the DaemonSet is rendered from the current ClusterPolicy."""
    if (daemon_set.config_map or "") != state.config_name:
        return False
    if daemon_set.manager is None:
        return not state.config_name
    return env_of(daemon_set.manager, "DEFAULT_CONFIG") == picker_of(state).default


def outdated_pods(daemon_set: DaemonSet, state: GpuState) -> list[str]:
    """The pods that were created before the last change of the ConfigMap's data, which they read
    when they start.
    """
    config_map = state.config_map
    if config_map is None or daemon_set.config_map != state.config_name:
        return []
    changed = config_map.metadata.changed_at
    metas = [pod.metadata for pod in daemon_set.pods]
    # Times of the API have whole seconds, so a pod of the same second counts as newer: otherwise
    # one that is created right after the change would be reported for ever. If it is older after
    # all, the node's numbers show it.
    return sorted(meta.name for meta in metas if meta.creation_timestamp < changed)


def node_findings(state: GpuState) -> Iterator[Finding]:
    """Findings about nodes that differ from their configuration."""
    for node in state.gpu_nodes:
        effect = effect_on(node, state)
        where = f"node/{node.name}"
        if effect.sharing is None:
            if state.config_map is not None and effect.allowed and node.label(CONFIG_LABEL):
                yield _finding(
                    "gpu_node_config_unknown",
                    where,
                    "Its label names an unknown configuration: its device plugin cannot start.",
                    Remedy.run(f"kubectl label node {node.name} {CONFIG_LABEL}-"),
                    f"its {effect.problem}; allowed: {effect.allowed}",
                )
            continue
        yield from _mig_findings(node, effect.sharing, where)
        yield from _number_findings(node, effect.sharing, effect.config, where)
        # GPU Feature Discovery that does not read the ConfigMap labels as if nothing were shared.
        if state.policy is not None or state.readers:
            yield from _label_findings(node, effect.sharing, where)


def _mig_findings(node: GpuNode, sharing: Sharing, where: str) -> Iterator[Finding]:
    if sharing.replicas > 1 and node.mig not in ("none", sharing.mig_strategy):
        yield _finding(
            "gpu_mig_mismatch",
            where,
            "Its GPUs are partitioned by MIG, which its configuration does not set.",
            Remedy(
                "Configure sharing of MIG devices, or turn MIG off on the node.",
                ("vdi gpu configure --mig-strategy single",),
            ),
            f"strategy of the node: {node.mig}; migStrategy of its configuration:"
            f" {sharing.mig_strategy}",
        )


def _number_findings(node: GpuNode, sharing: Sharing, config: str, where: str) -> Iterator[Finding]:
    resource, other = sharing.resource, RENAMED if sharing.resource == RESOURCE else RESOURCE
    has, healthy = node.capacity(resource), node.allocatable(resource)
    expected = None
    if node.gpus is not None:
        expected = node.gpus * sharing.replicas
    configured = "no configuration"
    if config:
        configured = f"configuration {config}"
    look = Remedy.run(f"kubectl describe node {node.name}")
    if expected is None and sharing.replicas > 1:
        if has and has % sharing.replicas == 0:
            yield _finding(
                "gpu_count_unknown",
                where,
                f"It advertises {has} {resource}, but not how many GPUs it has.",
                Remedy("Run GPU Feature Discovery (the chart's value gfd.enabled=true)."),
                f"without the label nvidia.com/gpu.count, {has // sharing.replicas} x"
                f" {sharing.replicas} is a guess",
                severity=Severity.UNKNOWN,
            )
            return
        wrong = "not a multiple of" if has else "but should be shared by"
        message = f"It advertises {has} {resource}, {wrong} {sharing.replicas}."
        yield _finding("gpu_capacity_wrong", where, message, look, configured)
        return
    if expected is not None and has != expected:
        yield _finding(
            "gpu_capacity_wrong",
            where,
            f"It advertises {has} {resource} instead of {expected}.",
            look,
            f"{node.gpus} GPUs x {sharing.replicas} ({configured})",
        )
        return
    if healthy < has:
        yield _finding(
            "gpu_unhealthy",
            where,
            f"Of its {has} {resource} only {healthy} can be used: the device plugin considers a GPU"
            " unhealthy.",
            Remedy("On the node:", ("nvidia-smi", "dmesg | grep Xid")),
        )
    if sharing.replicas > 1 and node.allocatable(other):
        yield _finding(
            "gpu_resource_twice",
            where,
            f"It advertises {node.allocatable(other)} {other} beside {resource}: the device plugin has"
            " not restarted.",
            look,
        )


def _label_findings(node: GpuNode, sharing: Sharing, where: str) -> Iterator[Finding]:
    """Labels of GPU Feature Discovery that contradict the configuration. Without labels there is
    nothing to compare.
    """
    replicas, method = node.label("nvidia.com/gpu.replicas"), node.sharing_label
    wrong = []
    if replicas and sharing.replicas > 1 and replicas != str(sharing.replicas):
        wrong.append(f"nvidia.com/gpu.replicas={replicas} (expected {sharing.replicas})")
    if method and method != sharing.method:
        wrong.append(f"nvidia.com/gpu.sharing-strategy={method} (expected {sharing.method})")
    if wrong:
        mps = " GPUs are shared by MPS." if method == MPS else ""
        yield _finding(
            "gpu_labels_stale",
            where,
            f"Its labels differ from its configuration.{mps}",
            Remedy(
                "Restart the DaemonSet of GPU Feature Discovery, which writes them once a minute."
            ),
            names(wrong),
        )


def _finding(
    code: str,
    where: str,
    message: str,
    remedy: Remedy,
    *evidence: str,
    severity: Severity = Severity.ERROR,
) -> Finding:
    return Finding(
        code=code,
        severity=severity,
        object=where,
        message=message,
        remedy=remedy,
        evidence=evidence,
    )
