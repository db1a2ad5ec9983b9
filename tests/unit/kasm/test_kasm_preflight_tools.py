"""Lines about programs, registry, clocks and the namespace; and the input."""

from typing import Any

import msgspec
import pytest

from unit.kasm.preflight_site import a_wish, changed, k3s_with_traefik, line_of
from vdi.kasm.answers import Ingress
from vdi.kasm.generations import C
from vdi.kasm.preflight_facts import Answer, Clocks, Facts, Tool
from vdi.kasm.preflight_line import Line, Verdict, worst
from vdi.kasm.preflight_wish import BadInputError, sort_documents, wish_of_manifests, with_answers


def with_helm(version: str = "", problem: str = "") -> Facts:
    facts = k3s_with_traefik()
    return msgspec.structs.replace(facts, tools={**facts.tools, "helm": Tool("helm", version, problem)})


def with_kubectl(version: str = "", problem: str = "") -> Facts:
    facts = k3s_with_traefik()
    return msgspec.structs.replace(facts, tools={**facts.tools, "kubectl": Tool("kubectl", version, problem)})


@pytest.mark.parametrize(
    ("generation", "version", "verdict"),
    [
        ("C", "3.17.3", Verdict.FAIL),
        ("C", "3.18.0", Verdict.PASS),
        ("C", "4.0.1", Verdict.PASS),
        ("A", "3.14.0", Verdict.PASS),
    ],
)
def test_helm(generation: str, version: str, verdict: Verdict) -> None:
    assert line_of("helm", with_helm(version), a_wish(generation)).verdict is verdict


def test_no_helm_is_a_failure_and_no_kubectl_a_warning() -> None:
    line = line_of("helm", with_helm(problem="there is no helm in PATH"))
    assert line.verdict is Verdict.FAIL
    assert "there is no helm in PATH" in line.why
    assert line_of("kubectl", with_kubectl(problem="there is no kubectl in PATH")).verdict is Verdict.WARN


@pytest.mark.parametrize(("version", "verdict"), [("v1.33.0", Verdict.PASS), ("v1.32.9", Verdict.WARN)])
def test_kubectl_is_held_against_the_cluster(version: str, verdict: Verdict) -> None:
    assert line_of("kubectl", with_kubectl(version)).verdict is verdict


URL = "https://registry-1.docker.io/v2/"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(URL, 200), Verdict.PASS),
        (Answer(URL, 401), Verdict.PASS),
        (Answer(URL, 401, trusted=False), Verdict.WARN),
        (Answer(URL, 429), Verdict.WARN),
        (Answer(URL, 302), Verdict.FAIL),
        (Answer(URL, problem="Name or service not known"), Verdict.FAIL),
    ],
)
def test_registry(answer: Answer, verdict: Verdict) -> None:
    line = line_of("registry", msgspec.structs.replace(k3s_with_traefik(), registry=answer))
    assert line.verdict is verdict
    assert URL in line.seen


@pytest.mark.parametrize(
    ("clocks", "verdict"),
    [
        (Clocks(here=-1.0, nodes={"a": -9.0, "b": 0.3}), Verdict.PASS),
        (Clocks(here=8.0), Verdict.WARN),
        (Clocks(here=0.0, nodes={"a": 30.0}), Verdict.WARN),
        (Clocks(here=0.0, nodes={"a": -30.0}), Verdict.WARN),
        (Clocks(here=0.0, nodes={"a": 3600.0}), Verdict.FAIL),
        (Clocks(here=-120.0), Verdict.FAIL),
        (Clocks(problem="no answer"), Verdict.UNKNOWN),
    ],
)
def test_clocks(clocks: Clocks, verdict: Verdict) -> None:
    assert line_of("clock", msgspec.structs.replace(k3s_with_traefik(), clocks=clocks)).verdict is verdict


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
    line = line_of("namespace", facts, a_wish("B"))
    assert line.verdict is Verdict.FAIL
    assert "data-perms" in line.why
    assert "enforce=baseline" in line.remedy
    assert line_of("namespace", facts, a_wish("C")).verdict is Verdict.WARN
    assert line_of("namespace", changed(facts, namespaces=[namespace("baseline")]), a_wish("B")).verdict is Verdict.PASS


def test_a_kasm_that_is_there_already() -> None:
    third = workloads("kasm-helm-1.1190.6", "kasm-proxy-default", "kasm-api-default", "kasm-manager-default")
    facts = changed(k3s_with_traefik(), deployments=third)
    line = line_of("namespace", facts, a_wish("C"))
    assert line.verdict is Verdict.WARN
    assert "kasm-helm 1.1190.6 (release kasm)" in line.seen
    second = workloads(
        "kasm-1.1181.0", "kasm-proxy-default-deployment", "kasm-api-deployment", "kasm-manager-default-deployment"
    )
    other = line_of("namespace", changed(facts, deployments=second), a_wish("C"))
    assert other.verdict is Verdict.FAIL
    assert "kasm 1.1181.0" in other.seen


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
    wish = wish_of_manifests(C, found, "kasm", "manifests of -")
    assert (wish.hostname, wish.ingress, wish.rdp) == ("kasm.example.com", Ingress.TRAEFIK, True)
    assert with_answers(wish, hostname="other.example.com", ingress=None).hostname == "other.example.com"
    for bad in ([["a"]], [{"a": 1}, {"b": 2}], [{"apiVersion": "v1", "kind": "Pod", "metadata": {}}]):
        with pytest.raises(BadInputError, match=r"v\.yaml"):
            sort_documents(bad, "v.yaml")


def test_the_worst_verdict() -> None:
    def lines(*verdicts: Verdict) -> list[Line]:
        return [Line(check="a", verdict=one, seen="", wanted="") for one in verdicts]

    assert worst(lines(Verdict.PASS)) is Verdict.PASS
    assert worst(lines(Verdict.PASS, Verdict.WARN)) is Verdict.WARN
    assert worst(lines(Verdict.WARN, Verdict.UNKNOWN)) is Verdict.UNKNOWN
    assert worst(lines(Verdict.UNKNOWN, Verdict.FAIL)) is Verdict.FAIL
