"""All probes of a run (`vdi doctor --probe`), for the sessions in scope.

Besides the paths of `reach`: the TURN server, the addresses that it relays to, and the memory of GPUs.
"""

import asyncio
import base64
import ipaddress
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.access import Party, Port, blocking
from vdi.doctor.objects.components import (
    Gateway,
    Workload,
    find_operators,
    find_traefiks,
    find_turn_servers,
    gateways_in_scope,
    pods_of,
)
from vdi.doctor.objects.references import observe_gpus
from vdi.doctor.objects.sessions import SessionDiagnosis, active, diagnose_sessions
from vdi.doctor.probe.reach import DeniedPort, Target, probe_health, probe_here, probe_pod
from vdi.doctor.probe.turn import TurnError, allocate
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gpu.cluster import measure
from vdi.gpu.sharing.dcgm import GpuMeasurements
from vdi.kube.clock import Clock
from vdi.kube.errors import ApiError, Forbidden
from vdi.kube.resource import PODS, SECRETS
from vdi.kube.transport import Client
from vdi.session.credentials import make_turn_credentials
from vdi.session.effective import Desktop

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
                yield make_finding(
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
                    make_finding(
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


# Where the operator's probes and metrics are (VDI_METRICS_ADDR in the chart).
_METRICS_PORT = 8081
# So many of those that run are tried: the way in is the same for all of them.
_SESSIONS = 3
_TEMPLATES = 2
# As the chart gives them to the gateway: variable, volume, and file in it.
_TURN_URLS, _TURN_VOLUME, _TURN_SECRET = "VDI_TURN_URLS", "turn", "secret"
# The volume of the chart's coturn with the same file.
_SERVER_VOLUME = "auth"
_UDP_URL = re.compile(r"turn:\[?(?P<host>[^\]?]+?)\]?:(?P<port>\d+)\?transport=udp")
_VALID = timedelta(minutes=2)


async def probe(client: Client, snapshot: Snapshot, clock: Clock) -> list[Finding]:
    """What trying shows. Makes one pod with a volume for each template that is tried, and removes them."""
    tried = [one for one in active(diagnose_sessions(snapshot)) if one.pod and one.pod.ready and one.session.status.url]
    tried = tried[-_SESSIONS:]
    templates = sorted({diagnosis.session.spec.template for diagnosis in tried} & set(snapshot.templates))[:_TEMPLATES]
    namespace = snapshot.scope.namespace or (tried[0].namespace if tried else "")
    behind = [traefik.object for traefik in find_traefiks(snapshot)] + [
        gateway.object for gateway in gateways_in_scope(snapshot)
    ]
    denied = find_denied_port(snapshot, namespace)
    lists = await asyncio.gather(
        probe_here(
            [
                Target(diagnosis.object, diagnosis.session.status.url or "", (*diagnosis.related_objects, *behind))
                for diagnosis in tried
            ]
        ),
        *(
            _health(client, diagnosis, diagnosis.desktop)
            for diagnosis in tried
            # One without a path asks for a password at each of its pages.
            if isinstance(diagnosis.desktop, Desktop) and diagnosis.desktop.probe_path
        ),
        *(
            _pod(client, namespace, snapshot, name, clock, denied if name == templates[0] else None)
            for name in templates
        ),
        *(_turn(client, snapshot, gateway, clock.now()) for gateway in gateways_in_scope(snapshot)),
        _peers(client, snapshot, tried),
        probe_gpu_memory(client, snapshot),
    )
    return [finding for each in lists for finding in each]


async def _health(client: Client, diagnosis: SessionDiagnosis, desktop: Desktop) -> list[Finding]:
    pod = diagnosis.pod
    assert pod is not None  # noqa: S101 -- chosen for it
    try:
        silent = await probe_health(client, diagnosis.object, pod, desktop.port, desktop.probe_path)
    except Forbidden as error:
        return [_unknown("pods/proxy", error.message)]
    return [silent] if silent else []


async def _pod(
    client: Client, namespace: str, snapshot: Snapshot, name: str, clock: Clock, denied: DeniedPort | None
) -> list[Finding]:
    try:
        finding = await probe_pod(client, namespace, snapshot.templates[name], clock, denied)
    except ApiError as error:
        return [_unknown("pods", error.message)]
    return [finding] if finding else []


def find_denied_port(snapshot: Snapshot, namespace: str) -> DeniedPort | None:
    """A port of an operator that the policies deny to this namespace's desktops; None: they deny none."""
    desktop = Party("a desktop", namespace, {"app.kubernetes.io/managed-by": "vdi-operator"})
    for operator in find_operators(snapshot):
        pods = [pod for pod in pods_of(snapshot, operator) if pod.ready]
        if not pods or namespace not in operator.watches:
            continue
        target = Party("the operator", operator.namespace, dict(pods[0].metadata.labels))
        blocked = blocking(snapshot, desktop, target, Port(_METRICS_PORT, "metrics"))
        if blocked:
            policies = [f"networkpolicy/{one['metadata']['namespace']}/{one['metadata']['name']}" for one in blocked[1]]
            release = (operator.raw["metadata"].get("labels") or {}).get("app.kubernetes.io/instance", operator.name)
            return DeniedPort(
                operator.object,
                operator.namespace,
                pods[0].metadata.name,
                _METRICS_PORT,
                tuple(policies),
                Remedy.run(f"helm test {release} --namespace {operator.namespace} --logs"),
            )
    return None


async def _peers(client: Client, snapshot: Snapshot, tried: list[SessionDiagnosis]) -> list[Finding]:
    pods = {
        diagnosis.object: (diagnosis.namespace, diagnosis.pod.metadata.name) for diagnosis in tried if diagnosis.pod
    }
    try:
        return await probe_peers(client, snapshot, pods)
    except ApiError as error:
        return [_unknown("secrets", error.message)]


async def _turn(client: Client, snapshot: Snapshot, gateway: Gateway, now: datetime) -> list[Finding]:
    """The TURN server that the gateway names to browsers, with credentials as it makes them."""
    urls, name, key = turn_settings(snapshot, gateway)
    match = _UDP_URL.search(urls)
    if not match:
        return []
    if not name:
        return [_unknown("secrets", f"neither {gateway.object} nor a coturn names the TURN server's Secret")]
    try:
        held: dict[str, Any] = await client.get(SECRETS, name, namespace=gateway.namespace, into=dict[str, Any])
    except ApiError as error:
        return [_unknown("secrets", error.message)]
    if key not in (held.get("data") or {}):
        return [_unknown("secrets", f"Secret {gateway.namespace}/{name} has no key {key!r}")]
    secret = base64.b64decode(held["data"][key]).decode(errors="replace").strip()  # as gateway and server do
    username, password = make_turn_credentials(secret, "vdi-doctor", now + _VALID)
    try:
        await allocate(match["host"], int(match["port"]), username, password)
    except TurnError as error:
        return [
            make_finding(
                "probe_turn_refused",
                f"turn/{match['host']}:{match['port']}",
                f"The TURN server allocates no relay address: {error}.",
                evidence=[f"{gateway.object}: {_TURN_URLS}={urls}"],
                remedy=Remedy(
                    "Open the port for UDP, or run helm upgrade so that server and gateway have the same secret."
                ),
                related_objects=[f"deployment/{gateway.namespace}/coturn", f"daemonset/{gateway.namespace}/coturn"],
            )
        ]
    return []


def turn_settings(snapshot: Snapshot, gateway: Gateway) -> tuple[str, str, str]:
    """The TURN server's URLs as the gateway gives them to browsers; name and key of the Secret; empty: none.

    Where the gateway makes the secret itself, it has no volume of the Secret, and the chart's own coturn names it.
    """
    pod = gateway.raw["spec"]["template"]["spec"]
    variables = [
        variable
        for container in pod["containers"]
        if container["name"] == "gateway"
        for variable in container.get("env") or ()
    ]
    urls = next((variable.get("value", "") for variable in variables if variable["name"] == _TURN_URLS), "")
    servers = [one for one in find_turn_servers(snapshot) if one.namespace == gateway.namespace]
    for name, workload in ((_TURN_VOLUME, gateway), *((_SERVER_VOLUME, server) for server in servers)):
        for volume in workload.raw["spec"]["template"]["spec"].get("volumes") or ():
            held = volume.get("secret") or {}
            if volume["name"] == name and held.get("secretName"):
                keys = [item["key"] for item in held.get("items") or () if item["path"] == _TURN_SECRET]
                return urls, held["secretName"], (keys or [_TURN_SECRET])[0]
    return urls, "", ""


def _unknown(kind: str, why: str) -> Finding:
    return make_finding(
        "not_readable",
        f"probe/{kind}",
        f"A probe could not run: {why}",
        evidence=[why],
        remedy=Remedy("With the account that runs the doctor:", ("kubectl auth can-i --list",)),
        severity=Severity.UNKNOWN,
    )
