"""Lines about the way in: ports 443 and 3389, the host name, and who leads requests to Kasm. Pure."""

from collections.abc import Iterator
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.checklist import Unreadable, label_of, listed, name_of, unreadable_finding
from vdi.kasm.preflight.facts import Facts, Resolution, node_addresses
from vdi.kasm.preflight.ports import Holder, answering, disabled, holders, is_traefik, on_k3s, silent
from vdi.kasm.values.options import Ingress

HTTPS, RDP = 443, 3389
_SVCLB = "svccontroller.k3s.cattle.io/svcname"
_TRAEFIK_CONTROLLER = "traefik.io/ingress-controller"
_HOLDING = ("services", "daemonsets", "pods", "nodes")


def entry_lines(facts: Facts, ingress: Ingress, *, rdp: bool, own: frozenset[str]) -> Iterator[Finding]:
    """Ports and who leads in. `own`: `service NAMESPACE/NAME` of the Kasm that runs there now."""
    unread = facts.missing(*_HOLDING)
    if unread is not None:
        yield unreadable_finding("port-443", _expected_443(ingress), unread)
        yield unreadable_finding("port-3389", _expected_3389(rdp), unread)
    else:
        yield port_443_line(facts, ingress, own)
        yield port_3389_line(facts, is_requested=rdp, own=own)
    yield way_in_line(facts, ingress)


def _expected_443(ingress: Ingress) -> str:
    return {
        Ingress.TRAEFIK: "held by Traefik",
        Ingress.LOADBALANCER: "free for Kasm's LoadBalancer Service",
        Ingress.NONE: "nothing: Kasm's Service is internal",
    }[ingress]


def _expected_3389(rdp: bool) -> str:
    return "free for RDP directly to Kasm" if rdp else "nothing: RDP directly to Kasm is not requested"


def _seen(facts: Facts, port: int, found: list[Holder]) -> str:
    if found:
        return "held by " + "; ".join(f"{one.what} ({one.how})" for one in found)
    if there := answering(facts, port):
        return f"no object of the cluster uses it, but something responds at {listed(there)}"
    if quiet := silent(facts, port):
        return (
            f"no object of the cluster uses it; no response at all from {listed(quiet)} (a firewall, or no route "
            "from here)"
        )
    return "free"


