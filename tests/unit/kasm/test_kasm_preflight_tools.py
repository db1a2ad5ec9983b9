"""Lines about programs, registry, clocks and the namespace; and the input."""

from typing import Any

import msgspec
import pytest

from unit.kasm.preflight_site import Object, a_plan, changed, k3s_with_traefik, line_of, without
from vdi.findings.model import Finding, Severity, worst
from vdi.kasm.generations import C
from vdi.kasm.preflight.checks import run_checks
from vdi.kasm.preflight.facts import Answer, Clocks, Facts, Tool
from vdi.kasm.preflight.request import BadInputError, PlannedRelease, plan_of_manifests, sort_documents, with_answers
from vdi.kasm.values.options import Ingress


def with_helm(version: str = "", problem: str = "") -> Facts:
    facts = k3s_with_traefik()
    return msgspec.structs.replace(facts, tools={**facts.tools, "helm": Tool("helm", version, problem)})


def with_kubectl(version: str = "", problem: str = "") -> Facts:
    facts = k3s_with_traefik()
    return msgspec.structs.replace(facts, tools={**facts.tools, "kubectl": Tool("kubectl", version, problem)})


@pytest.mark.parametrize(
    ("generation", "version", "verdict"),
    [
        ("C", "3.17.3", Severity.ERROR),
        ("C", "3.18.0", Severity.OK),
        ("C", "4.0.1", Severity.OK),
        ("A", "3.14.0", Severity.OK),
    ],
)
def test_helm(generation: str, version: str, verdict: Severity) -> None:
    assert line_of("helm", with_helm(version), a_plan(generation)).severity is verdict


def test_no_helm_is_a_failure_and_no_kubectl_a_warning() -> None:
    line = line_of("helm", with_helm(problem="there is no helm in PATH"))
    assert line.severity is Severity.ERROR
    assert "there is no helm in PATH" in line.message
    assert line_of("kubectl", with_kubectl(problem="kubectl is not in PATH")).severity is Severity.WARNING


@pytest.mark.parametrize(("version", "verdict"), [("v1.33.0", Severity.OK), ("v1.32.9", Severity.WARNING)])
def test_kubectl_is_held_against_the_cluster(version: str, verdict: Severity) -> None:
    assert line_of("kubectl", with_kubectl(version)).severity is verdict


URL = "https://registry-1.docker.io/v2/"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(URL, 200), Severity.OK),
        (Answer(URL, 401), Severity.OK),
        (Answer(URL, 401, trusted=False), Severity.WARNING),
        (Answer(URL, 429), Severity.WARNING),
        (Answer(URL, 302), Severity.ERROR),
        (Answer(URL, problem="Name or service not known"), Severity.ERROR),
    ],
)
def test_registry(answer: Answer, verdict: Severity) -> None:
    line = line_of("registry", msgspec.structs.replace(k3s_with_traefik(), registry=answer))
    assert line.severity is verdict
    assert URL in line.observed


@pytest.mark.parametrize(
    ("clocks", "verdict"),
    [
        (Clocks(here=-1.0, nodes={"a": -9.0, "b": 0.3}), Severity.OK),
        (Clocks(here=8.0), Severity.WARNING),
        (Clocks(here=0.0, nodes={"a": 30.0}), Severity.WARNING),
        (Clocks(here=0.0, nodes={"a": -30.0}), Severity.WARNING),
        (Clocks(here=0.0, nodes={"a": 3600.0}), Severity.ERROR),
        (Clocks(here=-120.0), Severity.ERROR),
        (Clocks(problem="no answer"), Severity.UNKNOWN),
    ],
)
def test_clocks(clocks: Clocks, verdict: Severity) -> None:
    assert line_of("clock", msgspec.structs.replace(k3s_with_traefik(), clocks=clocks)).severity is verdict


def namespace(level: str = "") -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
    return {"metadata": {"name": "kasm", "labels": labels}}


def workloads(chart: str, *names: str) -> list[dict[str, Any]]:
    marks = {"meta.helm.sh/release-name": "kasm"}
    return [
        {"metadata": {"name": name, "namespace": "kasm", "labels": {"helm.sh/chart": chart}, "annotations": marks}}
        for name in names
    ]


def test_pod_security_that_refuses_root_init_containers() -> None:
    facts = changed(k3s_with_traefik(), namespaces=[namespace("restricted")])
    line = line_of("namespace", facts, a_plan("B"))
    assert line.severity is Severity.ERROR
    assert "data-perms" in line.message
    assert "enforce=baseline" in line.remedy.text
    assert line_of("namespace", facts, a_plan("C")).severity is Severity.WARNING
    assert line_of("namespace", changed(facts, namespaces=[namespace("baseline")]), a_plan("B")).severity is Severity.OK


