"""The reading half of the edge: fetches from the API server what `GpuState` is made of."""

import asyncio
from collections import Counter
from typing import Any

from vdi.gpu.sharing.changes import CLUSTER_POLICIES, RUNTIME_CLASSES
from vdi.gpu.sharing.effect import DEFAULT_NAME
from vdi.gpu.sharing.request import RefusedError
from vdi.gpu.sharing.state import ClusterPolicy, GpuState, active_policies, in_use, locate, names, observe
from vdi.kube.errors import NotFound
from vdi.kube.resource import CONFIG_MAPS, DAEMON_SETS, NODES, PODS
from vdi.kube.transport import Client

Raw = dict[str, Any]


async def collect(client: Client, *, usage: bool = True) -> GpuState:
    """The state of GPUs, device plugin and configuration; `usage` reads all pods of the cluster for what is in use.

    Raises a KubeError; RefusedError for several ClusterPolicies.
    """
    nodes, sets, policy, used = await asyncio.gather(
        client.list(NODES, into=Raw), client.list(DAEMON_SETS, into=Raw), _policy(client), _in_use(client, usage)
    )
    namespace = locate(policy, sets).namespace
    pods = await client.list(PODS, namespace=namespace, into=Raw)
    bare = locate(policy, sets, pods)
    maps = [await _config_map(client, namespace, name) for name in sorted({bare.config_name, DEFAULT_NAME} - {""})]
    return observe(
        bare,
        nodes=nodes,
        used=used,
        daemon_sets=sets,
        pods=pods,
        config_maps=[each for each in maps if each is not None],
        runtime_class=await _there(client, "nvidia"),
    )


async def _policy(client: Client) -> ClusterPolicy | None:
    """The ClusterPolicy; None on a cluster without the GPU Operator."""
    try:
        active = active_policies(await client.list(CLUSTER_POLICIES, into=Raw))
    except NotFound:
        return None
    if len(active) > 1:
        there = names(each.name for each in active)
        raise RefusedError(
            [f"There are several ClusterPolicies: {there}; allowed: one, because the GPU Operator uses only one."]
        )
    return active[0] if active else None


async def _config_map(client: Client, namespace: str, name: str) -> Raw | None:
    try:
        return await client.get(CONFIG_MAPS, name, namespace=namespace, into=Raw)
    except NotFound:
        return None


async def _there(client: Client, runtime_class: str) -> bool:
    try:
        await client.get(RUNTIME_CLASSES, runtime_class, into=Raw)
    except NotFound:
        return False
    return True


async def _in_use(client: Client, desired: bool) -> Counter[str]:
    """GPUs that pods ask for, by node."""
    if not desired:
        return Counter()
    placed = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
    return in_use(await client.list(PODS, field_selector=placed, into=Raw))
