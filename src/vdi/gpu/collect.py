"""The reading half of the edge: fetches from the API server what `Observed` is made of."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vdi.gpu.effect import DEFAULT_NAME
from vdi.gpu.manifest import OPERATOR_NAMESPACE
from vdi.gpu.observed import ConfigMap, DaemonSet, Node, Observed, Policy, names
from vdi.gpu.sharing import RENAMED, RESOURCE
from vdi.gpu.steps import CLUSTER_POLICIES, CONFIG_MAPS, DAEMON_SETS, RUNTIME_CLASSES
from vdi.gpu.wish import RefusedError
from vdi.kube.errors import NotFound
from vdi.kube.resource import NODES, PODS
from vdi.kube.transport import Client

Raw = dict[str, Any]


async def collect(client: Client, *, usage: bool = True) -> Observed:
    """The state of GPUs, device plugin and configuration; `usage` reads all pods of the cluster for what is in use.

    Raises a KubeError; RefusedError for several ClusterPolicies.
    """
    nodes, sets, policy, used = await asyncio.gather(
        client.list(NODES, into=Raw), client.list(DAEMON_SETS, into=Raw), _policy(client), _in_use(client, usage)
    )
    namespace = _namespace(policy, [each for each in map(DaemonSet, sets) if each.is_plugin])
    pods = await client.list(PODS, namespace=namespace, into=Raw)
    daemon_sets = [DaemonSet(each, _pods_of(each, pods)) for each in sets]
    plugins = [each for each in daemon_sets if each.is_plugin]
    if policy is not None:
        plugins = [each for each in plugins if each.namespace == namespace]
    bare = Observed(namespace, plugins=tuple(plugins), policy=policy)
    maps = [await _config_map(client, namespace, name) for name in sorted({bare.config_name, DEFAULT_NAME} - {""})]
    return Observed(
        namespace,
        nodes=tuple(Node(each, used[str(each["metadata"]["name"])]) for each in nodes),
        plugins=tuple(plugins),
        readers=tuple(
            each
            for each in daemon_sets
            if each.namespace == namespace and not each.is_plugin and _reads(each, bare.config_name)
        ),
        policy=policy,
        config_maps={each.name: each for each in maps if each is not None},
        runtime_class=await _there(client, "nvidia"),
    )


def _reads(daemon_set: DaemonSet, name: str) -> bool:
    return bool(name) and daemon_set.config_map == name


async def _policy(client: Client) -> Policy | None:
    """The ClusterPolicy; None on a cluster without the GPU Operator. The Operator ignores all but one."""
    try:
        found = await client.list(CLUSTER_POLICIES, into=Raw)
    except NotFound:
        return None
    active = [each for each in found if each.get("status", {}).get("state") != "ignored"]
    if len(active) > 1:
        there = names(str(each["metadata"]["name"]) for each in active)
        raise RefusedError(
            [f"There are several ClusterPolicies: {there}; allowed: one, since the GPU Operator obeys one."]
        )
    return Policy(active[0]) if active else None


def _namespace(policy: Policy | None, plugins: list[DaemonSet]) -> str:
    """Where ConfigMap and device plugin live. The ClusterPolicy's status says where its Operator is."""
    told = str(policy.raw.get("status", {}).get("namespace") or "") if policy else ""
    return told or (plugins[0].namespace if plugins else OPERATOR_NAMESPACE)


async def _config_map(client: Client, namespace: str, name: str) -> ConfigMap | None:
    try:
        return ConfigMap(await client.get(CONFIG_MAPS, name, namespace=namespace, into=Raw))
    except NotFound:
        return None


async def _there(client: Client, runtime_class: str) -> bool:
    try:
        await client.get(RUNTIME_CLASSES, runtime_class, into=Raw)
    except NotFound:
        return False
    return True


def _pods_of(daemon_set: Raw, pods: list[Raw]) -> tuple[Raw, ...]:
    uid = daemon_set["metadata"]["uid"]
    return tuple(
        pod
        for pod in pods
        if any(each.get("uid") == uid for each in pod["metadata"].get("ownerReferences") or ())
        and "deletionTimestamp" not in pod["metadata"]
    )


async def _in_use(client: Client, wanted: bool) -> Counter[str]:
    """GPUs that pods ask for, by node."""
    used: Counter[str] = Counter()
    if wanted:
        placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
        for pod in await client.list(PODS, field_selector=placed, into=Raw):
            used[pod["spec"]["nodeName"]] += sum(_asked(container) for container in pod["spec"]["containers"])
    return used


def _asked(container: Mapping[str, Any]) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return sum(int(limits[each]) for each in (RESOURCE, RENAMED) if str(limits.get(each, "")).isdigit())
