"""The order of causes: who is hurt comes before what is easy to name."""

import pytest

from unit.doctor.doctor_breaks import Break
from unit.doctor.doctor_builders import SPACE, Cluster
from unit.doctor.doctor_faults import FAULTS, differs
from unit.doctor.doctor_gateways import GATEWAY_FAULTS
from vdi.doctor.checks.run import rank
from vdi.findings.model import roots

OPERATOR = "deployment/kasm/vdi-operator"


def typo(cluster: Cluster) -> None:
    """One session of a template that does not exist."""
    cluster.session["spec"]["template"] = "nobody"
    cluster.without_pod()


def test_whole_cluster_comes_before_one_session() -> None:
    cluster = Cluster(2)
    GATEWAY_FAULTS["no_names"][1](cluster)
    typo(cluster)
    assert [finding.code for finding in roots(cluster.findings())][-1] == "template_missing"


def test_many_sessions_come_before_one() -> None:
    cluster = Cluster(3)
    typo(cluster)
    cluster.objects["pods"] = [
        pod for pod in cluster.objects["pods"] if not pod["metadata"]["name"].startswith("ali")
    ]
    cluster.template["env"] = [{"name": "SELKIES_MASTER_TOKEN", "value": "x"}]
    assert cluster.roots() == ["template_invalid", "template_invalid", "template_missing"]


def test_a_warning_that_explains_errors_stands_among_errors() -> None:
    cluster = FAULTS.broken("no_one_looks", sessions=2)
    differs(cluster, f"role/{SPACE}/vdi-operator", "rules[0].verbs", "[get]", "[get, list]")
    findings = cluster.findings()
    assert [(finding.code, finding.caused_by != "") for finding in findings] == [
        ("release_differs", False),
        ("session_ignored", True),
    ]
    assert rank(findings) == findings


@pytest.mark.parametrize(
    ("name", "follows"), [(f"ingressroute/{SPACE}/alice-0", True), (OPERATOR, False)]
)
def test_a_changed_object_explains_what_is_wrong_with_it(name: str, follows: bool) -> None:
    cluster = FAULTS.broken("route_of_another_host")
    differs(cluster, name, "spec.replicas", "1", "2")
    (mismatch,) = [
        finding for finding in cluster.findings() if finding.code == "route_host_mismatch"
    ]
    assert (mismatch.caused_by != "") == follows


def no_routes(cluster: Cluster) -> None:
    cluster.objects["ingressroutes"] = []


def no_middleware(cluster: Cluster) -> None:
    for route in cluster.objects["ingressroutes"]:
        route["spec"]["routes"][0]["middlewares"] = [{"name": "nobody"}]


@pytest.mark.parametrize(
    ("breaks", "command"), [(no_routes, "rollout restart"), (no_middleware, "vdi upgrade")]
)
def test_what_all_desktops_have_is_one_finding_about_the_operator(
    breaks: Break, command: str
) -> None:
    cluster = Cluster(3)
    breaks(cluster)
    (finding,) = cluster.findings()
    assert finding.object == OPERATOR
    assert finding.message.startswith("All 3 desktops have the same fault. The first: ")
    assert command in finding.remedy.commands[-1]
    assert not any(" delete " in line for line in finding.remedy.commands)


def test_one_desktop_of_several_keeps_its_own_finding() -> None:
    cluster = Cluster(3)
    cluster.drop("ingressroutes")
    (finding,) = cluster.findings()
    assert finding.object == f"ingressroute/{SPACE}/alice-0"
