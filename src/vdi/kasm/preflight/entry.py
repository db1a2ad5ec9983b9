"""Lines about the way in: ports 443 and 3389, the host name, and who leads requests to Kasm. Pure.

ServiceLB runs one DaemonSet `svclb-...` for each LoadBalancer Service, with the Service's ports as
host ports: https://docs.k3s.io/networking/networking-services
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.preflight.facts import (
    Facts,
    addresses_of,
    is_ready,
    item,
    label_of,
    listed,
    name_of,
    node_addresses,
    unreadable_finding,
)
from vdi.kasm.preflight.nodes import kubelet_versions
from vdi.kasm.values.render import Ingress
from vdi.snapshot.model import Unreadable

HTTPS, RDP = 443, 3389
NODE_ARGS = "k3s.io/node-args"
_OF_SERVICE = "svccontroller.k3s.cattle.io/svcname"
_OF_NAMESPACE = "svccontroller.k3s.cattle.io/svcnamespace"
_TRAEFIK_CONTROLLER = "traefik.io/ingress-controller"


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that has a port."""

    # As kubectl takes it.
    kind: str
    # `NAMESPACE/NAME`.
    name: str
    how: str
    is_traefik: bool = False
    # It has the port at an address of its own, which is not a node's: it keeps the port from no one
    # else.
    own_address: bool = False


def is_traefik(raw: dict[str, Any]) -> bool:
    """Whether it belongs to a Traefik, as its chart and K3s label it."""
    return "traefik" in (label_of(raw, "app.kubernetes.io/name"), label_of(raw, "app"))


def holders(facts: Facts, port: int) -> list[Holder]:
    """Services and pods that use this TCP port on nodes, each once."""
    services = list(_services(facts, port))
    names = {service.name for service in services}
    return list({one.name: one for one in [*_pods(facts, port, names), *services]}.values())


def _services(facts: Facts, port: int) -> Iterator[Holder]:
    nodes = {address for node in facts.all("nodes") for address in node_addresses(node)}
    balanced = {
        f"{label_of(one, _OF_NAMESPACE)}/{label_of(one, _OF_SERVICE)}"
        for one in facts.all("daemonsets")
    }
    for service in facts.all("services"):
        spec, name = service.get("spec") or {}, name_of(service)
        if spec.get("type") != "LoadBalancer" or not _has_port(spec, "port", port):
            continue
        addresses = addresses_of(service)
        outside = bool(addresses) and name not in balanced and not nodes & set(addresses)
        how = f"LoadBalancer at {', '.join(addresses) or 'no address yet'}"
        how = "ServiceLB uses it on every node" if name in balanced else how
        yield Holder("service", name, how, is_traefik(service), outside)


def _pods(facts: Facts, port: int, services: set[str]) -> Iterator[Holder]:
    for pod in facts.running:
        if f"{label_of(pod, _OF_NAMESPACE)}/{label_of(pod, _OF_SERVICE)}" in services:
            continue
        spec, containers = pod["spec"], pod["spec"].get("containers") or ()
        if any(_has_port(container, "hostPort", port) for container in containers):
            yield Holder("pod", name_of(pod), f"host port on {spec['nodeName']}", is_traefik(pod))
        elif spec.get("hostNetwork") and any(
            _has_port(container, "containerPort", port) for container in containers
        ):
            yield Holder(
                "pod", name_of(pod), f"host network of {spec['nodeName']}", is_traefik(pod)
            )


def _has_port(spec: dict[str, Any], key: str, port: int) -> bool:
    return any(
        one.get(key) == port and one.get("protocol", "TCP") == "TCP"
        for one in spec.get("ports") or ()
    )


def _probed(facts: Facts, port: int, outcome: str) -> list[str]:
    """Addresses of nodes at which a connection to this port had this outcome."""
    return [
        probe.address for probe in facts.probes if probe.port == port and probe.outcome == outcome
    ]


