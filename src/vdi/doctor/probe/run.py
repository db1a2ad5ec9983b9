"""All probes of a run (`vdi doctor --probe`), for the sessions in scope.

Besides the paths of `reach`: the TURN server, the addresses that it relays to, the memory of GPUs,
and the limit of processes.
"""

import asyncio
import base64
import ipaddress
import re
from collections.abc import Awaitable, Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from vdi.doctor.codes import make_finding
from vdi.doctor.objects.access import Party, Port, blocking
from vdi.doctor.objects.components import (
    Gateway,
    find_operators,
    find_servers,
    find_traefiks,
    gateways_in_scope,
)
from vdi.doctor.objects.references import observe_gpus
from vdi.doctor.objects.sessions import active_sessions
from vdi.doctor.probe.reach import DeniedPort, Target, probe_health, probe_here, probe_pod
from vdi.doctor.probe.turn import TurnError, allocate
from vdi.findings.model import Finding, Remedy
from vdi.gpu.cluster import measure
from vdi.gpu.sharing.dcgm import GpuMeasurements
from vdi.kube.clock import Clock
from vdi.kube.errors import ApiError
from vdi.kube.resource import NODES, PODS, SECRETS
from vdi.kube.transport import Client
from vdi.session.credentials import make_turn_credentials
from vdi.session.effective import Desktop
from vdi.snapshot.model import Snapshot

# The path to the desktops is the same for all: a few of them are enough.
_MAX_SESSIONS = 3
_MAX_TEMPLATES = 2
# Port of the operator's probes and metrics (VDI_METRICS_ADDR in the chart).
_METRICS_PORT = 8081
# Used share of a GPU's memory from which it is reported.
_FULL = 0.95
# Names in the chart: the gateway's variable and volume, the volumes of coturn, and the files in
# them.
_TURN_URLS, _TURN_VOLUME, _TURN_SECRET = "VDI_TURN_URLS", "turn", "secret"
_SERVER_VOLUME = "auth"
_CONFIG_VOLUME, _CONFIG_KEY = "config", "turnserver.conf"
_UDP_URL = re.compile(r"turn:\[?(?P<host>[^\]?]+?)\]?:(?P<port>\d+)\?transport=udp")
_ALLOWED = re.compile(r"^allowed-peer-ip=(?P<first>[^\s-]+)(?:-(?P<last>\S+))?$", re.MULTILINE)
_CREDENTIALS_LIFETIME = timedelta(minutes=2)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


async def probe(client: Client, snapshot: Snapshot, clock: Clock) -> list[Finding]:
    """Findings of all probes. Creates a pod, with a volume, for each template that is tried, and
    removes them, also when it is cancelled.
    """
    ready = [one for one in active_sessions(snapshot) if one.pod and one.pod.ready]
    newest = [one for one in ready if one.session.status.url][-_MAX_SESSIONS:]
    gateways = gateways_in_scope(snapshot)
    behind = [component.object for component in (*find_traefiks(snapshot), *gateways)]
    targets, probes = [], []
    pods: dict[str, tuple[str, str]] = {}
    nodes = set()
    for one in newest:
        url, related = one.session.status.url or "", (*one.related_objects, *behind)
        targets.append(Target(one.object, url, related))
        if one.pod:
            pods[one.object] = (one.namespace, one.pod.metadata.name)
            nodes.add(one.pod.spec.node_name)
            # A desktop without a probe path asks for a password at each of its pages.
            if isinstance(one.desktop, Desktop) and (path := one.desktop.probe_path):
                health = probe_health(client, one.object, one.pod, one.desktop.port, path)
                probes.append(_if_allowed("pods/proxy", health))
    namespace = snapshot.scope.namespace or (newest[0].namespace if newest else "")
    names = sorted({one.template_name for one in newest} & set(snapshot.templates))
    # One pod is enough to try the policies.
    denied = find_denied_port(snapshot, namespace)
    for name in names[:_MAX_TEMPLATES]:
        pod = probe_pod(client, namespace, snapshot.templates[name], clock, denied)
        probes.append(_if_allowed("pods", pod))
        denied = None
    for gateway in gateways:
        turn = probe_turn(client, snapshot, gateway, clock.now())
        probes.append(_if_allowed("secrets", turn))
    results = await asyncio.gather(
        probe_here(targets),
        *probes,
        _if_allowed("secrets", probe_peers(client, snapshot, pods)),
        probe_gpu_memory(client, snapshot),
        _if_allowed("nodes/proxy", probe_process_limits(client, nodes)),
    )
    # The same missing permission stops several probes, and is one finding.
    by_key = {finding.key: finding for findings in results for finding in findings}
    return list(by_key.values())


