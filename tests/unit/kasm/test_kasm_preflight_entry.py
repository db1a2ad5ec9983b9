"""Lines about the way in: ports, name, Traefik or a load balancer; each good and bad."""

import msgspec
import pytest

from unit.kasm.preflight_site import (
    SVCLB,
    SVCLB_NAMESPACE,
    TRAEFIK,
    Site,
    a_node,
    a_plan,
    a_pod,
    a_service,
    changed,
    k3s_with_traefik,
    line_of,
)
from vdi.findings.model import Finding, Severity
from vdi.kasm.preflight.entry import holders
from vdi.kasm.preflight.model import Probe, Resolution
from vdi.kasm.values.render import Ingress

K3S = k3s_with_traefik()
# K3s without Traefik: no one has a port.
BARE = msgspec.structs.replace(
    changed(K3S, pods=[], services=[], daemonsets=[], ingressclasses=[]),
    probes=(Probe("192.0.2.10", 443, "refused"), Probe("192.0.2.10", 3389, "refused")),
)
NODE_PROGRAM = msgspec.structs.replace(BARE, probes=(Probe("192.0.2.10", 443, "open"),))
OWN_ADDRESS = changed(BARE, services=[a_service("other", 443, address="198.51.100.7")])
HELD_BY_TRAEFIK = "held by service kube-system/traefik (ServiceLB uses it on every node)"
HELD_BY_PROGRAM = "no object of the cluster uses it, but something responds at 192.0.2.10"


def holders_of_443(facts: Site) -> list[str]:
    return [f"{holder.kind} {holder.name}" for holder in holders(facts.preflight(a_plan()), 443)]


def port_443_line(facts: Site, ingress: Ingress) -> Finding:
    return line_of("port-443", facts, a_plan(ingress=ingress))


def port_3389_line(facts: Site, *, is_requested: bool) -> Finding:
    return line_of("port-3389", facts, a_plan(rdp=is_requested))


def way_in_line(facts: Site, ingress: Ingress) -> Finding:
    return line_of("way-in", facts, a_plan(ingress=ingress))


@pytest.mark.parametrize(
    ("facts", "ingress", "severity", "observed"),
    [
        (K3S, "traefik", "ok", HELD_BY_TRAEFIK),
        (K3S, "loadbalancer", "error", HELD_BY_TRAEFIK),
        (K3S, "none", "ok", HELD_BY_TRAEFIK),
        (BARE, "loadbalancer", "ok", "free"),
        (BARE, "traefik", "warning", "free"),
        (
            OWN_ADDRESS,
            "loadbalancer",
            "ok",
            "held by service kube-system/other (LoadBalancer at 198.51.100.7)",
        ),
        (NODE_PROGRAM, "loadbalancer", "error", HELD_BY_PROGRAM),
        (NODE_PROGRAM, "traefik", "error", HELD_BY_PROGRAM),
    ],
)
def test_port_443_is_free_or_traefiks(
    facts: Site, ingress: str, severity: str, observed: str
) -> None:
    line = port_443_line(facts, Ingress(ingress))
    assert (line.severity, line.observed) == (severity, observed)


def test_remedy_for_port_443_depends_on_its_holder() -> None:
    for_traefik = port_443_line(K3S, Ingress.LOADBALANCER).remedy.text
    assert "vdi kasm values render --ingress traefik" in for_traefik
    assert "--disable=traefik" in for_traefik
    for_program = port_443_line(NODE_PROGRAM, Ingress.LOADBALANCER).remedy.text
    assert for_program == "On 192.0.2.10: ss -ltnp 'sport = :443'"


def test_own_service_does_not_conflict() -> None:
    facts = changed(BARE, services=[a_service("kasm-proxy", 443, namespace="kasm")])
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.ERROR
    of_chart = {"namespace": "kasm", "labels": {"helm.sh/chart": "kasm-helm-1.1190.6"}}
    facts = changed(facts, deployments=[{"metadata": {"name": "kasm-api-default", **of_chart}}])
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.OK


@pytest.mark.parametrize("host_network", [False, True])
def test_pods_with_host_ports_are_found_and_ended_ones_are_not(host_network: bool) -> None:
    port = {"containerPort": 443} if host_network else {"containerPort": 8443, "hostPort": 443}
    pods = [
        a_pod("nginx", namespace="web", ports=(port,), host_network=host_network),
        a_pod("old", namespace="web", ports=(port,), host_network=host_network, phase="Succeeded"),
        a_pod("inside", namespace="web", ports=({"containerPort": 443},)),
        a_pod(
            "udp",
            namespace="web",
            ports=({"hostPort": 443, "containerPort": 443, "protocol": "UDP"},),
        ),
    ]
    facts = changed(BARE, pods=pods)
    assert holders_of_443(facts) == ["pod web/nginx"]
    assert port_443_line(facts, Ingress.TRAEFIK).severity is Severity.ERROR
    assert port_443_line(facts, Ingress.LOADBALANCER).severity is Severity.ERROR