def disabled(facts: Facts) -> set[str]:
    """Parts that K3s was told not to install (`--disable`), from the annotation that its servers
    put on their nodes.
    """
    found: set[str] = set()
    for node in facts.all("nodes"):
        try:
            words = json.loads((node["metadata"].get("annotations") or {}).get(NODE_ARGS, "[]"))
        except ValueError:
            continue
        for before, word in zip(["", *words], words, strict=False):
            if before == "--disable" or word.startswith("--disable="):
                found.update(word.removeprefix("--disable=").split(","))
    return found


def entry_lines(
    facts: Facts, ingress: Ingress, *, rdp: bool, own: frozenset[str]
) -> Iterator[Finding]:
    """Ports and who leads in. `own`: `NAMESPACE/NAME` of Services of the Kasm that runs there
    now.
    """
    unread = facts.missing("services", "daemonsets", "pods", "nodes")
    if unread is not None:
        yield unreadable_finding("port-443", _EXPECTED_443[ingress], unread)
        yield unreadable_finding("port-3389", _expected_3389(rdp), unread)
    else:
        yield port_443_line(facts, ingress, own)
        yield port_3389_line(facts, is_requested=rdp, own=own)
    yield way_in_line(facts, ingress)


_EXPECTED_443 = {
    Ingress.TRAEFIK: "held by Traefik",
    Ingress.LOADBALANCER: "free for Kasm's LoadBalancer Service",
    Ingress.NONE: "nothing: Kasm's Service is internal",
}


def _expected_3389(rdp: bool) -> str:
    return (
        "free for RDP directly to Kasm" if rdp else "nothing: RDP directly to Kasm is not requested"
    )


def _seen(facts: Facts, port: int, found: list[Holder]) -> str:
    if found:
        return "held by " + "; ".join(f"{one.kind} {one.name} ({one.how})" for one in found)
    if there := _probed(facts, port, "open"):
        return f"no object of the cluster uses it, but something responds at {listed(there)}"
    if quiet := _probed(facts, port, "silent"):
        reason = "a firewall, or no route from here"
        return (
            f"no object of the cluster uses it; no response at all from {listed(quiet)} ({reason})"
        )
    return "free"


def _users(
    facts: Facts, port: int, own: frozenset[str]
) -> tuple[list[Holder], list[Holder], list[str]]:
    """Holders of the port, those of them that keep it from Kasm, and addresses where something
    responds.
    """
    found = holders(facts, port)
    others = [one for one in found if not one.own_address and one.name not in own]
    return found, others, _probed(facts, port, "open")


def port_443_line(facts: Facts, ingress: Ingress, own: frozenset[str] = frozenset()) -> Finding:
    """Whether those that have it are those that shall have it."""
    found, others, answering = _users(facts, HTTPS, own)
    line = partial(item, "port-443", _EXPECTED_443[ingress], _seen(facts, HTTPS, found))
    if ingress is Ingress.NONE:
        return line()
    if ingress is Ingress.TRAEFIK:
        if any(one.is_traefik for one in found):
            return line()
        if not found and not answering:
            return line(
                Severity.WARNING,
                "Nothing accepts connections at the port; see item `way-in`.",
                _look(HTTPS),
            )
        message = "Requests for Kasm would go to the other program, not to Traefik."
        return line(Severity.ERROR, message, _free_it(others, HTTPS))
    if any(other.is_traefik for other in others):
        message = (
            "Traefik uses the port on every node, so Kasm's LoadBalancer Service would stay"
            " Pending."
        )
        remedy = Remedy(
            "Let Traefik route to Kasm (vdi kasm values render --ingress traefik), or K3s"
            " --disable=traefik."
        )
        return line(Severity.ERROR, message, remedy)
    if others:
        return line(
            Severity.ERROR,
            "Kasm's LoadBalancer Service would stay Pending.",
            _free_it(others, HTTPS),
        )
    if answering and not found:
        message = "A program on the node itself uses it, which Kubernetes does not see."
        return line(
            Severity.ERROR, message, Remedy(f"On {answering[0]}:", ("ss -ltnp 'sport = :443'",))
        )
    return line()


