"""Checks of the cluster around a desktop: DNS, TURN server, network policies, clocks, and the API
server itself.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

from vdi.doctor.checks.infrastructure import node_tools
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.access import Party, Port, blocking
from vdi.doctor.objects.components import (
    Workload,
    find_gateways,
    find_operators,
    find_servers,
    find_traefiks,
    read_lease,
    workloads,
)
from vdi.doctor.objects.sessions import OF_SESSIONS, active_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.session.children import AGENT_PORT_NAME, PORT_NAME
from vdi.session.effective import Desktop
from vdi.snapshot.check import check
from vdi.snapshot.dns import dns_down
from vdi.snapshot.model import Snapshot
from vdi.snapshot.objects.meta import Lease

# Times of the API have whole seconds and arrive with the latency of the request: less is no
# difference of clocks.
_CLOCK_SECONDS = 10.0
_NODE_LEASES = "kube-node-lease"
_API_CERTIFICATE_DAYS = 30.0
_API_SECONDS = 1.0
_DAY_SECONDS = 86_400.0
_INSTANCE = "app.kubernetes.io/instance"
_ALL = ("operator", "gateway", "desktop")
KUBE_PROXY_PODS = (
    "kubectl --namespace kube-system get pods --selector k8s-app=kube-proxy --output wide"
)
# Names of the DaemonSets of network plugins that enforce NetworkPolicies. K3s has kube-router's
# enforcer in its binary.
_ENFORCERS = re.compile(
    r"calico|canal|cilium|anetd|antrea-agent|kube-router|weave-net|ovnkube|kube-ovn-cni|kindnet|azure-npm|network-polic"
)
# The connections of a release that the policies must allow: from, to, port. docs/network.md
# promises them.
PROMISED = (
    (("Traefik",), "gateway", Port(8080, "http")),
    (("Traefik", "gateway", "operator"), "gateway", Port(8081, "internal")),
    (("Traefik", "gateway"), "desktop", Port(8080, PORT_NAME)),
    (("operator", "gateway"), "desktop", Port(8082, AGENT_PORT_NAME)),
    (("gateway",), "PostgreSQL", Port(5432, "postgresql")),
    (("gateway",), "Redis", Port(6379, "redis")),
    (_ALL, "DNS", Port(53, "dns", "UDP")),
    (_ALL, "DNS", Port(53, "dns-tcp")),
    (("operator", "gateway"), "API server", Port(6443)),
    (("desktop",), "coturn", Port(3478, "turn", "UDP")),
)


@check(
    "networkpolicies",
    "deployments",
    "daemonsets",
    "pods",
    "vdisessions",
    reads=(*OF_SESSIONS, "endpointslices", "services", "statefulsets"),
)
def policies_block(snapshot: Snapshot) -> Iterator[Finding]:
    """Network policies that deny a connection which a desktop needs. Whether the cluster enforces
    them is not known.
    """
    reported = set()
    for source, target, port in _connections(snapshot):
        blocked = blocking(snapshot, source, target, port)
        if blocked is None or (blocked[0], source.words, target.words) in reported:
            continue
        direction, policies = blocked
        reported.add((direction, source.words, target.words))
        names = [f"{policy.metadata.namespace}/{policy.metadata.name}" for policy in policies]
        first = policies[0].metadata
        yield make_finding(
            "network_policy_blocks",
            f"networkpolicy/{names[0]}",
            f"{source.words[0].upper()}{source.words[1:]} may not connect to {target.words} on port"
            f" {port.number}. None of the {len(names)} policies for that {direction} allows it.",
            evidence=[
                f"{direction} of {', '.join(sorted(names))}",
                f"{source.words}: labels {dict(source.labels)}",
            ],
            remedy=Remedy.run(
                f"kubectl --namespace {first.namespace} describe networkpolicy {first.name}"
            ),
            related_objects=[f"networkpolicy/{name}" for name in names],
        )


def enforcement_note(snapshot: Snapshot) -> str:
    """A sentence that no known program enforces the cluster's NetworkPolicies; empty: one does, or
    it is not known.
    """
    if (
        snapshot.unreadable_kinds & {"daemonsets", "networkpolicies", "nodes"}
        or not snapshot.objects.networkpolicies
    ):
        return ""
    names = (daemon_set.metadata.name for daemon_set in snapshot.objects.daemonsets)
    has_own = any(
        "+k3s" in node.status.node_info.kubelet_version for node in snapshot.nodes.values()
    )
    if has_own or any(_ENFORCERS.search(name) for name in names):
        return ""
    return (
        "No program that enforces NetworkPolicies was recognized; `vdi doctor --probe` tests"
        " whether one does."
    )


def _connections(snapshot: Snapshot) -> Iterator[tuple[Party, Party, Port]]:
    """The promised connections between the parties that exist."""
    parties = _find_parties(snapshot)
    for names, role, port in PROMISED:
        for source in (party for name in names for party in parties[name]):
            for target in parties[role]:
                near = source.watches if role == "desktop" else (source.namespace,)
                if not source.watches or role in ("DNS", "API server") or target.namespace in near:
                    number = target.ports.get(port.name, port.number)
                    yield source, target, Port(number, port.name, port.protocol)


def _find_parties(snapshot: Snapshot) -> defaultdict[str, list[Party]]:
    """Pods of a release, one desktop of each template and namespace, and the servers that they
    need.
    """
    gateways, operators = find_gateways(snapshot), find_operators(snapshot)
    parties: defaultdict[str, list[Party]] = defaultdict(list)
    parties["gateway"] = [_party("the gateway", one, one.watches) for one in gateways]
    parties["operator"] = [_party("the operator", one, one.watches) for one in operators]
    # Policies do not select pods on the host's network.
    servers: tuple[tuple[str, Iterable[Workload]], ...] = (
        ("Traefik", find_traefiks(snapshot)),
        ("coturn", find_servers(snapshot, "coturn")),
    )
    for name, group in servers:
        parties[name] = [_party(name, one) for one in group if not one.pod_spec.host_network]
    for workload in workloads(snapshot):
        if workload.raw.metadata.labels.get("k8s-app") == "kube-dns":
            parties["DNS"].append(_party("the cluster's DNS", workload))
    if api := snapshot.find("endpointslices", "kubernetes", "default"):
        for port in api.ports:
            parties["API server"].append(Party("the API server", "", {}, {"": port.port}))
    # Servers that a gateway's release has brought.
    releases = {(one.namespace, one.raw.metadata.labels.get(_INSTANCE, "")) for one in gateways}
    for name in ("PostgreSQL", "Redis"):
        parties[name] = [
            Party(name, pod.metadata.namespace, dict(pod.metadata.labels))
            for pod in snapshot.pods
            if pod.metadata.labels.get("app.kubernetes.io/name") == name.lower()
            and (pod.metadata.namespace, pod.metadata.labels.get(_INSTANCE)) in releases
        ]
    parties["desktop"] = _desktop_parties(snapshot)
    return parties


def _desktop_parties(snapshot: Snapshot) -> list[Party]:
    """One desktop of each template and namespace."""
    desktops: dict[tuple[str, str], Party] = {}
    for diagnosis in active_sessions(snapshot):
        pod, desktop, operator = diagnosis.pod, diagnosis.desktop, diagnosis.operator
        if pod and pod.ready and isinstance(desktop, Desktop):
            ports = {PORT_NAME: desktop.port}
            if operator:
                ports[AGENT_PORT_NAME] = operator.settings.agent_port
            party = Party("a desktop", diagnosis.namespace, dict(pod.metadata.labels), ports)
            desktops.setdefault((diagnosis.namespace, diagnosis.template_name), party)
    return list(desktops.values())


def _party(words: str, workload: Workload, watches: tuple[str, ...] = ()) -> Party:
    return Party(words, workload.namespace, workload.pod_labels, watches=watches)


@check("services@address", reads=OF_SESSIONS)
def kube_proxy_down(snapshot: Snapshot) -> Iterator[Finding]:
    """A Service whose address leads nowhere although its pod responds."""
    attempt = snapshot.service_attempt
    if attempt and attempt.pod and not attempt.address:
        yield make_finding(
            "kube_proxy_down",
            attempt.service,
            "The Service's pod accepts connections from the machine that runs the doctor, but its"
            " own address does not: kube-proxy does not work there.",
            evidence=["the address of the Service default/kubernetes accepts connections"],
            remedy=Remedy.run(KUBE_PROXY_PODS),
        )


@check("nodes", "leases@nodes", reads=("deployments",))
def clocks(snapshot: Snapshot) -> Iterator[Finding]:
    """Times recorded by the cluster that are in the future of the machine that collected the
    snapshot.
    """
    ahead: dict[str, float] = {}
    for name, node in snapshot.nodes.items():
        beats = [condition.last_heartbeat_time for condition in node.status.conditions]
        # The kubelet renews its Lease every 10 s, its conditions only every five minutes.
        lease: Lease | None = snapshot.find("leases", name, _NODE_LEASES)
        beats.append(lease.spec.renew_time if lease else None)
        ahead[f"node/{name}"] = max(-snapshot.age(beat) for beat in beats)
    for operator in find_operators(snapshot):
        leadership = read_lease(snapshot, operator.lease_namespace)
        if leadership:
            ahead[operator.object] = -snapshot.age(leadership.renew_time)
        else:
            ahead[operator.object] = 0.0
    for where, seconds in ahead.items():
        if seconds > _CLOCK_SECONDS:
            yield make_finding(
                "clock_wrong",
                where,
                f"Its clock is {seconds:.0f} s ahead of this machine's clock: one of them is"
                " wrong.",
                evidence=[f"it recorded a time that is {seconds:.0f} s after {snapshot.taken_at}"],
                remedy=Remedy(
                    "Compare the clocks on that node and here, and set up time synchronisation.",
                    ("timedatectl status",),
                ),
            )


@check("apiserver@certificate", reads=("nodes",))
def api_certificate(snapshot: Snapshot) -> Iterator[Finding]:
    """A certificate of the API server that expires soon."""
    ends = snapshot.api_certificate_ends
    left = -snapshot.age(ends) / _DAY_SECONDS
    on_k3s = any(node_tools(snapshot, name)[0] != "kubelet" for name in snapshot.nodes)
    if ends and left < _API_CERTIFICATE_DAYS:
        state = "has expired" if left < 0 else f"expires in {left:.0f} days"
        yield make_finding(
            "api_certificate_ends",
            "certificate/api-server",
            f"The API server's certificate {state} ({ends}).",
            evidence=[f"notAfter {ends}"],
            remedy=Remedy.run(*(["systemctl restart k3s"] if on_k3s else [])),
            severity=Severity.ERROR if left < 0 else None,
        )


@check(reads=("customresourcedefinitions",))
def api_server_slow(snapshot: Snapshot) -> Iterator[Finding]:
    """An API server that takes long for a small request."""
    if snapshot.api_seconds > _API_SECONDS:
        yield make_finding(
            "api_server_slow",
            "apiserver/kubernetes",
            f"The API server takes {snapshot.api_seconds:.1f} s for a small request; a healthy one"
            " takes a few hundredths of a second.",
            evidence=[f"the slowest of two requests took {snapshot.api_seconds:.2f} s"],
            remedy=Remedy(
                "Check the disk and the CPU of the server; its own health checks name what is"
                " slow.",
                ("kubectl get --raw '/readyz?verbose'", "kubectl describe nodes"),
            ),
        )


CHECKS = (dns_down, policies_block, kube_proxy_down, clocks, api_certificate, api_server_slow)