def test_svclb_pod_counts_as_its_service_once() -> None:
    assert holders_of_443(K3S) == ["service kube-system/traefik"]
    orphan = a_pod(
        "svclb-gone-1",
        labels={SVCLB: "gone", SVCLB_NAMESPACE: "web"},
        ports=({"hostPort": 443, "containerPort": 443},),
    )
    assert holders_of_443(changed(BARE, pods=[orphan])) == ["pod kube-system/svclb-gone-1"]


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


def with_args(*args: str, version: str = "v1.34.4+k3s1") -> Site:
    return changed(BARE, nodes=[a_node(args=args, version=version)])


NGINX = [{"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}]
NO_LB = with_args("server", "--disable", "servicelb")
METALLB = changed(NO_LB, services=[a_service("other", 80, address="198.51.100.7")])
UNREADY = changed(K3S, pods=[a_pod("traefik-1", labels=TRAEFIK, ready=False)])
NO_TRAEFIK = (
    with_args("server", "--disable", "traefik"),
    with_args("server", "--disable=servicelb,traefik"),
)
OF_NGINX = changed(BARE, ingressclasses=NGINX)
NOTHING = "0 of 0 Traefik pods ready; ingress classes: none"


@pytest.mark.parametrize(
    ("facts", "ingress", "severity", "observed"),
    [
        (K3S, "traefik", "ok", "1 of 1 Traefik pods ready; ingress classes: traefik"),
        (UNREADY, "traefik", "error", "0 of 1 Traefik pods ready; ingress classes: traefik"),
        (
            changed(K3S, ingressclasses=[]),
            "traefik",
            "warning",
            "1 of 1 Traefik pods ready; ingress classes: none",
        ),
        (
            changed(K3S, pods=[]),
            "traefik",
            "warning",
            "0 of 0 Traefik pods ready; ingress classes: traefik",
        ),
        (OF_NGINX, "traefik", "warning", "0 of 0 Traefik pods ready; ingress classes: nginx"),
        (BARE, "traefik", "error", NOTHING),
        (NO_TRAEFIK[0], "traefik", "error", NOTHING),
        (NO_TRAEFIK[1], "traefik", "error", NOTHING),
        (K3S, "loadbalancer", "ok", "ServiceLB of K3s (kube-system/svclb-traefik-1a2b3c4d)"),
        (BARE, "loadbalancer", "ok", "K3s with its ServiceLB, which no Service uses yet"),
        (NO_LB, "loadbalancer", "error", "none"),
        (METALLB, "loadbalancer", "ok", "services with an address: kube-system/other"),
        (
            with_args(version="v1.34.4"),
            "loadbalancer",
            "unknown",
            "there is no LoadBalancer Service to check",
        ),
    ],
)
def test_way_in_needs_what_serves_it(
    facts: Site, ingress: str, severity: str, observed: str
) -> None:
    line = way_in_line(facts, Ingress(ingress))
    assert (line.severity, line.observed) == (severity, observed)


def test_way_in_says_what_keeps_traefik_from_serving_it() -> None:
    unready = way_in_line(UNREADY, Ingress.TRAEFIK).remedy.text
    assert unready == "kubectl --namespace kube-system describe pod traefik-1"
    assert "outside the cluster" in way_in_line(changed(K3S, pods=[]), Ingress.TRAEFIK).message
    assert "ingressClassName: nginx" in way_in_line(OF_NGINX, Ingress.TRAEFIK).remedy.text
    for facts in NO_TRAEFIK:
        assert "--disable=traefik" in way_in_line(facts, Ingress.TRAEFIK).message


def named(*addresses: str, problem: str = "") -> Site:
    return msgspec.structs.replace(
        K3S, resolution=Resolution("kasm.example.com", addresses, problem=problem)
    )


def test_names() -> None:
    good = line_of("dns", named("192.0.2.10"))
    assert good.severity is Severity.OK
    assert good.observed == "kasm.example.com -> 192.0.2.10, InternalIP of node k3s-1"
    stranger = line_of("dns", named("203.0.113.5"))
    assert stranger.severity is Severity.WARNING
    assert "192.0.2.10 (InternalIP of node k3s-1)" in stranger.message
    nowhere = line_of("dns", named(problem="Name or service not known"))
    assert nowhere.severity is Severity.ERROR
    assert "A kasm.example.com -> 192.0.2.10" in nowhere.remedy.text
    assert (
        line_of("dns", msgspec.structs.replace(K3S, resolution=None)).severity is Severity.UNKNOWN
    )


def test_ingress_kind_is_read_from_the_values() -> None:
    assert a_plan("C").ingress is Ingress.TRAEFIK
    assert a_plan("C", {"publicAddr": "kasm.example.com"}).ingress is Ingress.LOADBALANCER
    assert a_plan("C", {"ingress": {"enabled": True}}).ingress is Ingress.TRAEFIK
    assert a_plan("C", {"proxyService": {"type": "ClusterIP"}}).ingress is Ingress.NONE
    assert a_plan("A", {"global": {"hostname": "kasm.example.com"}}).ingress is Ingress.TRAEFIK
    assert a_plan("A", {"global": {"hostname": "kasm.example.com"}}).hostname == "kasm.example.com"