def port_3389_line(
    facts: Facts, *, is_requested: bool, own: frozenset[str] = frozenset()
) -> Finding:
    """Only needed where people's own RDP clients connect to Kasm."""
    found, others, answering = _users(facts, RDP, own)
    line = partial(item, "port-3389", _expected_3389(is_requested), _seen(facts, RDP, found))
    if not is_requested or not (others or (answering and not found)):
        return line()
    on_node = Remedy(f"On {listed(answering)} (often it is xrdp):", ("ss -ltnp 'sport = :3389'",))
    remedy = _free_it(others, RDP) if others else on_node
    return line(Severity.ERROR, "The Service for direct RDP would stay Pending.", remedy)


def _free_it(found: list[Holder], port: int) -> Remedy:
    if not found:
        return _look(port)
    namespace, _, name = found[0].name.partition("/")
    command = f"kubectl --namespace {namespace} get {found[0].kind} {name}"
    return Remedy("Remove it, or give it another port.", (command,))


def _look(port: int) -> Remedy:
    commands = ("kubectl get service -A", f"ss -ltnp 'sport = :{port}'")
    return Remedy("Find the Service that uses it; then, on the node, the program.", commands)


def way_in_line(facts: Facts, ingress: Ingress) -> Finding:
    """The controller that routes requests to Kasm."""
    if ingress is Ingress.TRAEFIK:
        return _traefik_line(facts)
    if ingress is Ingress.LOADBALANCER:
        return _load_balancer_line(facts)
    return item("way-in", "nothing: configured elsewhere", "not checked")


def _traefik_line(facts: Facts) -> Finding:
    expected = "a Traefik that is ready, with an IngressClass"
    unread = facts.missing("pods", "ingressclasses")
    if unread is not None:
        return unreadable_finding("way-in", expected, unread)
    pods = [pod for pod in facts.running if is_traefik(pod) and not label_of(pod, _OF_SERVICE)]
    ready = [pod for pod in pods if is_ready(pod)]
    classes = {
        str(one["metadata"]["name"]): one.get("spec") or {} for one in facts.all("ingressclasses")
    }
    own = [name for name, spec in classes.items() if spec.get("controller") == _TRAEFIK_CONTROLLER]
    observed = (
        f"{len(ready)} of {len(pods)} Traefik pods ready; ingress classes:"
        f" {listed(sorted(classes))}"
    )
    line = partial(item, "way-in", expected, observed)
    if ready and own:
        return line()
    if ready:
        remedy = Remedy("Set ingressClass.enabled=true in the values of Traefik's chart.")
        return line(
            Severity.WARNING,
            "Traefik runs, but has no IngressClass: it might not accept Kasm's Ingress.",
            remedy,
        )
    if pods:
        namespace, _, name = name_of(pods[0]).partition("/")
        return line(
            Severity.ERROR,
            "Traefik is not running.",
            Remedy.run(f"kubectl --namespace {namespace} describe pod {name}"),
        )
    if "traefik" in disabled(facts):
        message = "K3s was started with --disable=traefik, and there is no other Traefik."
        how = (
            "Install a Traefik, or take `traefik` out of `disable` in /etc/rancher/k3s/config.yaml"
            " and restart k3s."
        )
        return line(Severity.ERROR, message, Remedy(how))
    if own:
        message = (
            "Its IngressClass exists, but it has no pod: it runs outside the cluster, or no longer"
            " runs."
        )
        return line(
            Severity.WARNING,
            message,
            Remedy.run("kubectl get pods -A -l app.kubernetes.io/name=traefik"),
        )
    if classes:
        message = "There is another ingress controller, which this command does not check."
        remedy = Remedy(f"Set it in the values (ingress.ingressClassName: {min(classes)}).")
        return line(Severity.WARNING, message, remedy)
    remedy = Remedy(
        "Install Traefik, or use a LoadBalancer (vdi kasm values render --ingress loadbalancer)."
    )
    return line(Severity.ERROR, "There is no ingress controller.", remedy)


