"""A snapshot -> what `vdi.gpu` judges, chosen by the same function as `vdi gpu verify` chooses it. Pure."""

from typing import Any

from vdi.diagnosis.snapshot import Snapshot
from vdi.gpu.sharing.state import ClusterPolicy, GpuState, active_policies, in_use, locate, observe

Object = dict[str, Any]


def config_maps_of(objects: dict[str, list[Object]], usual: str) -> list[tuple[str, str]]:
    """Namespace and name of the ConfigMaps that may decide how GPUs are shared; none on a cluster without GPUs."""
    bare = locate(_policy(objects), objects.get("daemonsets", ()))
    if not bare.plugins and bare.policy is None:
        return []
    return [(bare.namespace, name) for name in sorted({bare.config_name, usual} - {""})]


def observe_gpus(snapshot: Snapshot) -> GpuState:
    """GPUs, device plugin and configuration at the time of the snapshot."""
    pods = [pod for pod in snapshot.raw("pods") if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")]
    sets = snapshot.raw("daemonsets")
    return observe(
        locate(_policy(snapshot.objects), sets, pods),
        nodes=snapshot.raw("nodes"),
        used=in_use(pods),
        daemon_sets=sets,
        pods=pods,
        config_maps=snapshot.raw("configmaps"),
        runtime_class=snapshot.find("runtimeclasses", "nvidia") is not None,
    )


def _policy(objects: dict[str, list[Object]]) -> ClusterPolicy | None:
    return next(iter(active_policies(objects.get("clusterpolicies", ()))), None)
