"""What desktops share and no object shows: the memory of a GPU, and whom the TURN server relays to."""

import base64
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.checks.registry import found
from vdi.doctor.objects.gpus import observe_gpus
from vdi.doctor.objects.workloads import Workload, find_turn_servers
from vdi.findings.model import Finding, Remedy
from vdi.gpu.measure import measure
from vdi.gpu.sharing.dcgm import GpuMeasurements
from vdi.kube.resource import PODS, SECRETS
from vdi.kube.transport import Client

_FULL = 0.95
_CONFIG_VOLUME, _CONFIG_KEY = "config", "turnserver.conf"
_ALLOWED = re.compile(r"^allowed-peer-ip=(?P<first>[^\s-]+)(?:-(?P<last>\S+))?$", re.MULTILINE)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def probe_gpu_memory(client: Client, snapshot: Snapshot) -> list[Finding]:
    """GPUs that are nearly full, as far as an exporter says: slices of one GPU take each other's memory (C4)."""
    nodes = [node.name for node in observe_gpus(snapshot).gpu_nodes]
    return list(judge_memory(await measure(client, nodes))) if nodes else []


def judge_memory(measured: GpuMeasurements) -> Iterator[Finding]:
    """What is nearly used up."""
    for node, gpus in sorted(measured.nodes.items()):
        for gpu in gpus:
            if gpu.memory and gpu.memory_used is not None and gpu.memory_used / gpu.memory >= _FULL:
                words = f"{gpu.memory_used} of {gpu.memory} MiB"
                yield found(
                    "gpu_memory_full",
                    f"node/{node}",
                    f"The memory of GPU {gpu.index} ({gpu.model}) is nearly used up, {words}: the next desktop that "
                    "needs more fails, because slicing does not limit memory.",
                    evidence=[f"DCGM_FI_DEV_FB_USED: {words}"],
                    remedy=Remedy(
                        "Suspend a desktop on that node (vdi session suspend), or share the GPU among fewer"
                        " (vdi gpu configure --replicas).",
                        ("vdi session ls -o wide",),
                    ),
                    related_objects=[f"node/{node}"],
                )


async def probe_peers(client: Client, snapshot: Snapshot, pods: Mapping[str, tuple[str, str]]) -> list[Finding]:
    """Whether the release's TURN server relays to the desktops. `pods`: namespace and name by session's object.

    Raises ApiError where Secrets or pods may not be read.
    """
    findings = []
    for server in find_turn_servers(snapshot):
        name = _config_secret(server)
        if not name:
            continue
        held: Any = await client.get(SECRETS, name, namespace=server.namespace, into=dict[str, Any])
        config = base64.b64decode((held.get("data") or {}).get(_CONFIG_KEY, "")).decode()
        for session, (where, pod) in pods.items():
            there: Any = await client.get(PODS, pod, namespace=where, into=dict[str, Any])
            denied = [ip for ip in _addresses(there) if not is_allowed(config, ip)]
            if denied:
                findings.append(
                    found(
                        "turn_peers_denied",
                        server.object,
                        f"The TURN server does not relay to desktops: the pod of {session} has the address "
                        f"{denied[0]}, which is in none of the allowed ranges.",
                        evidence=[match[0] for match in _ALLOWED.finditer(config)] or ["no allowed-peer-ip at all"],
                        remedy=Remedy(
                            "Run helm upgrade with a coturn.allowedPeers that includes the pods' range with "
                            f"{denied[0]}."
                        ),
                        related_objects=[session],
                    )
                )
                break
    return findings


def is_allowed(config: str, address: Address) -> bool:
    """Whether a turnserver.conf lets this peer be relayed to."""
    for match in _ALLOWED.finditer(config):
        first = ipaddress.ip_address(match["first"])
        last = ipaddress.ip_address(match["last"] or match["first"])
        if first.version == address.version and int(first) <= int(address) <= int(last):
            return True
    return False


def _config_secret(server: Workload) -> str:
    """Name of the Secret with its configuration; empty: it has none."""
    volumes = server.raw["spec"]["template"]["spec"].get("volumes") or ()
    found = (
        volume["secret"]["secretName"] for volume in volumes if volume["name"] == _CONFIG_VOLUME and "secret" in volume
    )
    return next(found, "")


def _addresses(pod: Raw) -> list[Address]:
    """What desktops are reached at."""
    return [ipaddress.ip_address(pod_ip["ip"]) for pod_ip in (pod.get("status") or {}).get("podIPs") or ()]
