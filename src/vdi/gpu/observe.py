"""The API's objects -> `Observed`: which of them decide how GPUs are shared. Pure; for `collect` and for the doctor."""

from collections import Counter
from collections.abc import Iterable, Sequence

from vdi.gpu.manifest import OPERATOR_NAMESPACE
from vdi.gpu.observed import ConfigMap, DaemonSet, Node, Observed, Policy, Raw
from vdi.gpu.sharing import RENAMED, RESOURCE


def active_policies(policies: Iterable[Raw]) -> list[Policy]:
    """The ClusterPolicies that the GPU Operator obeys: it ignores all but one, and says so in their status."""
    return [Policy(each) for each in policies if each.get("status", {}).get("state") != "ignored"]


def locate(policy: Policy | None, daemon_sets: Iterable[Raw], pods: Sequence[Raw] = ()) -> Observed:
    """Where ConfigMap and device plugin live, and the plugin's DaemonSets; the ClusterPolicy's status says where."""
    plugins = [DaemonSet(each, pods_of(each, pods)) for each in daemon_sets]
    plugins = [each for each in plugins if each.is_plugin]
    told = str((policy.raw.get("status") or {}).get("namespace") or "") if policy else ""
    namespace = told or (plugins[0].namespace if plugins else OPERATOR_NAMESPACE)
    mine = [each for each in plugins if policy is None or each.namespace == namespace]
    return Observed(namespace, plugins=tuple(mine), policy=policy)


def observe(
    bare: Observed,
    *,
    nodes: Iterable[Raw],
    used: Counter[str],
    daemon_sets: Iterable[Raw],
    pods: Sequence[Raw],
    config_maps: Iterable[Raw],
    runtime_class: bool,
) -> Observed:
    """What `locate` has found, with all that is judged. `used`: GPUs asked for, by node; `pods`: the plugins' own."""
    readers = [DaemonSet(each, pods_of(each, pods)) for each in daemon_sets]
    return Observed(
        bare.namespace,
        nodes=tuple(Node(each, used[str(each["metadata"]["name"])]) for each in nodes),
        plugins=bare.plugins,
        readers=tuple(each for each in readers if _reads(each, bare)),
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


def _reads(daemon_set: DaemonSet, bare: Observed) -> bool:
    """Whether it reads the plugin's configuration without being the plugin: GPU Feature Discovery."""
    if daemon_set.is_plugin or daemon_set.namespace != bare.namespace:
        return False
    return bool(bare.config_name) and daemon_set.config_map == bare.config_name


def pods_of(daemon_set: Raw, pods: Iterable[Raw]) -> tuple[Raw, ...]:
    """Those of the pods that are the DaemonSet's own, and that nobody deletes."""
    uid = daemon_set["metadata"].get("uid")
    return tuple(
        pod
        for pod in pods
        if any(each.get("uid") == uid for each in pod["metadata"].get("ownerReferences") or ())
        and "deletionTimestamp" not in pod["metadata"]
    )


def _asked(container: Raw) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(int(limits[each]) for each in (RESOURCE, RENAMED) if str(limits.get(each, "")).isdigit())
