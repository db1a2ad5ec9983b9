"""Lines about the way in: ports 443 and 3389, the host name, and who leads requests to Kasm. Pure."""

from collections.abc import Iterator
from typing import Any

from vdi.kasm.answers import Ingress
from vdi.kasm.preflight_facts import Facts, Resolution, node_addresses
from vdi.kasm.preflight_line import Line, Unread, Verdict, label_of, listed, name_of, unread_line
from vdi.kasm.preflight_ports import Holder, answering, disabled, holders, is_traefik, on_k3s, silent

HTTPS, RDP = 443, 3389
_SVCLB = "svccontroller.k3s.cattle.io/svcname"
_TRAEFIK_CONTROLLER = "traefik.io/ingress-controller"
_HOLDING = ("services", "daemonsets", "pods", "nodes")


def entry_lines(facts: Facts, ingress: Ingress, *, rdp: bool, own: frozenset[str]) -> Iterator[Line]:
    """Ports and who leads in. `own`: `service NAMESPACE/NAME` of the Kasm that runs there now."""
    unread = facts.missing(*_HOLDING)
    if unread is not None:
        yield unread_line("port-443", _wanted_443(ingress), unread)
        yield unread_line("port-3389", _wanted_3389(rdp), unread)
    else:
        yield port_443_line(facts, ingress, own)
        yield port_3389_line(facts, wanted=rdp, own=own)
    yield way_in_line(facts, ingress)


def _wanted_443(ingress: Ingress) -> str:
    return {
        Ingress.TRAEFIK: "held by Traefik",
        Ingress.LOADBALANCER: "free for Kasm's LoadBalancer Service",
        Ingress.NONE: "nothing: Kasm's Service stays inside",
    }[ingress]


def _wanted_3389(rdp: bool) -> str:
    return "free for RDP directly to Kasm" if rdp else "nothing: RDP directly to Kasm is not asked for"


def _seen(facts: Facts, port: int, found: list[Holder]) -> str:
    if found:
        return "held by " + "; ".join(f"{one.what} ({one.how})" for one in found)
    if there := answering(facts, port):
        return f"no object of the cluster has it, but something answers at {listed(there)}"
    if quiet := silent(facts, port):
        return f"no object of the cluster has it; no answer at all from {listed(quiet)} (firewall, or no way from here)"
    return "free"


def port_443_line(facts: Facts, ingress: Ingress, own: frozenset[str] = frozenset()) -> Line:
    """Whether those who have it are those who shall have it."""
    found = holders(facts, HTTPS)
    others = [one for one in found if not one.own_address and one.what not in own]
    seen, wanted = _seen(facts, HTTPS, found), _wanted_443(ingress)

    def line(verdict: Verdict, why: str = "", remedy: str = "") -> Line:
        return Line(check="port-443", verdict=verdict, seen=seen, wanted=wanted, why=why, remedy=remedy)

    if ingress is Ingress.NONE:
        return line(Verdict.PASS)
    if ingress is Ingress.TRAEFIK:
        if any(one.is_traefik for one in found):
            return line(Verdict.PASS)
        if not found and not answering(facts, HTTPS):
            return line(Verdict.WARN, "Nobody takes requests at the port; see line `way-in`.", _look(HTTPS))
        why = "Requests for Kasm would go to whoever has it, and not to Traefik."
        return line(Verdict.FAIL, why, _free_it(others, HTTPS))
    if others:
        if any(one.is_traefik for one in others):
            why = (
                "Traefik has the port on every node, so Kasm's LoadBalancer Service would stay Pending (its svclb pods"
                " find the host port taken)."
            )
            remedy = (
                "let Traefik lead to Kasm: vdi kasm values render --ingress traefik; or give the port up:"
                " K3s --disable=traefik, which removes Traefik and all that it serves"
            )
            return line(Verdict.FAIL, why, remedy)
        return line(Verdict.FAIL, "Kasm's LoadBalancer Service would stay Pending.", _free_it(others, HTTPS))
    if (there := answering(facts, HTTPS)) and not found:
        why = "A program on the node itself has it (a web server, another container engine), unseen by Kubernetes."
        return line(Verdict.FAIL, why, f"on {there[0]}: ss -ltnp 'sport = :443'")
    return line(Verdict.PASS)