async def _if_allowed(kind: str, probing: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await probing
    except ApiError as error:
        return [_unknown(kind, error.message)]


def _unknown(kind: str, why: str) -> Finding:
    return make_finding(
        "not_readable",
        f"probe/{kind}",
        f"A probe could not run: {why}",
        evidence=[why],
        remedy=Remedy("With the account that runs the doctor:", ("kubectl auth can-i --list",)),
    )


def find_denied_port(snapshot: Snapshot, namespace: str) -> DeniedPort | None:
    """A port of an operator that the policies deny to this namespace's desktops; None: they deny
    none.
    """
    desktop = Party("a desktop", namespace, {"app.kubernetes.io/managed-by": "vdi-operator"})
    for operator in find_operators(snapshot):
        pods = [pod for pod in operator.pods(snapshot) if pod.ready]
        if not pods or namespace not in operator.watches:
            continue
        target = Party("the operator", operator.namespace, dict(pods[0].metadata.labels))
        if blocked := blocking(snapshot, desktop, target, Port(_METRICS_PORT, "metrics")):
            policies = [
                f"networkpolicy/{one.metadata.namespace}/{one.metadata.name}" for one in blocked[1]
            ]
            release = operator.raw.metadata.labels.get("app.kubernetes.io/instance", operator.name)
            return DeniedPort(
                operator.object,
                operator.namespace,
                pods[0].metadata.name,
                _METRICS_PORT,
                tuple(policies),
                Remedy.run(f"helm test {release} --namespace {operator.namespace} --logs"),
            )
    return None


async def probe_turn(
    client: Client, snapshot: Snapshot, gateway: Gateway, now: datetime
) -> list[Finding]:
    """An allocation at the TURN server that the gateway names to browsers, with credentials like
    the gateway's.

    Raises ApiError where its Secret may not be read.
    """
    urls, name, key = turn_settings(snapshot, gateway)
    match = _UDP_URL.search(urls)
    if not match:
        return []
    if not name:
        return [
            _unknown(
                "secrets", f"neither {gateway.object} nor a coturn names the TURN server's Secret"
            )
        ]
    held: dict[str, Any] = await client.get(
        SECRETS, name, namespace=gateway.namespace, into=dict[str, Any]
    )
    if key not in (held.get("data") or {}):
        return [_unknown("secrets", f"Secret {gateway.namespace}/{name} has no key {key!r}")]
    # A Secret made from a file may end with a line feed, which gateway and server leave out too.
    secret = base64.b64decode(held["data"][key]).decode(errors="replace").strip()
    username, password = make_turn_credentials(secret, "vdi-doctor", now + _CREDENTIALS_LIFETIME)
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
                    "Open the port for UDP, or run helm upgrade so that server and gateway have the"
                    " same secret."
                ),
                related_objects=[
                    name
                    for server in find_servers(snapshot, "coturn")
                    for name in (
                        server.object,
                        *(
                            f"pod/{server.namespace}/{one.metadata.name}"
                            for one in snapshot.pods_of(server.raw)
                        ),
                    )
                ],
            )
        ]
    return []


def turn_settings(snapshot: Snapshot, gateway: Gateway) -> tuple[str, str, str]:
    """The TURN server's URLs as the gateway gives them to browsers, and name and key of its Secret;
    empty: none.

    Where the gateway creates the secret itself, it mounts no Secret, and the chart's own coturn
    names it.
    """
    variables = [
        variable
        for container in gateway.pod_spec.containers
        if container.name == "gateway"
        for variable in container.env
    ]
    urls = next((variable.value for variable in variables if variable.name == _TURN_URLS), "")
    servers = []
    for server in find_servers(snapshot, "coturn"):
        if server.namespace == gateway.namespace:
            servers.append(server)
    for name, workload in (
        (_TURN_VOLUME, gateway),
        *((_SERVER_VOLUME, server) for server in servers),
    ):
        held = workload.secret_of_volume(name)
        if held:
            keys = [item.key for item in held.items if item.path == _TURN_SECRET]
            return urls, held.secret_name, (keys or [_TURN_SECRET])[0]
    return urls, "", ""


