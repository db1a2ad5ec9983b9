"""Items about the way in: ports 443 and 3389, the host name, and who leads requests to Kasm. Pure.

ServiceLB runs one DaemonSet `svclb-...` for each LoadBalancer Service, with the Service's ports as
host ports: https://docs.k3s.io/networking/networking-services
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vdi.findings.model import Finding, Remedy
from vdi.kasm.checklist import Item, error, listed, passed, unknown, warning
from vdi.kasm.preflight.model import Preflight, name_of, node_addresses
from vdi.kasm.preflight.nodes import kubelet_versions
from vdi.kasm.values.render import Ingress
from vdi.snapshot.objects.meta import Meta
from vdi.snapshot.objects.network import Service

HTTPS, RDP = 443, 3389
_OF_SERVICE = "svccontroller.k3s.cattle.io/svcname"
_OF_NAMESPACE = "svccontroller.k3s.cattle.io/svcnamespace"
_TRAEFIK_CONTROLLER = "traefik.io/ingress-controller"

_PORT_NEEDS = ("services", "daemonsets", "pods", "nodes")
_EXPECTED_443 = {
    Ingress.TRAEFIK: "held by Traefik",
    Ingress.LOADBALANCER: "free for Kasm's LoadBalancer Service",
    Ingress.NONE: "nothing: Kasm's Service is internal",
}


def entry_items(preflight: Preflight) -> Iterator[Item]:
    """Ports, who leads in, and the host name."""
    ingress, resolution = preflight.planned.ingress, preflight.surroundings.resolution
    yield Item("port-443", _EXPECTED_443[ingress], _PORT_NEEDS, check_port_443)
    free = "nothing: RDP directly to Kasm is not requested"
    if preflight.planned.rdp:
        free = "free for RDP directly to Kasm"
    yield Item("port-3389", free, _PORT_NEEDS, check_port_3389)
    yield way_in_item(ingress)
    # Without an address it fails, whatever the addresses of the cluster are.
    needs = ("nodes", "services") if resolution and not resolution.problem else ()
    expected = "a name that points to a node or to the load balancer"
    yield Item("dns", expected, needs, check_dns)


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
    # It belongs to the Kasm that the planned release replaces.
    is_replaced: bool = False


def _is_traefik(metadata: Meta) -> bool:
    """Whether it belongs to a Traefik, as its chart and K3s label it."""
    labels = metadata.labels
    return "traefik" in (labels.get("app.kubernetes.io/name"), labels.get("app"))


def _balanced_service(metadata: Meta) -> str:
    """`NAMESPACE/NAME` of the Service that this DaemonSet or pod of ServiceLB is for."""
    return f"{metadata.labels.get(_OF_NAMESPACE, '')}/{metadata.labels.get(_OF_SERVICE, '')}"


def holders(preflight: Preflight, port: int) -> list[Holder]:
    """Services and pods that use this TCP port on nodes, each once."""
    services = list(_services(preflight, port))
    names = {service.name for service in services}
    both = [*_pods(preflight, port, names), *services]
    return list({holder.name: holder for holder in both}.values())


def _services(preflight: Preflight, port: int) -> Iterator[Holder]:
    objects = preflight.snapshot.objects
    nodes = {address for node in objects.nodes for address in node_addresses(node)}
    balanced = {_balanced_service(daemonset.metadata) for daemonset in objects.daemonsets}
    for service in _load_balancers(preflight):
        if (port, "TCP") not in [(each.port, each.protocol) for each in service.spec.ports]:
            continue
        name, addresses = name_of(service), service.status.addresses
        how = f"LoadBalancer at {', '.join(addresses) or 'no address yet'}"
        if name in balanced:
            how = "ServiceLB uses it on every node"
        yield Holder(
            "service",
            name,
            how,
            is_traefik=_is_traefik(service.metadata),
            own_address=bool(addresses) and name not in balanced and nodes.isdisjoint(addresses),
            is_replaced=preflight.replaces(service),
        )


def _load_balancers(preflight: Preflight) -> list[Service]:
    services = preflight.snapshot.objects.services
    return [service for service in services if service.spec.type == "LoadBalancer"]


def _pods(preflight: Preflight, port: int, services: set[str]) -> Iterator[Holder]:
    for pod in preflight.running:
        if _balanced_service(pod.metadata) in services:
            continue
        node, how = pod.spec.node_name, ""
        ports = [each for container in pod.spec.containers for each in container.ports]
        if (port, "TCP") in [(each.host_port, each.protocol) for each in ports]:
            how = f"host port on {node}"
        elif pod.spec.host_network and (port, "TCP") in [
            (each.container_port, each.protocol) for each in ports
        ]:
            how = f"host network of {node}"
        if how:
            yield Holder("pod", name_of(pod), how, is_traefik=_is_traefik(pod.metadata))


@dataclass(frozen=True, slots=True)
class PortUse:
    """Users of a port, as objects of the cluster and connections to it show."""

    holders: list[Holder]
    # Addresses of nodes at which something responds, and those without any response.
    responding: list[str]
    silent: list[str]

    @property
    def others(self) -> list[Holder]:
        """Holders that keep it from Kasm."""
        return [
            holder for holder in self.holders if not holder.own_address and not holder.is_replaced
        ]

    @property
    def is_unseen(self) -> bool:
        """Whether a program has it that Kubernetes does not see."""
        return bool(self.responding) and not self.holders

    @property
    def words(self) -> str:
        if self.holders:
            return "held by " + "; ".join(
                f"{holder.kind} {holder.name} ({holder.how})" for holder in self.holders
            )
        no_object = "no object of the cluster uses it"
        if self.responding:
            return f"{no_object}, but something responds at {listed(self.responding)}"
        if self.silent:
            reason = "a firewall, or no route from here"
            return f"{no_object}; no response at all from {listed(self.silent)} ({reason})"
        return "free"


def port_use(preflight: Preflight, port: int) -> PortUse:
    addresses: dict[str, list[str]] = {"open": [], "silent": [], "refused": []}
    for probe in preflight.surroundings.probes:
        if probe.port == port:
            addresses[probe.outcome].append(probe.address)
    return PortUse(holders(preflight, port), addresses["open"], addresses["silent"])


def check_port_443(preflight: Preflight) -> Finding:
    """Whether those that have it are those that shall have it."""
    use = port_use(preflight, HTTPS)
    match preflight.planned.ingress:
        case Ingress.TRAEFIK:
            return _check_port_of_traefik(use)
        case Ingress.LOADBALANCER:
            return _check_port_of_service(use)
        case Ingress.NONE:
            return passed(use.words)


def _check_port_of_traefik(use: PortUse) -> Finding:
    if any(holder.is_traefik for holder in use.holders):
        return passed(use.words)
    if not use.holders and not use.responding:
        message = "Nothing accepts connections at the port; see item `way-in`."
        return warning(use.words, message, _look(HTTPS))
    message = "Requests for Kasm would go to the other program, not to Traefik."
    return error(use.words, message, _free_it(use.others, HTTPS))


def _check_port_of_service(use: PortUse) -> Finding:
    if any(other.is_traefik for other in use.others):
        message = (
            "Traefik uses the port on every node, so Kasm's LoadBalancer Service would stay"
            " Pending."
        )
        remedy = Remedy(
            "Let Traefik route to Kasm (vdi kasm values render --ingress traefik), or K3s"
            " --disable=traefik."
        )
        return error(use.words, message, remedy)
    if use.others:
        message = "Kasm's LoadBalancer Service would stay Pending."
        return error(use.words, message, _free_it(use.others, HTTPS))
    if use.is_unseen:
        message = "A program on the node itself uses it, which Kubernetes does not see."
        remedy = Remedy(f"On {use.responding[0]}:", ("ss -ltnp 'sport = :443'",))
        return error(use.words, message, remedy)
    return passed(use.words)


def check_port_3389(preflight: Preflight) -> Finding:
    """Only needed where people's own RDP clients connect to Kasm."""
    use = port_use(preflight, RDP)
    if not preflight.planned.rdp or not (use.others or use.is_unseen):
        return passed(use.words)
    remedy = Remedy(
        f"On {listed(use.responding)} (often it is xrdp):", ("ss -ltnp 'sport = :3389'",)
    )
    if use.others:
        remedy = _free_it(use.others, RDP)
    return error(use.words, "The Service for direct RDP would stay Pending.", remedy)


