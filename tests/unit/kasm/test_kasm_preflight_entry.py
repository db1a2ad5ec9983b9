"""Lines about the way in: ports, name, Traefik or a load balancer; each good and bad."""

import msgspec
import pytest

from unit.kasm.preflight_site import (
    SVCLB,
    SVCLB_NAMESPACE,
    TRAEFIK,
    a_node,
    a_plan,
    a_pod,
    a_service,
    changed,
    k3s_with_traefik,
    line_of,
)
from vdi.findings.model import Severity
from vdi.kasm.preflight.entry import Holder, dns_line, holders, port_443_line, port_3389_line, way_in_line
from vdi.kasm.preflight.facts import Facts, Probe, Resolution
from vdi.kasm.values.render import Ingress

K3S = k3s_with_traefik()
# K3s without Traefik: no one has a port.
BARE = msgspec.structs.replace(
    changed(K3S, pods=[], services=[], daemonsets=[], ingressclasses=[]),
    probes=(Probe("192.0.2.10", 443, "refused"), Probe("192.0.2.10", 3389, "refused")),
)
NODE_PROGRAM = msgspec.structs.replace(BARE, probes=(Probe("192.0.2.10", 443, "open"),))
OWN_ADDRESS = changed(BARE, services=[a_service("other", 443, address="198.51.100.7")])


def names(found: list[Holder]) -> list[str]:
    return [f"{holder.kind} {holder.name}" for holder in found]


@pytest.mark.parametrize(
    ("facts", "ingress", "severity", "words"),
    [
        (K3S, "traefik", "ok", "held by service kube-system/traefik (ServiceLB uses it on every node)"),
        (K3S, "loadbalancer", "error", "vdi kasm values render --ingress traefik"),
        (K3S, "loadbalancer", "error", "--disable=traefik"),
        (K3S, "none", "ok", ""),
        (BARE, "loadbalancer", "ok", "free"),
        (BARE, "traefik", "warning", ""),
        (OWN_ADDRESS, "loadbalancer", "ok", "LoadBalancer at 198.51.100.7"),
        (NODE_PROGRAM, "loadbalancer", "error", "something responds at 192.0.2.10"),
        (NODE_PROGRAM, "loadbalancer", "error", "On 192.0.2.10: ss -ltnp 'sport = :443'"),
        (NODE_PROGRAM, "traefik", "error", ""),
    ],
)
def test_port_443_is_free_or_traefiks(facts: Facts, ingress: str, severity: str, words: str) -> None:
    line = port_443_line(facts, Ingress(ingress))
    assert line.severity == severity
    assert words in f"{line.observed}\n{line.remedy.text}"


def test_own_service_does_not_conflict() -> None:
    facts = changed(BARE, services=[a_service("kasm-proxy", 443, namespace="kasm")])
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.ERROR
    assert port_443_line(facts, Ingress.LOADBALANCER, frozenset({"kasm/kasm-proxy"})).severity is Severity.OK


@pytest.mark.parametrize("host_network", [False, True])
def test_pods_with_host_ports_are_found_and_ended_ones_are_not(host_network: bool) -> None:
    port = {"containerPort": 443} if host_network else {"containerPort": 8443, "hostPort": 443}
    pods = [
        a_pod("nginx", namespace="web", ports=(port,), host_network=host_network),
        a_pod("old", namespace="web", ports=(port,), host_network=host_network, phase="Succeeded"),
        a_pod("inside", namespace="web", ports=({"containerPort": 443},)),
        a_pod("udp", namespace="web", ports=({"hostPort": 443, "containerPort": 443, "protocol": "UDP"},)),
    ]
    facts = changed(BARE, pods=pods)
    assert names(holders(facts, 443)) == ["pod web/nginx"]
    assert port_443_line(facts, Ingress.TRAEFIK).severity is Severity.ERROR
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.ERROR


def test_svclb_pod_counts_as_its_service_once() -> None:
    assert names(holders(K3S, 443)) == ["service kube-system/traefik"]
    orphan = a_pod(
        "svclb-gone-1", labels={SVCLB: "gone", SVCLB_NAMESPACE: "web"}, ports=({"hostPort": 443, "containerPort": 443},)
    )
    assert names(holders(changed(BARE, pods=[orphan]), 443)) == ["pod kube-system/svclb-gone-1"]