def port_3389_line(facts: Facts, *, wanted: bool, own: frozenset[str] = frozenset()) -> Line:
    """Only needed where people's own RDP clients connect to Kasm."""
    found = holders(facts, RDP)
    others = [one for one in found if not one.own_address and one.what not in own]
    there = answering(facts, RDP)
    line = Line(check="port-3389", verdict=Verdict.PASS, seen=_seen(facts, RDP, found), wanted=_wanted_3389(wanted))
    if not wanted or not (others or (there and not found)):
        return line
    remedy = _free_it(others, RDP) if others else f"on {there[0]}: ss -ltnp 'sport = :3389' (often xrdp)"
    why = "The Service for direct RDP would stay Pending."
    return Line(check=line.check, verdict=Verdict.FAIL, seen=line.seen, wanted=line.wanted, why=why, remedy=remedy)


def _free_it(found: list[Holder], port: int) -> str:
    if not found:
        return _look(port)
    kind, _, full = found[0].what.partition(" ")
    namespace, _, name = full.partition("/")
    return f"kubectl --namespace {namespace} get {kind} {name}; remove it, or give it another port"


def _look(port: int) -> str:
    return f"kubectl get service -A; on the node: ss -ltnp 'sport = :{port}'"


def way_in_line(facts: Facts, ingress: Ingress) -> Line:
    """Who leads in."""
    if ingress is Ingress.TRAEFIK:
        return _traefik_line(facts)
    if ingress is Ingress.LOADBALANCER:
        return _load_balancer_line(facts)
    return Line(check="way-in", verdict=Verdict.PASS, seen="not looked at", wanted="nothing: arranged elsewhere")


def _traefik_line(facts: Facts) -> Line:
    wanted = "a Traefik that is ready, with an IngressClass"
    unread = facts.missing("pods", "ingressclasses")
    if unread is not None:
        return unread_line("way-in", wanted, unread)
    pods = [pod for pod in facts.running if is_traefik(pod) and not label_of(pod, _SVCLB)]
    ready = [pod for pod in pods if _is_ready(pod)]
    classes = {
        str(one["metadata"]["name"]): str((one.get("spec") or {}).get("controller", ""))
        for one in facts.all("ingressclasses")
    }
    own = sorted(name for name, controller in classes.items() if controller == _TRAEFIK_CONTROLLER)
    seen = f"{len(ready)} of {len(pods)} Traefik pods ready; ingress classes: {listed(sorted(classes))}"

    def line(verdict: Verdict, why: str = "", remedy: str = "") -> Line:
        return Line(check="way-in", verdict=verdict, seen=seen, wanted=wanted, why=why, remedy=remedy)

    if ready and own:
        return line(Verdict.PASS)
    if ready:
        why = "Traefik runs, but has no IngressClass: it may not take Kasm's Ingress."
        return line(Verdict.WARN, why, "Traefik's chart: ingressClass.enabled=true")
    if pods:
        name = name_of(pods[0]).partition("/")
        return line(Verdict.FAIL, "Traefik does not run.", f"kubectl --namespace {name[0]} describe pod {name[2]}")
    if "traefik" in disabled(facts):
        why = "K3s was started with --disable=traefik, and no other Traefik is there."
        remedy = "install a Traefik, or take `traefik` out of `disable` in /etc/rancher/k3s/config.yaml and restart k3s"
        return line(Verdict.FAIL, why, remedy)
    if own:
        why = "Its IngressClass is there and no pod of it is: it runs outside the cluster, or no longer."
        return line(Verdict.WARN, why, "kubectl get pods -A -l app.kubernetes.io/name=traefik")
    if classes:
        why = "There is another ingress controller, which this tool does not look into."
        remedy = (
            f"name it in the values (ingress.ingressClassName: {min(classes)}), and check its WebSocket time limits"
        )
        return line(Verdict.WARN, why, remedy)
    return line(
        Verdict.FAIL,
        "There is no ingress controller at all.",
        "vdi kasm values render --ingress loadbalancer, or install Traefik",
    )