def _free_it(others: list[Holder], port: int) -> Remedy:
    if not others:
        return _look(port)
    namespace, _, name = others[0].name.partition("/")
    command = f"kubectl --namespace {namespace} get {others[0].kind} {name}"
    return Remedy("Remove it, or give it another port.", (command,))


def _look(port: int) -> Remedy:
    commands = ("kubectl get service -A", f"ss -ltnp 'sport = :{port}'")
    return Remedy("Find the Service that uses it; then, on the node, the program.", commands)


def way_in_item(ingress: Ingress) -> Item:
    """The controller that routes requests to Kasm."""
    match ingress:
        case Ingress.TRAEFIK:
            expected = "a Traefik that is ready, with an IngressClass"
            return Item("way-in", expected, ("pods", "ingressclasses"), check_traefik)
        case Ingress.LOADBALANCER:
            expected = "a controller that gives LoadBalancer Services an address"
            needs = ("services", "daemonsets", "nodes")
            return Item("way-in", expected, needs, check_load_balancer)
        case Ingress.NONE:
            expected = "nothing: configured elsewhere"
            return Item("way-in", expected, (), lambda _: passed("not checked"))


def check_traefik(preflight: Preflight) -> Finding:
    others = [pod for pod in preflight.running if _OF_SERVICE not in pod.metadata.labels]
    pods = [pod for pod in others if _is_traefik(pod.metadata)]
    ready = sum(pod.ready for pod in pods)
    controllers = {
        ingress_class.metadata.name: ingress_class.spec.controller
        for ingress_class in preflight.snapshot.objects.ingressclasses
    }
    observed = (
        f"{ready} of {len(pods)} Traefik pods ready; ingress classes: {listed(sorted(controllers))}"
    )
    has_class = _TRAEFIK_CONTROLLER in controllers.values()
    if not pods:
        return _explain_no_traefik(preflight, observed, sorted(controllers), has_class=has_class)
    if not ready:
        command = f"kubectl --namespace {pods[0].metadata.namespace} describe pod"
        remedy = Remedy.run(f"{command} {pods[0].metadata.name}")
        return error(observed, "Traefik is not running.", remedy)
    if not has_class:
        message = "Traefik runs, but has no IngressClass: it might not accept Kasm's Ingress."
        remedy = Remedy("Set ingressClass.enabled=true in the values of Traefik's chart.")
        return warning(observed, message, remedy)
    return passed(observed)


