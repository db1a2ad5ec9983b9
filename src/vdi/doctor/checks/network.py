"""What the way in hangs on: names, network policies, clocks, the API server's certificate."""

from collections.abc import Iterator

from vdi.diagnosis.check import check
from vdi.diagnosis.dns import dns_down
from vdi.diagnosis.snapshot import Raw, Snapshot
from vdi.doctor.codes import make_finding
from vdi.doctor.objects.access import Party, Port, blocking
from vdi.doctor.objects.components import find_gateways, find_operators, find_traefiks, find_turn_servers, lease_of
from vdi.doctor.objects.sessions import active, diagnose_sessions
from vdi.findings.model import Finding, Remedy, Severity
from vdi.session.children import AGENT_PORT_NAME, PORT_NAME
from vdi.session.effective import Desktop

# A second or two are rounding and the way of the request.
_CLOCK_SECONDS = 10.0

_API_DAYS = 30.0
_API_SECONDS = 1.0
_DAY = 86_400.0


@check("deployments", "daemonsets")
def turn_down(snapshot: Snapshot) -> Iterator[Finding]:
    """The chart's own TURN server, where it is installed."""
    for turn_server in find_turn_servers(snapshot):
        if not turn_server.ready:
            yield make_finding(
                "turn_down",
                turn_server.object,
                "No replica of the TURN server is ready: WebRTC does not work through firewalls.",
                evidence=["ready: 0"],
                related_objects=snapshot.nodes_of(turn_server.raw),
                remedy=Remedy.run(
                    f"kubectl --namespace {turn_server.namespace} describe {turn_server.kind} {turn_server.name}"
                ),
            )


@check("networkpolicies", "deployments", "daemonsets", "pods", "vdisessions")
def policies_block(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the policies let through what a desktop needs; whether the cluster enforces them is not known."""
    reported = set()
    for source, target, port in _connections(snapshot):
        blocked = blocking(snapshot, source, target, port)
        if blocked is None or (blocked[0], source.words, target.words) in reported:
            continue
        direction, policies = blocked
        reported.add((direction, source.words, target.words))
        names = [f"{policy['metadata']['namespace']}/{policy['metadata']['name']}" for policy in policies]
        first = policies[0]["metadata"]
        yield make_finding(
            "network_policy_blocks",
            f"networkpolicy/{names[0]}",
            f"{source.words[0].upper()}{source.words[1:]} may not connect to {target.words} on port {port.number}. "
            f"None of the {len(names)} policies for that {direction} allows it.",
            evidence=[f"{direction} of {', '.join(sorted(names))}", f"{source.words}: labels {dict(source.labels)}"],
            remedy=Remedy.run(f"kubectl --namespace {first['namespace']} describe networkpolicy {first['name']}"),
        )


def _connections(snapshot: Snapshot) -> Iterator[tuple[Party, Party, Port]]:
    traefiks = [_party("Traefik", traefik.raw) for traefik in find_traefiks(snapshot) if not _on_host(traefik.raw)]
    gateways = find_gateways(snapshot)
    for gateway in gateways:
        behind = _party("the gateway", gateway.raw)
        for traefik in traefiks:
            yield traefik, behind, Port(8080, "http")
            yield traefik, behind, Port(8081, "internal")
    desktops: dict[str, tuple[Party, int]] = {}
    for diagnosis in active(diagnose_sessions(snapshot)):
        desktop_spec = diagnosis.desktop
        if (
            diagnosis.pod
            and diagnosis.pod.ready
            and isinstance(desktop_spec, Desktop)
            and diagnosis.namespace not in desktops
        ):
            labels = dict(diagnosis.pod.metadata.labels)
            desktops[diagnosis.namespace] = Party("a desktop", diagnosis.namespace, labels), desktop_spec.port
    for namespace, (desktop, number) in desktops.items():
        for traefik in traefiks:
            yield traefik, desktop, Port(number, PORT_NAME)
        for gateway in gateways:
            if namespace in gateway.watches:
                yield _party("the gateway", gateway.raw), desktop, Port(number, PORT_NAME)
        for operator in find_operators(snapshot):
            if namespace in operator.watches:
                yield _party("the operator", operator.raw), desktop, Port(operator.settings.agent_port, AGENT_PORT_NAME)


def _party(words: str, workload: Raw) -> Party:
    labels = (workload["spec"]["template"].get("metadata") or {}).get("labels") or {}
    return Party(words, str(workload["metadata"]["namespace"]), labels)


def _on_host(workload: Raw) -> bool:
    return bool(workload["spec"]["template"]["spec"].get("hostNetwork"))


@check("nodes", "leases")
def clocks(snapshot: Snapshot) -> Iterator[Finding]:
    """Times of the cluster that have not come yet, by the clock of whoever looks."""
    ahead: dict[str, float] = {}
    for node in snapshot.raw("nodes"):
        beats = [condition.get("lastHeartbeatTime") for condition in (node.get("status") or {}).get("conditions") or ()]
        ahead[f"node/{node['metadata']['name']}"] = max([-snapshot.age(beat) for beat in beats], default=0.0)
    for operator in find_operators(snapshot):
        spec = (lease_of(snapshot, operator.lease_namespace) or {}).get("spec") or {}
        ahead[operator.object] = -snapshot.age(spec.get("renewTime"))
    for where, seconds in ahead.items():
        if seconds > _CLOCK_SECONDS:
            yield make_finding(
                "clock_wrong",
                where,
                f"Its clock is {seconds:.0f} s ahead of this machine's clock: one of them is wrong.",
                evidence=[f"it recorded a time that is {seconds:.0f} s after {snapshot.taken_at}"],
                remedy=Remedy(
                    "Compare the clocks on that node and here, and set up time synchronisation.",
                    ("timedatectl status",),
                ),
            )


@check()
def api_certificate(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the API server's certificate lasts."""
    if not snapshot.api_certificate_ends:
        return  # looked at from inside a bundle of old, or no TLS
    left = -snapshot.age(snapshot.api_certificate_ends) / _DAY
    if left < _API_DAYS:
        over = left < 0
        yield make_finding(
            "api_certificate_ends",
            "certificate/api-server",
            f"The API server's certificate {'has expired' if over else f'expires in {left:.0f} days'}"
            f" ({snapshot.api_certificate_ends}).",
            evidence=[f"notAfter {snapshot.api_certificate_ends}"],
            remedy=Remedy.run("systemctl restart k3s"),
            severity=Severity.ERROR if over else None,
        )


@check()
def api_server_slow(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the API server answers at once."""
    if snapshot.api_seconds > _API_SECONDS:
        yield make_finding(
            "api_server_slow",
            "apiserver/kubernetes",
            f"The API server takes {snapshot.api_seconds:.1f} s for a small request; a healthy one takes a few "
            "hundredths of a second.",
            evidence=[f"the fastest of three requests took {snapshot.api_seconds:.2f} s"],
            remedy=Remedy(
                "Check the disk and the CPU of the server; its own health checks name what is slow.",
                ("kubectl get --raw '/readyz?verbose'", "kubectl describe nodes"),
            ),
        )


CHECKS = (dns_down, turn_down, policies_block, clocks, api_certificate, api_server_slow)
