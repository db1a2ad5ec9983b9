"""Each hop of a request from the snapshot: which other routes and Services count, and which do
not.
"""

from collections.abc import Callable

import msgspec
import pytest

from unit.doctor.doctor_builders import JUST_NOW, SPACE, Cluster, Object, ready_condition
from unit.doctor.doctor_gateways import GATEWAY_FAULTS, add_ingress, add_route, with_gateway
from vdi.doctor.objects.routing import Rule
from vdi.findings.model import Remedy, roots
from vdi.session.naming import MANAGED_BY
from vdi.snapshot.model import Unreadable
from vdi.snapshot.objects import convert_object

HOST = "alice-0.vdi.example.com"
ARGS = ("--providers.kubernetescrd", "--providers.kubernetescrd.namespaces=kasm," + SPACE)


def gateway() -> Cluster:
    cluster = Cluster()
    with_gateway(cluster)
    return cluster


def _in_an_unwatched_namespace(cluster: Cluster) -> None:
    add_route(cluster, f"Host(`{HOST}`)")
    cluster.traefik_args.extend(ARGS)


def _of_another_release(cluster: Cluster) -> None:
    add_route(cluster, f"Host(`{HOST}`)")["metadata"]["labels"] = {"app.kubernetes.io/name": "vdi"}


def _of_another_session(cluster: Cluster) -> None:
    """The operator says which of two has the host."""
    add_route(cluster, f"Host(`{HOST}`)")["metadata"]["labels"] = dict(MANAGED_BY)


@pytest.mark.parametrize(
    "add",
    [
        lambda cluster: add_ingress(cluster, HOST, ingressClassName="nginx"),
        lambda cluster: add_ingress(cluster, HOST, "/files"),
        lambda cluster: add_ingress(cluster, "other.example.com"),
        lambda cluster: add_route(cluster, f"Host(`{HOST}`)", entryPoints=["web"]),
        lambda cluster: add_route(cluster, f"Host(`{HOST}`) && ClientIP(`192.0.2.0/24`)"),
        lambda cluster: add_route(cluster, "PathPrefix(`/`)"),
        _in_an_unwatched_namespace,
        _of_another_release,
        _of_another_session,
    ],
    ids=[
        *(
            "another class",
            "another path",
            "another host",
            "another entry point",
            "another matcher",
            "a shorter rule",
        ),
        *("an unwatched namespace", "another release", "another session"),
    ],
)
def test_a_route_beside_the_desktops_is_no_finding(add: Callable[[Cluster], object]) -> None:
    cluster = gateway()
    add(cluster)
    assert cluster.findings() == []


@pytest.mark.parametrize(
    ("match", "path"),
    [
        (f"Host(`{HOST}`)", "/"),
        (f"Host(`{HOST}`) || Host(`b.example.com`)", "/"),
        (f"(Host(`b.example.com`) || Host(`{HOST}`)) && PathPrefix(`/api`)", "/api/websockets"),
        ("PathPrefix(`/`)", "/"),
        (f"Host(`{HOST}`) && Path(`/api`)", ""),
        (f"Host(`{HOST}`) && !Path(`/`)", ""),
        (f"Host(`{HOST}`) && Method(`GET`)", ""),
        ("HostRegexp(`(?P<a>[`)", ""),
        (r"HostRegexp(`^[a-z0-9-]+\.vdi\.example\.com$`)", "/"),
        ("", ""),
    ],
)
def test_a_rule_takes_the_paths_that_it_matches(match: str, path: str) -> None:
    assert Rule("ingressroute/web/web", match).taken_path(HOST) == path


@pytest.mark.parametrize("pattern", ["^(([a-z.]+)+)+!$", "^.*.*.*.*.*.*.*.*!$"])
def test_a_pattern_that_takes_years_is_not_judged(pattern: str) -> None:
    assert Rule("ingressroute/web/web", f"HostRegexp(`{pattern}`)").taken_path("a" * 240) == ""


def test_a_foreign_route_is_shown_before_it_is_deleted() -> None:
    cluster = gateway()
    add_ingress(cluster, HOST)
    (finding,) = roots(cluster.findings())
    assert finding.message.startswith(
        f"The Ingress web/web takes over the host {HOST}: its priority is "
    )
    assert finding.remedy.commands == (
        "kubectl --namespace web get ingress web --output yaml",
        "kubectl --namespace web delete ingress web",
    )


def test_one_broken_service_is_one_finding_for_all_desktops() -> None:
    cluster = GATEWAY_FAULTS.broken("the_gateway_s_service_selects_nothing", sessions=3)
    assert cluster.roots() == ["backend_unreachable"]


def test_a_pod_that_is_just_ready_is_not_yet_listed() -> None:
    cluster = GATEWAY_FAULTS.broken("the_gateway_s_service_selects_nothing")
    ready_condition(cluster.one("pods", "vdi-gateway-1"))["lastTransitionTime"] = JUST_NOW
    assert cluster.findings() == []


def test_a_gateway_that_is_down_explains_its_empty_service() -> None:
    cluster = GATEWAY_FAULTS.broken("gateway_set_wrong")
    cluster.one("endpointslices", "vdi-gateway-x")["endpoints"] = []
    assert cluster.roots() == ["gateway_down"]


def test_what_may_not_be_read_elsewhere_is_not_missing() -> None:
    cluster = gateway()
    for kind in ("services", "endpointslices", "middlewares", "ingressroutes"):
        cluster.objects[kind] = [
            one for one in cluster.objects[kind] if one["metadata"]["namespace"] == SPACE
        ]
        cluster.unread.append(Unreadable(f"{kind}@all", "You may not.", Remedy("ask")))
    assert set(cluster.roots()) == {"not_readable"}


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("http://vdi-gateway.kasm.svc:8081/edge/verify", "http://vdi-gateway.kasm.svc:8081"),
        ("https://u:p@auth.example.com/?token=x", "https://auth.example.com"),
        ("u:p", "(redacted)"),
    ],
)
def test_of_a_middleware_only_the_host_it_asks_is_kept(address: str, kept: str) -> None:
    spec: Object = {
        "forwardAuth": {"address": address, "authRequestHeaders": ["Cookie"]},
        "basicAuth": {"secret": "s"},
    }
    found = convert_object("middlewares", {"metadata": {"name": "auth"}, "spec": spec})
    assert msgspec.to_builtins(found.spec) == {"chain": {}, "forwardAuth": {"address": kept}}
    chain = {"metadata": {"name": "both"}, "spec": {"chain": {"middlewares": [{"name": "auth"}]}}}
    assert [link.name for link in convert_object("middlewares", chain).spec.chain.middlewares] == [
        "auth"
    ]