def _load_balancer_line(facts: Facts) -> Line:
    wanted = "somebody who gives LoadBalancer Services an address"
    unread = facts.missing("services", "daemonsets", "nodes")
    if unread is not None:
        return unread_line("way-in", wanted, unread)
    balanced = [name_of(one) for one in facts.all("daemonsets") if label_of(one, _SVCLB)]
    given = [
        name_of(one)
        for one in facts.all("services")
        if (one.get("spec") or {}).get("type") == "LoadBalancer"
        and ((one.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    ]

    def line(verdict: Verdict, seen: str, why: str = "", remedy: str = "") -> Line:
        return Line(check="way-in", verdict=verdict, seen=seen, wanted=wanted, why=why, remedy=remedy)

    if balanced:
        return line(Verdict.PASS, f"ServiceLB of K3s ({listed(balanced)})")
    if given:
        return line(Verdict.PASS, f"services with an address: {listed(given)}")
    off = "servicelb" in disabled(facts)
    if off:
        remedy = "take `servicelb` out of `disable` in /etc/rancher/k3s/config.yaml and restart k3s, or install MetalLB"
        return line(Verdict.FAIL, "none", "K3s was started with --disable=servicelb, and nobody else does it.", remedy)
    if on_k3s(facts):
        return line(Verdict.PASS, "K3s with its ServiceLB, which has had nothing to do yet")
    try_it = "kubectl create service loadbalancer probe --tcp=8443; kubectl get service probe --watch"
    return line(
        Verdict.UNKNOWN, "no LoadBalancer Service to tell by", "Whether one would get an address is not known.", try_it
    )


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def dns_line(facts: Facts) -> Line:
    """Whether the name leads to a node or to a load balancer, as seen from here."""
    wanted = "a name that leads to a node or to the load balancer"
    found = facts.resolution
    if found is None:
        unread = Unread(
            "No host name was given, so none was looked up.", "vdi kasm preflight --hostname kasm.example.com"
        )
        return unread_line("dns", wanted, unread)
    if found.problem:
        why = f"This machine cannot resolve it ({found.problem}), so a browser here could not either."
        targets = _targets(facts)
        remedy = f"a DNS record A {found.host} -> {next(iter(targets), 'ADDRESS-OF-A-NODE')}"
        seen = f"{found.host}: no address"
        return Line(check="dns", verdict=Verdict.FAIL, seen=seen, wanted=wanted, why=why, remedy=remedy)
    unread_nodes = facts.missing("nodes", "services")
    if unread_nodes is not None:
        return unread_line("dns", wanted, unread_nodes)
    return _leads_line(facts, found, wanted)


def _leads_line(facts: Facts, found: Resolution, wanted: str) -> Line:
    targets = _targets(facts)
    reached = [f"{address}, {targets[address]}" for address in found.addresses if address in targets]
    strangers = [address for address in found.addresses if address not in targets]
    seen = f"{found.host} -> {listed(reached + strangers)}"
    if not strangers:
        return Line(check="dns", verdict=Verdict.PASS, seen=seen, wanted=wanted)
    known = listed(f"{address} ({whose})" for address, whose in targets.items())
    return Line(
        check="dns",
        verdict=Verdict.WARN,
        seen=seen,
        wanted=wanted,
        why=f"{listed(strangers)} is no address that the cluster knows: {known}. That is right only where a router or a"
        " proxy passes requests on.",
        remedy=f"if there is none: a DNS record A {found.host} -> {next(iter(targets), 'ADDRESS-OF-A-NODE')}",
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