def port_443_line(facts: Facts, ingress: Ingress, own: frozenset[str] = frozenset()) -> Finding:
    """Whether those who have it are those who shall have it."""
    found = holders(facts, HTTPS)
    others = [one for one in found if not one.own_address and one.what not in own]
    observed, expected = _seen(facts, HTTPS, found), _expected_443(ingress)

    def line(severity: Severity, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="port-443", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    if ingress is Ingress.NONE:
        return line(Severity.OK)
    if ingress is Ingress.TRAEFIK:
        if any(one.is_traefik for one in found):
            return line(Severity.OK)
        if not found and not answering(facts, HTTPS):
            return line(Severity.WARNING, "Nothing accepts connections at the port; see item `way-in`.", _look(HTTPS))
        message = "Requests for Kasm would go to the other program, not to Traefik."
        return line(Severity.ERROR, message, _free_it(others, HTTPS))
    if others:
        if any(other.is_traefik for other in others):
            message = (
                "Traefik uses the port on every node, so Kasm's LoadBalancer Service would stay Pending (its svclb "
                "pods find the host port in use)."
            )
            remedy = Remedy(
                "Let Traefik route to Kasm (vdi kasm values render --ingress traefik). Or free the port: K3s "
                "--disable=traefik, which removes Traefik and everything that it serves."
            )
            return line(Severity.ERROR, message, remedy)
        return line(Severity.ERROR, "Kasm's LoadBalancer Service would stay Pending.", _free_it(others, HTTPS))
    if (there := answering(facts, HTTPS)) and not found:
        message = (
            "A program on the node itself uses it (a web server, another container engine), which Kubernetes does "
            "not see."
        )
        return line(Severity.ERROR, message, Remedy(f"On {there[0]}:", ("ss -ltnp 'sport = :443'",)))
    return line(Severity.OK)


def port_3389_line(facts: Facts, *, is_requested: bool, own: frozenset[str] = frozenset()) -> Finding:
    """Only needed where people's own RDP clients connect to Kasm."""
    found = holders(facts, RDP)
    others = [one for one in found if not one.own_address and one.what not in own]
    there = answering(facts, RDP)
    line = Finding(
        code="port-3389", severity=Severity.OK, observed=_seen(facts, RDP, found), expected=_expected_3389(is_requested)
    )
    if not is_requested or not (others or (there and not found)):
        return line
    remedy = (
        _free_it(others, RDP) if others else Remedy(f"On {there[0]} (often it is xrdp):", ("ss -ltnp 'sport = :3389'",))
    )
    message = "The Service for direct RDP would stay Pending."
    return Finding(
        code=line.code,
        severity=Severity.ERROR,
        observed=line.observed,
        expected=line.expected,
        message=message,
        remedy=remedy,
    )


def _free_it(found: list[Holder], port: int) -> Remedy:
    if not found:
        return _look(port)
    holder = found[0]
    command = f"kubectl --namespace {holder.namespace} get {holder.kind} {holder.name}"
    return Remedy("Remove it, or give it another port.", (command,))


def _look(port: int) -> Remedy:
    return Remedy(
        "Find the Service that uses it; then, on the node, the program.",
        ("kubectl get service -A", f"ss -ltnp 'sport = :{port}'"),
    )


def way_in_line(facts: Facts, ingress: Ingress) -> Finding:
    """Who leads in."""
    if ingress is Ingress.TRAEFIK:
        return _traefik_line(facts)
    if ingress is Ingress.LOADBALANCER:
        return _load_balancer_line(facts)
    return Finding(
        code="way-in", severity=Severity.OK, observed="not checked", expected="nothing: configured elsewhere"
    )


def _traefik_line(facts: Facts) -> Finding:
    expected = "a Traefik that is ready, with an IngressClass"
    unread = facts.missing("pods", "ingressclasses")
    if unread is not None:
        return unreadable_finding("way-in", expected, unread)
    pods = [pod for pod in facts.running if is_traefik(pod) and not label_of(pod, _SVCLB)]
    ready = [pod for pod in pods if _is_ready(pod)]
    classes = {
        str(ingress_class["metadata"]["name"]): str((ingress_class.get("spec") or {}).get("controller", ""))
        for ingress_class in facts.all("ingressclasses")
    }
    own = sorted(name for name, controller in classes.items() if controller == _TRAEFIK_CONTROLLER)
    observed = f"{len(ready)} of {len(pods)} Traefik pods ready; ingress classes: {listed(sorted(classes))}"

    def line(severity: Severity, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="way-in", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    if ready and own:
        return line(Severity.OK)
    if ready:
        message = "Traefik runs, but has no IngressClass: it might not accept Kasm's Ingress."
        return line(
            Severity.WARNING, message, Remedy("Set ingressClass.enabled=true in the values of Traefik's chart.")
        )
    if pods:
        name = name_of(pods[0]).partition("/")
        return line(
            Severity.ERROR,
            "Traefik is not running.",
            Remedy.run(f"kubectl --namespace {name[0]} describe pod {name[2]}"),
        )
    if "traefik" in disabled(facts):
        message = "K3s was started with --disable=traefik, and there is no other Traefik."
        remedy = Remedy(
            "Install a Traefik, or take `traefik` out of `disable` in /etc/rancher/k3s/config.yaml and restart k3s."
        )
        return line(Severity.ERROR, message, remedy)
    if own:
        message = "Its IngressClass exists, but it has no pod: it runs outside the cluster, or no longer runs."
        return line(Severity.WARNING, message, Remedy.run("kubectl get pods -A -l app.kubernetes.io/name=traefik"))
    if classes:
        message = "There is another ingress controller, which this command does not check."
        remedy = Remedy(
            f"Set it in the values (ingress.ingressClassName: {min(classes)}), and check its WebSocket timeouts."
        )
        return line(Severity.WARNING, message, remedy)
    return line(
        Severity.ERROR,
        "There is no ingress controller.",
        Remedy("Install Traefik, or use a LoadBalancer (vdi kasm values render --ingress loadbalancer)."),
    )


def _load_balancer_line(facts: Facts) -> Finding:
    expected = "a controller that gives LoadBalancer Services an address"
    unread = facts.missing("services", "daemonsets", "nodes")
    if unread is not None:
        return unreadable_finding("way-in", expected, unread)
    balanced = [name_of(daemonset) for daemonset in facts.all("daemonsets") if label_of(daemonset, _SVCLB)]
    given = [
        name_of(service)
        for service in facts.all("services")
        if (service.get("spec") or {}).get("type") == "LoadBalancer"
        and ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    ]

    def line(severity: Severity, observed: str, message: str = "", remedy: Remedy = Remedy()) -> Finding:
        return Finding(
            code="way-in", severity=severity, observed=observed, expected=expected, message=message, remedy=remedy
        )

    if balanced:
        return line(Severity.OK, f"ServiceLB of K3s ({listed(balanced)})")
    if given:
        return line(Severity.OK, f"services with an address: {listed(given)}")
    off = "servicelb" in disabled(facts)
    if off:
        remedy = Remedy(
            "Take `servicelb` out of `disable` in /etc/rancher/k3s/config.yaml and restart k3s, or install MetalLB."
        )
        return line(
            Severity.ERROR,
            "none",
            "K3s was started with --disable=servicelb, and nothing else provides addresses.",
            remedy,
        )
    if on_k3s(facts):
        return line(Severity.OK, "K3s with its ServiceLB, which no Service uses yet")
    try_it = Remedy.run(
        "kubectl create service loadbalancer probe --tcp=8443",
        "kubectl get service probe --watch",
        "kubectl delete service probe",
    )
    return line(
        Severity.UNKNOWN,
        "there is no LoadBalancer Service to check",
        "Whether a Service would get an address is unknown.",
        try_it,
    )


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def dns_line(facts: Facts) -> Finding:
    """Whether the name leads to a node or to a load balancer, as seen from here."""
    expected = "a name that points to a node or to the load balancer"
    found = facts.resolution
    if found is None:
        unread = Unreadable(
            "No host name was given, so none was resolved.", Remedy("Set it: vdi kasm preflight --hostname.")
        )
        return unreadable_finding("dns", expected, unread)
    if found.problem:
        message = f"This machine cannot resolve it ({found.problem}), so neither can a browser here."
        targets = _targets(facts)
        remedy = Remedy(f"Create a DNS record A {found.host} -> {next(iter(targets), 'the address of a node')}.")
        observed = f"{found.host}: no address"
        return Finding(
            code="dns", severity=Severity.ERROR, observed=observed, expected=expected, message=message, remedy=remedy
        )
    unread_nodes = facts.missing("nodes", "services")
    if unread_nodes is not None:
        return unreadable_finding("dns", expected, unread_nodes)
    return _leads_line(facts, found, expected)


def _leads_line(facts: Facts, found: Resolution, expected: str) -> Finding:
    targets = _targets(facts)
    reached = [f"{address}, {targets[address]}" for address in found.addresses if address in targets]
    strangers = [address for address in found.addresses if address not in targets]
    observed = f"{found.host} -> {listed(reached + strangers)}"
    if not strangers:
        return Finding(code="dns", severity=Severity.OK, observed=observed, expected=expected)
    known = listed(f"{address} ({whose})" for address, whose in targets.items())
    return Finding(
        code="dns",
        severity=Severity.WARNING,
        observed=observed,
        expected=expected,
        message=(
            f"{listed(strangers)} is not an address that the cluster knows: {known}. That is correct only if a "
            "router or a proxy forwards requests."
        ),
        remedy=Remedy(
            f"If there is no record, create a DNS record A {found.host} -> "
            f"{next(iter(targets), 'the address of a node')}."
        ),
    )


def _targets(facts: Facts) -> dict[str, str]:
    """Addresses at which the cluster can be reached, and whose they are; outside ones first."""
    found: dict[str, str] = {}
    for service in facts.all("services"):
        for one in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
            if one.get("ip"):
                found.setdefault(str(one["ip"]), f"service {name_of(service)}")
    nodes = [
        (kind, address, node["metadata"]["name"])
        for node in facts.all("nodes")
        for address, kind in node_addresses(node).items()
    ]
    for kind, address, name in sorted(nodes):
        found[address] = f"{kind} of node {name}"
    return found