def _explain_no_traefik(
    preflight: Preflight, observed: str, classes: list[str], *, has_class: bool
) -> Finding:
    if preflight.is_disabled("traefik"):
        message = "K3s was started with --disable=traefik, and there is no other Traefik."
        remedy = (
            "Install a Traefik, or take `traefik` out of `disable` in /etc/rancher/k3s/config.yaml"
            " and restart k3s."
        )
        return error(observed, message, Remedy(remedy))
    if has_class:
        message = (
            "Its IngressClass exists, but it has no pod: it runs outside the cluster, or no longer"
            " runs."
        )
        command = "kubectl get pods -A -l app.kubernetes.io/name=traefik"
        return warning(observed, message, Remedy.run(command))
    if classes:
        message = "There is another ingress controller, which this command does not check."
        remedy = f"Set it in the values (ingress.ingressClassName: {classes[0]})."
        return warning(observed, message, Remedy(remedy))
    remedy = (
        "Install Traefik, or use a LoadBalancer (vdi kasm values render --ingress loadbalancer)."
    )
    return error(observed, "There is no ingress controller.", Remedy(remedy))


def check_load_balancer(preflight: Preflight) -> Finding:
    daemonsets = preflight.snapshot.objects.daemonsets
    balanced = [name_of(each) for each in daemonsets if _OF_SERVICE in each.metadata.labels]
    if balanced:
        return passed(f"ServiceLB of K3s ({listed(balanced)})")
    services = _load_balancers(preflight)
    served = [name_of(service) for service in services if service.status.addresses]
    if served:
        return passed(f"services with an address: {listed(served)}")
    if preflight.is_disabled("servicelb"):
        message = "K3s was started with --disable=servicelb, and nothing else provides addresses."
        how = (
            "Take `servicelb` out of `disable` in /etc/rancher/k3s/config.yaml and restart k3s, or"
            " install MetalLB."
        )
        return error("none", message, Remedy(how))
    if any("+k3s" in version for version in kubelet_versions(preflight)):
        return passed("K3s with its ServiceLB, which no Service uses yet")
    remedy = Remedy.run(
        "kubectl create service loadbalancer probe --tcp=8443", "kubectl get service probe --watch"
    )
    return unknown(
        "Whether a Service would get an address is unknown.",
        remedy,
        observed="there is no LoadBalancer Service to check",
    )


def check_dns(preflight: Preflight) -> Finding:
    """Whether the name leads to a node or to a load balancer, as seen from here."""
    resolution = preflight.surroundings.resolution
    if resolution is None:
        remedy = Remedy("Set it: vdi kasm preflight --hostname.")
        return unknown("No host name was given, so none was resolved.", remedy)
    targets = _targets(preflight)
    target = next(iter(targets), "the address of a node")
    record = f"a DNS record A {resolution.host} -> {target}."
    if resolution.problem:
        message = (
            f"This machine cannot resolve it ({resolution.problem}), so neither can a browser here."
        )
        return error(f"{resolution.host}: no address", message, Remedy(f"Create {record}"))
    known = [address for address in resolution.addresses if address in targets]
    strangers = [address for address in resolution.addresses if address not in targets]
    reached = [f"{address}, {targets[address]}" for address in known]
    observed = f"{resolution.host} -> {listed(reached + strangers)}"
    if not strangers:
        return passed(observed)
    all_targets = listed(f"{address} ({whose})" for address, whose in targets.items())
    message = (
        f"{listed(strangers)} is not an address that the cluster knows: {all_targets}. That is"
        " correct only if a router or a proxy forwards requests."
    )
    return warning(observed, message, Remedy(f"If there is no record, create {record}"))


def _targets(preflight: Preflight) -> dict[str, str]:
    """Addresses at which the cluster can be reached, and whose they are; outside ones first."""
    targets: dict[str, str] = {}
    for service in preflight.snapshot.objects.services:
        for address in service.status.addresses:
            targets.setdefault(address, f"service {name_of(service)}")
    nodes = sorted(
        (kind, address, node.metadata.name)
        for node in preflight.snapshot.objects.nodes
        for address, kind in node_addresses(node).items()
    )
    for kind, address, name in nodes:
        targets[address] = f"{kind} of node {name}"
    return targets
