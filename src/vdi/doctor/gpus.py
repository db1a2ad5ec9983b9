"""A snapshot -> what `vdi.gpu` judges. Pure: which objects these are is decided as `vdi.gpu.collect` decides it."""

from collections import Counter
from typing import Any

from vdi.doctor.snapshot import Snapshot
from vdi.gpu.manifest import OPERATOR_NAMESPACE
from vdi.gpu.observed import ConfigMap, DaemonSet, Node, Observed, Policy
from vdi.gpu.sharing import RENAMED, RESOURCE

Object = dict[str, Any]


def config_maps_of(objects: dict[str, list[Object]], usual: str) -> list[tuple[str, str]]:
    """Namespace and name of the ConfigMaps that may decide how GPUs are shared; none on a cluster without GPUs."""
    observed = _bare(objects, ())
    if not observed.plugins and observed.policy is None:
        return []
    return [(observed.namespace, name) for name in sorted({observed.config_name, usual} - {""})]


def observe_gpus(snapshot: Snapshot) -> Observed:
    """GPUs, device plugin and configuration at the time of the snapshot."""
    pods = [one for one in snapshot.raw("pods") if one.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    bare = _bare(snapshot.objects, pods)
    maps = [ConfigMap(one) for one in snapshot.raw("configmaps")]
    used: Counter[str] = Counter()
    for pod in pods:
        if node := pod["spec"].get("nodeName"):
            used[node] += sum(_asked(container) for container in pod["spec"]["containers"])
    return Observed(
        bare.namespace,
        nodes=tuple(Node(one, used[one["metadata"]["name"]]) for one in snapshot.raw("nodes")),
        plugins=bare.plugins,
        readers=tuple(
            one
            for one in (DaemonSet(raw, _pods_of(raw, pods)) for raw in snapshot.raw("daemonsets"))
            if one.namespace == bare.namespace
            and not one.is_plugin
            and one.config_map
            and one.config_map == bare.config_name
        ),
        policy=bare.policy,
        config_maps={one.name: one for one in maps},
        runtime_class=snapshot.find("runtimeclasses", "nvidia") is not None,
    )


def _bare(objects: dict[str, list[Object]], pods: Any) -> Observed:
    active = [one for one in objects.get("clusterpolicies", ()) if one.get("status", {}).get("state") != "ignored"]
    policy = Policy(active[0]) if active else None
    plugins = [DaemonSet(one, _pods_of(one, pods)) for one in objects.get("daemonsets", ())]
    plugins = [one for one in plugins if one.is_plugin]
    told = str((policy.raw.get("status") or {}).get("namespace") or "") if policy else ""
    namespace = told or (plugins[0].namespace if plugins else OPERATOR_NAMESPACE)
    mine = [one for one in plugins if policy is None or one.namespace == namespace]
    return Observed(namespace, plugins=tuple(mine), policy=policy)


def _pods_of(daemon_set: Object, pods: Any) -> tuple[Object, ...]:
    uid = daemon_set["metadata"].get("uid")
    return tuple(
        pod
        for pod in pods
        if any(one.get("uid") == uid for one in pod["metadata"].get("ownerReferences") or ())
        and "deletionTimestamp" not in pod["metadata"]
    )


def _asked(container: Object) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(int(limits[each]) for each in (RESOURCE, RENAMED) if str(limits.get(each, "")).isdigit())
