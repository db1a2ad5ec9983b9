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


def bare() -> Facts:
    """K3s without Traefik: no one has a port."""
    return msgspec.structs.replace(
        changed(k3s_with_traefik(), pods=[], services=[], daemonsets=[], ingressclasses=[]),
        probes=(Probe("192.0.2.10", 443, "refused"), Probe("192.0.2.10", 3389, "refused")),
    )


def names(found: list[Holder]) -> list[str]:
    return [f"{holder.kind} {holder.name}" for holder in found]


def test_traefik_on_443_is_required_or_conflicts() -> None:
    expected = port_443_line(k3s_with_traefik(), Ingress.TRAEFIK)
    assert expected.severity is Severity.OK
    assert expected.observed == "held by service kube-system/traefik (ServiceLB uses it on every node)"
    in_the_way = port_443_line(k3s_with_traefik(), Ingress.LOADBALANCER)
    assert in_the_way.severity is Severity.ERROR
    assert "vdi kasm values render --ingress traefik" in in_the_way.remedy.text
    assert "--disable=traefik" in in_the_way.remedy.text
    assert port_443_line(k3s_with_traefik(), Ingress.NONE).severity is Severity.OK


def test_a_free_port() -> None:
    assert port_443_line(bare(), Ingress.LOADBALANCER).severity is Severity.OK
    assert port_443_line(bare(), Ingress.LOADBALANCER).observed == "free"
    assert port_443_line(bare(), Ingress.TRAEFIK).severity is Severity.WARNING


def test_own_service_does_not_conflict() -> None:
    facts = changed(bare(), services=[a_service("kasm-proxy", 443, namespace="kasm")])
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.ERROR
    assert port_443_line(facts, Ingress.LOADBALANCER, frozenset({"kasm/kasm-proxy"})).severity is Severity.OK


def test_load_balancer_with_own_address_occupies_no_port() -> None:
    facts = changed(bare(), services=[a_service("other", 443, address="198.51.100.7")])
    line = port_443_line(facts, Ingress.LOADBALANCER)
    assert line.severity is Severity.OK
    assert "LoadBalancer at 198.51.100.7" in line.observed


@pytest.mark.parametrize("host_network", [False, True])
def test_pods_with_host_ports_are_found_and_ended_ones_are_not(host_network: bool) -> None:
    port = {"containerPort": 443} if host_network else {"containerPort": 8443, "hostPort": 443}
    pods = [
        a_pod("nginx", namespace="web", ports=(port,), host_network=host_network),
        a_pod("old", namespace="web", ports=(port,), host_network=host_network, phase="Succeeded"),
        a_pod("inside", namespace="web", ports=({"containerPort": 443},)),
        a_pod("udp", namespace="web", ports=({"hostPort": 443, "containerPort": 443, "protocol": "UDP"},)),
    ]
    facts = changed(bare(), pods=pods)
    assert names(holders(facts, 443)) == ["pod web/nginx"]
    assert port_443_line(facts, Ingress.TRAEFIK).severity is Severity.ERROR
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.ERROR


def test_svclb_pod_counts_as_its_service_once() -> None:
    assert names(holders(k3s_with_traefik(), 443)) == ["service kube-system/traefik"]
    orphan = a_pod(
        "svclb-gone-1", labels={SVCLB: "gone", SVCLB_NAMESPACE: "web"}, ports=({"hostPort": 443, "containerPort": 443},)
    )
    assert names(holders(changed(bare(), pods=[orphan]), 443)) == ["pod kube-system/svclb-gone-1"]


def test_port_used_by_a_node_program_is_an_error() -> None:
    facts = msgspec.structs.replace(bare(), probes=(Probe("192.0.2.10", 443, "open"),))
    line = port_443_line(facts, Ingress.LOADBALANCER)
    assert line.severity is Severity.ERROR
    assert "something responds at 192.0.2.10" in line.observed
    assert line.remedy.text == "On 192.0.2.10: ss -ltnp 'sport = :443'"
    assert port_443_line(facts, Ingress.TRAEFIK).severity is Severity.ERROR


