"""Lines about programs, the namespace, and the data of a Kasm that is there already."""

from typing import Any

import msgspec
import pytest

from unit.kasm.preflight_site import Site, a_plan, changed, k3s_with_traefik, line_of, without
from vdi.findings.model import Severity
from vdi.kasm.preflight.model import Tool

CARRIED = {"dbManagement": {"initialize": False, "upgrade": {"enable": True}}}


def with_tool(name: str, version: str = "", problem: str = "") -> Site:
    facts = k3s_with_traefik()
    return msgspec.structs.replace(facts, tools={**facts.tools, name: Tool(version, problem)})


@pytest.mark.parametrize(
    ("tool", "version", "generation", "severity"),
    [
        ("helm", "3.17.3", "C", "error"),
        ("helm", "3.18.0", "C", "ok"),
        ("helm", "4.0.1", "C", "ok"),
        ("helm", "3.14.0", "A", "ok"),
        ("kubectl", "v1.33.0", "C", "ok"),  # of a cluster with 1.34
        ("kubectl", "v1.32.9", "C", "warning"),
    ],
)
def test_a_program_has_a_lowest_version(
    tool: str, version: str, generation: str, severity: str
) -> None:
    assert line_of(tool, with_tool(tool, version), a_plan(generation)).severity == severity


def test_no_helm_is_a_failure_and_no_kubectl_a_warning() -> None:
    line = line_of("helm", with_tool("helm", problem="there is no helm in PATH"))
    assert line.severity is Severity.ERROR
    assert "there is no helm in PATH" in line.message
    assert (
        line_of("kubectl", with_tool("kubectl", problem="kubectl is not in PATH")).severity
        is Severity.WARNING
    )


def namespace(level: str = "") -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": level} if level else {}
    return {"metadata": {"name": "kasm", "labels": labels}}


def workloads(chart: str, *names: str) -> list[dict[str, Any]]:
    marks = {"meta.helm.sh/release-name": "kasm"}
    return [
        {
            "metadata": {
                "name": name,
                "namespace": "kasm",
                "labels": {"helm.sh/chart": chart},
                "annotations": marks,
            }
        }
        for name in names
    ]


def test_pod_security_that_refuses_root_init_containers() -> None:
    facts = changed(k3s_with_traefik(), namespaces=[namespace("restricted")])
    line = line_of("namespace", facts, a_plan("B"))
    assert line.severity is Severity.ERROR
    assert "data-perms" in line.message
    assert "enforce=baseline" in line.remedy.text
    assert line_of("namespace", facts, a_plan("C")).severity is Severity.WARNING
    assert (
        line_of(
            "namespace", changed(facts, namespaces=[namespace("baseline")]), a_plan("B")
        ).severity
        is Severity.OK
    )


def installed(chart: str, when_deleted: str = "Retain") -> Site:
    names = ("kasm-proxy-default", "kasm-api-default", "kasm-manager-default")
    database = workloads(chart, "kasm-db-1-19-0")[0]
    labels = {"app.kubernetes.io/component": "db"}
    database["spec"] = {
        "template": {"metadata": {"labels": labels}},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": when_deleted},
    }
    return changed(
        k3s_with_traefik(), deployments=workloads(chart, *names), statefulsets=[database]
    )


def test_existing_kasm_is_reported() -> None:
    facts = installed("kasm-helm-1.1190.6")
    line = line_of("namespace", facts, a_plan("C"))
    assert (line.severity, "kasm-helm 1.1190.6 (release kasm)" in line.observed) == (
        Severity.OK,
        True,
    )
    assert line_of("database", facts, a_plan("C")).severity is Severity.OK
    other = line_of("namespace", installed("kasm-1.1181.0"), a_plan("C"))
    assert other.severity is Severity.ERROR
    assert "kasm 1.1181.0" in other.observed


@pytest.mark.parametrize(
    ("values", "when_deleted", "said"),
    [
        ({}, "Retain", "dbManagement.initialize: false, dbManagement.upgrade.enable: true"),
        (
            {"dbManagement": {"initialize": False}},
            "Retain",
            "set dbManagement.upgrade.enable: true in the values",
        ),
        (CARRIED, "Delete", "patch statefulset kasm-db-1-19-0"),
        (CARRIED, "Retain", ""),
        ({"database": {"standalone": True}}, "Delete", ""),
    ],
)
def test_another_kasm_that_would_lose_the_database_is_an_error(
    values: dict[str, Any], when_deleted: str, said: str
) -> None:
    planned = a_plan("C", values, version=(1, 1200, 0))
    line = line_of("database", installed("kasm-helm-1.1190.6", when_deleted), planned)
    assert line.observed == "Kasm 1.19.0 -> 1.20.0"
    assert line.severity is (Severity.ERROR if said else Severity.OK)
    assert said in line.remedy.text


def test_a_statefulset_of_a_fixed_name_keeps_its_data() -> None:
    planned = a_plan("B", version=(1, 1181, 1))
    assert (
        line_of("database", installed("kasm-1.1170.0", "Delete"), planned).severity is Severity.OK
    )


def test_a_volume_that_may_be_lost_is_unknown_without_the_statefulset() -> None:
    facts = without(installed("kasm-helm-1.1190.6"), "statefulsets")
    upgrade = a_plan("C", CARRIED, version=(1, 1200, 0))
    assert line_of("database", facts, upgrade).severity is Severity.UNKNOWN
    assert line_of("database", facts, a_plan("C")).severity is Severity.OK