def _load_balancer_line(facts: Facts) -> Finding:
    expected = "a controller that gives LoadBalancer Services an address"
    unread = facts.missing("services", "daemonsets", "nodes")
    if unread is not None:
        return unreadable_finding("way-in", expected, unread)
    line = partial(item, "way-in", expected)
    if balanced := [
        name_of(daemonset)
        for daemonset in facts.all("daemonsets")
        if label_of(daemonset, _OF_SERVICE)
    ]:
        return line(f"ServiceLB of K3s ({listed(balanced)})")
    services = [
        one
        for one in facts.all("services")
        if (one.get("spec") or {}).get("type") == "LoadBalancer"
    ]
    if given := [name_of(service) for service in services if addresses_of(service)]:
        return line(f"services with an address: {listed(given)}")
    if "servicelb" in disabled(facts):
        message = "K3s was started with --disable=servicelb, and nothing else provides addresses."
        how = (
            "Take `servicelb` out of `disable` in /etc/rancher/k3s/config.yaml and restart k3s, or"
            " install MetalLB."
        )
        return line("none", Severity.ERROR, message, Remedy(how))
    if any("+k3s" in version for version in kubelet_versions(facts)):
        return line("K3s with its ServiceLB, which no Service uses yet")
    message = "Whether a Service would get an address is unknown."
    try_it = Remedy.run(
        "kubectl create service loadbalancer probe --tcp=8443", "kubectl get service probe --watch"
    )
    return line("there is no LoadBalancer Service to check", Severity.UNKNOWN, message, try_it)


def dns_line(facts: Facts) -> Finding:
    """Whether the name leads to a node or to a load balancer, as seen from here."""
    expected, found = "a name that points to a node or to the load balancer", facts.resolution
    if found is None:
        remedy = Remedy("Set it: vdi kasm preflight --hostname.")
        return unreadable_finding(
            "dns",
            expected,
            Unreadable("names", "No host name was given, so none was resolved.", remedy),
        )
    unread = facts.missing("nodes", "services")
    if unread is not None and not found.problem:
        return unreadable_finding("dns", expected, unread)
    targets = _targets(facts)
    target = next(iter(targets), "the address of a node")
    if found.problem:
        message = (
            f"This machine cannot resolve it ({found.problem}), so neither can a browser here."
        )
        return item(
            "dns",
            expected,
            f"{found.host}: no address",
            Severity.ERROR,
            message,
            Remedy(f"Create a DNS record A {found.host} -> {target}."),
        )
    reached = [
        f"{address}, {targets[address]}" for address in found.addresses if address in targets
    ]
    strangers = [address for address in found.addresses if address not in targets]
    line = partial(item, "dns", expected, f"{found.host} -> {listed(reached + strangers)}")
    if not strangers:
        return line()
    known = listed(f"{address} ({whose})" for address, whose in targets.items())
    message = (
        f"{listed(strangers)} is not an address that the cluster knows: {known}. That is correct"
        " only if a router or a proxy forwards requests."
    )
    return line(
        Severity.WARNING,
        message,
        Remedy(f"If there is no record, create a DNS record A {found.host} -> {target}."),
    )


def _targets(facts: Facts) -> dict[str, str]:
    """Addresses at which the cluster can be reached, and whose they are; outside ones first."""
    found: dict[str, str] = {}
    for service in facts.all("services"):
        for address in addresses_of(service):
            found.setdefault(address, f"service {name_of(service)}")
    nodes = sorted(
        (kind, address, node["metadata"]["name"])
        for node in facts.all("nodes")
        for address, kind in node_addresses(node).items()
    )
    return {**found, **{address: f"{kind} of node {name}" for kind, address, name in nodes}}