def test_a_kasm_that_is_there_already() -> None:
    third = workloads("kasm-helm-1.1190.6", "kasm-proxy-default", "kasm-api-default", "kasm-manager-default")
    facts = changed(k3s_with_traefik(), deployments=third)
    line = line_of("namespace", facts, a_plan("C"))
    assert line.severity is Severity.WARNING
    assert "kasm-helm 1.1190.6 (release kasm)" in line.observed
    second = workloads(
        "kasm-1.1181.0", "kasm-proxy-default-deployment", "kasm-api-deployment", "kasm-manager-default-deployment"
    )
    other = line_of("namespace", changed(facts, deployments=second), a_plan("C"))
    assert other.severity is Severity.ERROR
    assert "kasm 1.1181.0" in other.observed


# The input


def test_a_file_is_values_or_manifests_or_refused() -> None:
    values, none = sort_documents([{"publicAddr": "kasm.example.com", "kind": "of"}], "v.yaml")
    assert (values, none) == ({"publicAddr": "kasm.example.com", "kind": "of"}, [])
    assert sort_documents([], "v.yaml") == ({}, [])
    ingress = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "i"},
        "spec": {"rules": [{"host": "kasm.example.com"}]},
    }
    rdp = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "rdp"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 3389}]},
    }
    nothing, found = sort_documents([ingress, None, rdp], "-")
    assert nothing is None
    planned = plan_of_manifests(C, found, "kasm", "manifests of -")
    assert (planned.hostname, planned.ingress, planned.rdp) == ("kasm.example.com", Ingress.TRAEFIK, True)
    assert with_answers(planned, hostname="other.example.com", ingress=None).hostname == "other.example.com"
    for bad in ([["a"]], [{"a": 1}, {"b": 2}], [{"apiVersion": "v1", "kind": "Pod", "metadata": {}}]):
        with pytest.raises(BadInputError, match=r"v\.yaml"):
            sort_documents(bad, "v.yaml")


def test_the_worst_verdict() -> None:
    def lines(*verdicts: Severity) -> list[Finding]:
        return [Finding(code="a", severity=verdict) for verdict in verdicts]

    assert worst(lines(Severity.OK)) is Severity.OK
    assert worst(lines(Severity.OK, Severity.WARNING)) is Severity.WARNING
    assert worst(lines(Severity.WARNING, Severity.UNKNOWN)) is Severity.UNKNOWN
    assert worst(lines(Severity.UNKNOWN, Severity.ERROR)) is Severity.ERROR


def a_secret(release: str = "") -> Object:
    annotations = {"meta.helm.sh/release-name": release} if release else {}
    return {"metadata": {"name": "kasm-secrets", "annotations": annotations}}


def lines_about_secrets(facts: Facts, planned: PlannedRelease) -> list[Finding]:
    return [line for line in run_checks(facts, planned) if line.code == "secret"]


@pytest.mark.parametrize("generation", ["B", "C"])
def test_a_secret_that_generation_a_has_left_is_named_with_the_commands(generation: str) -> None:
    facts = changed(k3s_with_traefik(), secrets=[a_secret()])
    (line,) = lines_about_secrets(facts, a_plan(generation))
    assert line.severity == Severity.WARNING
    assert "kasm/kasm-secrets does not belong to the release kasm" in line.message
    assert line.remedy.commands[-1] == "kubectl --namespace kasm delete secret kasm-secrets"


def test_a_secret_is_no_warning_where_the_chart_makes_none_or_its_own() -> None:
    left = changed(k3s_with_traefik(), secrets=[a_secret()])
    assert lines_about_secrets(left, a_plan("A")) == [], "its hook replaces it"
    own = {"kasmSecrets": {"name": "mine"}}
    assert lines_about_secrets(left, a_plan("C", own)) == []
    assert lines_about_secrets(k3s_with_traefik(), a_plan("B")) == []
    assert lines_about_secrets(changed(k3s_with_traefik(), secrets=[a_secret("kasm")]), a_plan("B")) == []


def test_a_secret_that_may_not_be_read_is_no_pass() -> None:
    (line,) = lines_about_secrets(without(k3s_with_traefik(), "secrets"), a_plan("B"))
    assert line.severity == Severity.UNKNOWN