def test_3389_is_requested_only_for_direct_rdp() -> None:
    xrdp = msgspec.structs.replace(BARE, probes=(Probe("192.0.2.10", 3389, "open"),))
    assert port_3389_line(xrdp, is_requested=False).severity is Severity.OK
    assert "xrdp" in port_3389_line(xrdp, is_requested=True).remedy.text
    assert port_3389_line(xrdp, is_requested=True).severity is Severity.ERROR
    held = changed(BARE, services=[a_service("rdp", 3389)])
    assert port_3389_line(held, is_requested=True).severity is Severity.ERROR
    assert port_3389_line(BARE, is_requested=True).severity is Severity.OK
    values = {"directRdpService": {"enabled": True}}
    assert line_of("port-3389", held, a_plan("C", values)).severity is Severity.ERROR


def with_args(*args: str, version: str = "v1.34.4+k3s1") -> Facts:
    return changed(BARE, nodes=[a_node(args=args, version=version)])


NGINX = [{"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}]
NO_LB = with_args("server", "--disable", "servicelb")
METALLB = changed(NO_LB, services=[a_service("other", 80, address="198.51.100.7")])
UNREADY = changed(K3S, pods=[a_pod("traefik-1", labels=TRAEFIK, ready=False)])


@pytest.mark.parametrize(
    ("facts", "ingress", "severity", "words"),
    [
        (K3S, "traefik", "ok", ""),
        (UNREADY, "traefik", "error", "kubectl --namespace kube-system describe pod traefik-1"),
        (changed(K3S, ingressclasses=[]), "traefik", "warning", ""),
        (BARE, "traefik", "error", ""),
        (changed(K3S, pods=[]), "traefik", "warning", "outside the cluster"),
        (with_args("server", "--disable", "traefik"), "traefik", "error", "--disable=traefik"),
        (with_args("server", "--disable=servicelb,traefik"), "traefik", "error", "--disable=traefik"),
        (changed(BARE, ingressclasses=NGINX), "traefik", "warning", "ingressClassName: nginx"),
        (K3S, "loadbalancer", "ok", "svclb-traefik"),
        (BARE, "loadbalancer", "ok", ""),
        (NO_LB, "loadbalancer", "error", ""),
        (METALLB, "loadbalancer", "ok", ""),
        (with_args(version="v1.34.4"), "loadbalancer", "unknown", ""),
    ],
)
def test_way_in_needs_what_serves_it(facts: Facts, ingress: str, severity: str, words: str) -> None:
    line = way_in_line(facts, Ingress(ingress))
    assert line.severity == severity
    assert words in f"{line.observed}\n{line.message}\n{line.remedy.text}"


def named(*addresses: str, problem: str = "") -> Facts:
    return msgspec.structs.replace(K3S, resolution=Resolution("kasm.example.com", addresses, problem=problem))


def test_names() -> None:
    good = dns_line(named("192.0.2.10"))
    assert good.severity is Severity.OK
    assert good.observed == "kasm.example.com -> 192.0.2.10, InternalIP of node k3s-1"
    stranger = dns_line(named("203.0.113.5"))
    assert stranger.severity is Severity.WARNING
    assert "192.0.2.10 (InternalIP of node k3s-1)" in stranger.message
    nowhere = dns_line(named(problem="Name or service not known"))
    assert nowhere.severity is Severity.ERROR
    assert "A kasm.example.com -> 192.0.2.10" in nowhere.remedy.text
    assert dns_line(msgspec.structs.replace(K3S, resolution=None)).severity is Severity.UNKNOWN


def test_ingress_kind_is_read_from_the_values() -> None:
    assert a_plan("C").ingress is Ingress.TRAEFIK
    assert a_plan("C", {"publicAddr": "kasm.example.com"}).ingress is Ingress.LOADBALANCER
    assert a_plan("C", {"ingress": {"enabled": True}}).ingress is Ingress.TRAEFIK
    assert a_plan("C", {"proxyService": {"type": "ClusterIP"}}).ingress is Ingress.NONE
    assert a_plan("A", {"global": {"hostname": "kasm.example.com"}}).ingress is Ingress.TRAEFIK
    assert a_plan("A", {"global": {"hostname": "kasm.example.com"}}).hostname == "kasm.example.com"
