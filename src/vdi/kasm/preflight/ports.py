"""Who holds a port of the nodes: LoadBalancer Services (ServiceLB), host ports, host networks, other programs. Pure.

ServiceLB runs one DaemonSet `svclb-...` for each LoadBalancer Service, with the Service's ports as host ports:
https://docs.k3s.io/networking/networking-services
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdi.kasm.preflight.checklist import label_of
from vdi.kasm.preflight.facts import Facts

_OF_SERVICE = "svccontroller.k3s.cattle.io/svcname"
_OF_NAMESPACE = "svccontroller.k3s.cattle.io/svcnamespace"
NODE_ARGS = "k3s.io/node-args"


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who has a port."""

    kind: str
    """As kubectl takes it."""
    namespace: str
    name: str
    how: str
    is_traefik: bool = False
    own_address: bool = False
    """It has the port at an address of its own, which is not a node's: it keeps the port from no one else."""

    @property
    def what(self) -> str:
        """For sentences: kind and namespace/name."""
        return f"{self.kind} {self.namespace}/{self.name}"


def is_traefik(raw: dict[str, Any]) -> bool:
    """Whether it belongs to a Traefik, as its chart and K3s label it."""
    return "traefik" in (label_of(raw, "app.kubernetes.io/name"), label_of(raw, "app"))


def holders(facts: Facts, port: int) -> list[Holder]:
    """All who have this TCP port on nodes, each once."""
    found: dict[str, Holder] = {}
    services = list(_services(facts, port))
    for service in [*services, *_pods(facts, port, {service.what for service in services})]:
        found.setdefault(service.what, service)
    return list(found.values())


def _services(facts: Facts, port: int) -> Iterator[Holder]:
    nodes = {
        address["address"]
        for node in facts.all("nodes")
        for address in (node.get("status") or {}).get("addresses") or ()
    }
    balanced = {
        (label_of(daemonset, _OF_NAMESPACE), label_of(daemonset, _OF_SERVICE))
        for daemonset in facts.all("daemonsets")
        if label_of(daemonset, _OF_SERVICE)
    }
    for service in facts.all("services"):
        spec, meta = service.get("spec") or {}, service["metadata"]
        if spec.get("type") != "LoadBalancer":
            continue
        if not any(one.get("port") == port and one.get("protocol", "TCP") == "TCP" for one in spec.get("ports") or ()):
            continue
        given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        addresses = {str(one.get("ip") or one.get("hostname")) for one in given}
        by_service_lb = (meta["namespace"], meta["name"]) in balanced
        outside = bool(addresses) and not by_service_lb and not addresses & nodes
        how = (
            "ServiceLB uses it on every node"
            if by_service_lb
            else f"LoadBalancer at {', '.join(addresses) or 'no address yet'}"
        )
        yield Holder("service", meta["namespace"], meta["name"], how, is_traefik(service), outside)


def _pods(facts: Facts, port: int, services: set[str]) -> Iterator[Holder]:
    for pod in facts.running:
        served = f"service {label_of(pod, _OF_NAMESPACE)}/{label_of(pod, _OF_SERVICE)}"
        if served in services:
            continue
        spec, meta = pod["spec"], pod["metadata"]
        for container in spec.get("containers") or ():
            for one in container.get("ports") or ():
                if one.get("protocol", "TCP") != "TCP":
                    continue
                if one.get("hostPort") == port:
                    yield Holder(
                        "pod", meta["namespace"], meta["name"], f"host port on {spec['nodeName']}", is_traefik(pod)
                    )
                elif spec.get("hostNetwork") and one.get("containerPort") == port:
                    yield Holder(
                        "pod", meta["namespace"], meta["name"], f"host network of {spec['nodeName']}", is_traefik(pod)
                    )


def answering(facts: Facts, port: int) -> list[str]:
    """Addresses of nodes at which something takes connections at this port."""
    return [probe.address for probe in facts.probes if probe.port == port and probe.outcome == "open"]


def silent(facts: Facts, port: int) -> list[str]:
    """Addresses of nodes from which nothing at all came: a firewall, or no way to them from here."""
    return [probe.address for probe in facts.probes if probe.port == port and probe.outcome == "silent"]


def disabled(facts: Facts) -> set[str]:
    """What K3s was configured not to install (`--disable`), from the annotation that its servers put on their nodes."""
    found: set[str] = set()
    for node in facts.all("nodes"):
        try:
            words = json.loads((node["metadata"].get("annotations") or {}).get(NODE_ARGS, "[]"))
        except ValueError:
            continue
        for number, word in enumerate(words):
            if word == "--disable" and number + 1 < len(words):
                found.update(words[number + 1].split(","))
            elif word.startswith("--disable="):
                found.update(word.partition("=")[2].split(","))
    return found


def on_k3s(facts: Facts) -> bool:
    """Whether a node is one of K3s."""
    return any(
        "+k3s" in ((node.get("status") or {}).get("nodeInfo") or {}).get("kubeletVersion", "")
        for node in facts.all("nodes")
    )