def test_3389_is_requested_only_for_direct_rdp() -> None:
    xrdp = msgspec.structs.replace(bare(), probes=(Probe("192.0.2.10", 3389, "open"),))
    assert port_3389_line(xrdp, is_requested=False).severity is Severity.OK
    assert "xrdp" in port_3389_line(xrdp, is_requested=True).remedy.text
    assert port_3389_line(xrdp, is_requested=True).severity is Severity.ERROR
    held = changed(bare(), services=[a_service("rdp", 3389)])
    assert port_3389_line(held, is_requested=True).severity is Severity.ERROR
    assert port_3389_line(bare(), is_requested=True).severity is Severity.OK
    values = {"directRdpService": {"enabled": True}}
    assert line_of("port-3389", held, a_plan("C", values)).severity is Severity.ERROR


def test_traefik_ingress_is_checked() -> None:
    good = k3s_with_traefik()
    assert way_in_line(good, Ingress.TRAEFIK).severity is Severity.OK
    ill = changed(good, pods=[a_pod("traefik-1", labels=TRAEFIK, ready=False)])
    assert "kubectl --namespace kube-system describe pod traefik-1" in way_in_line(ill, Ingress.TRAEFIK).remedy.text
    assert way_in_line(changed(good, ingressclasses=[]), Ingress.TRAEFIK).severity is Severity.WARNING
    assert way_in_line(bare(), Ingress.TRAEFIK).severity is Severity.ERROR
    outside = way_in_line(changed(good, pods=[]), Ingress.TRAEFIK)
    assert (outside.severity, "outside the cluster" in outside.message) == (Severity.WARNING, True)


def test_k3s_that_leaves_traefik_out() -> None:
    for args in (("server", "--disable", "traefik"), ("server", "--disable=servicelb,traefik")):
        line = way_in_line(changed(bare(), nodes=[a_node(args=args)]), Ingress.TRAEFIK)
        assert line.severity is Severity.ERROR
        assert "--disable=traefik" in line.message


def test_another_ingress_controller_is_a_warning() -> None:
    nginx = [{"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}]
    line = way_in_line(changed(bare(), ingressclasses=nginx), Ingress.TRAEFIK)
    assert line.severity is Severity.WARNING
    assert "ingressClassName: nginx" in line.remedy.text


def test_load_balancer_ingress_is_checked() -> None:
    assert "svclb-traefik" in way_in_line(k3s_with_traefik(), Ingress.LOADBALANCER).observed
    assert way_in_line(bare(), Ingress.LOADBALANCER).severity is Severity.OK
    off = changed(bare(), nodes=[a_node(args=("server", "--disable", "servicelb"))])
    assert way_in_line(off, Ingress.LOADBALANCER).severity is Severity.ERROR
    metallb = changed(off, services=[a_service("other", 80, address="198.51.100.7")])
    assert way_in_line(metallb, Ingress.LOADBALANCER).severity is Severity.OK
    kubeadm = changed(bare(), nodes=[a_node(version="v1.34.4", args=())])
    assert way_in_line(kubeadm, Ingress.LOADBALANCER).severity is Severity.UNKNOWN


def named(*addresses: str, problem: str = "") -> Facts:
    return msgspec.structs.replace(
        k3s_with_traefik(), resolution=Resolution("kasm.example.com", addresses, problem=problem)
    )


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
    assert dns_line(msgspec.structs.replace(k3s_with_traefik(), resolution=None)).severity is Severity.UNKNOWN


def test_ingress_kind_is_read_from_the_values() -> None:
    assert a_plan("C").ingress is Ingress.TRAEFIK
    assert a_plan("C", {"publicAddr": "kasm.example.com"}).ingress is Ingress.LOADBALANCER
    assert a_plan("C", {"ingress": {"enabled": True}}).ingress is Ingress.TRAEFIK
    assert a_plan("C", {"proxyService": {"type": "ClusterIP"}}).ingress is Ingress.NONE
    assert a_plan("A", {"global": {"hostname": "kasm.example.com"}}).ingress is Ingress.TRAEFIK
    assert a_plan("A", {"global": {"hostname": "kasm.example.com"}}).hostname == "kasm.example.com"