async def probe_peers(
    client: Client, snapshot: Snapshot, pods: Mapping[str, tuple[str, str]]
) -> list[Finding]:
    """TURN servers of the release that do not relay to the desktops. `pods`: namespace and name by
    session's object.

    Raises ApiError where Secrets or pods may not be read.
    """
    findings = []
    for server in find_servers(snapshot, "coturn"):
        volume = server.secret_of_volume(_CONFIG_VOLUME)
        if volume is None:
            continue
        held: Any = await client.get(
            SECRETS, volume.secret_name, namespace=server.namespace, into=dict[str, Any]
        )
        config = base64.b64decode((held.get("data") or {}).get(_CONFIG_KEY, "")).decode()
        for session, (where, pod) in pods.items():
            there: Any = await client.get(PODS, pod, namespace=where, into=dict[str, Any])
            addresses = [
                ipaddress.ip_address(one["ip"])
                for one in (there.get("status") or {}).get("podIPs") or ()
            ]
            denied = [address for address in addresses if not is_allowed(config, address)]
            if denied:
                findings.append(
                    make_finding(
                        "turn_peers_denied",
                        server.object,
                        f"The TURN server does not relay to desktops: the pod of {session} has the"
                        f" address {denied[0]}, which is in none of the allowed ranges.",
                        evidence=[match[0] for match in _ALLOWED.finditer(config)]
                        or ["no allowed-peer-ip at all"],
                        remedy=Remedy(
                            "Run helm upgrade with a coturn.allowedPeers that includes the pods'"
                            f" range with {denied[0]}."
                        ),
                        related_objects=[session],
                    )
                )
                break
    return findings


def is_allowed(config: str, address: _Address) -> bool:
    """Whether a turnserver.conf allows this address as a peer."""
    for match in _ALLOWED.finditer(config):
        first = ipaddress.ip_address(match["first"])
        last = ipaddress.ip_address(match["last"] or match["first"])
        if first.version == address.version and int(first) <= int(address) <= int(last):
            return True
    return False


async def probe_process_limits(client: Client, nodes: Collection[str]) -> list[Finding]:
    """Nodes whose kubelet limits the processes of no pod. Raises ApiError where its configuration
    may not be read.
    """
    findings = []
    for node in sorted(nodes):
        configuration: Any = await client.get(
            NODES, node, subresource="proxy/configz", into=dict[str, Any]
        )
        limit = (configuration.get("kubeletconfig") or {}).get("podPidsLimit", -1)
        if limit <= 0:
            findings.append(
                make_finding(
                    "processes_unlimited",
                    f"node/{node}",
                    f"The kubelet of node {node} does not limit the processes of a pod: one desktop"
                    " can use up the node's process IDs.",
                    evidence=[f"podPidsLimit: {limit}"],
                    remedy=Remedy.run(f"kubectl get --raw /api/v1/nodes/{node}/proxy/configz"),
                )
            )
    return findings


async def probe_gpu_memory(client: Client, snapshot: Snapshot) -> list[Finding]:
    """GPUs whose memory is nearly used up, where a DCGM exporter measures it: slices of a GPU share
    its memory.
    """
    return list(judge_memory(await measure(client, observe_gpus(snapshot))))


def judge_memory(measured: GpuMeasurements) -> Iterator[Finding]:
    """Findings about GPUs with nearly no free memory."""
    for node, gpus in sorted(measured.nodes.items()):
        for gpu in gpus:
            if gpu.memory and gpu.memory_used is not None and gpu.memory_used / gpu.memory >= _FULL:
                used = f"{gpu.memory_used} of {gpu.memory} MiB"
                yield make_finding(
                    "gpu_memory_full",
                    f"node/{node}",
                    f"The memory of GPU {gpu.index} ({gpu.model}) is nearly used up, {used}: the"
                    " next desktop that needs more fails, because slicing does not limit memory.",
                    evidence=[f"DCGM_FI_DEV_FB_USED: {used}"],
                    remedy=Remedy(
                        "Suspend a desktop on that node (vdi session suspend), or share the GPU"
                        " among fewer (vdi gpu configure --replicas).",
                        ("vdi session ls -o wide",),
                    ),
                )
