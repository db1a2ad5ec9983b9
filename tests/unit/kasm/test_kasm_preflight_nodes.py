"""Lines about nodes, room and volumes, each good and bad."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unit.kasm.preflight_site import (
    DENIED,
    GENERATIONS,
    a_node,
    a_plan,
    a_pod,
    a_storage_class,
    changed,
    k3s_with_traefik,
    line_of,
    lines_of,
    without,
)
from vdi.findings.model import Severity, worst
from vdi.kasm.values.render import set_at

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "1Gi", "500m", "small", "x y"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["cpu", "requests", "name"]), inner)
    ),
    max_leaves=4,
)


@pytest.mark.parametrize("generation", ["A", "B", "C"])
@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_large_k3s_takes_any_generation(generation: str, size: str) -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu="64", memory="256Gi")])
    values: dict[str, Any] = {"ingress": {"enabled": True}}
    set_at(values, GENERATIONS[generation].paths["size"], size)
    lines = lines_of(facts, a_plan(generation, values))
    assert [line for line in lines if line.severity is not Severity.OK] == []


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ("v1.24.17+k3s1", "error"),
        ("v1.25.0+k3s1", "warning"),
        ("v1.27.16+k3s1", "warning"),
        ("v1.28.0+k3s1", "ok"),
        ("v1.34.4", "ok"),
    ],
)
def test_version(version: str, severity: str) -> None:
    line = line_of("kubernetes", changed(k3s_with_traefik(), nodes=[a_node(version=version)]))
    assert line.severity == severity
    assert version in line.observed


@pytest.mark.parametrize(
    ("check", "node", "severity"),
    [
        ("cpu", {"cpu": "1"}, "error"),
        ("cpu", {"cpu": "2"}, "warning"),
        ("cpu", {"cpu": "4"}, "ok"),
        ("memory", {"memory": "2Gi"}, "error"),
        ("memory", {"memory": "3900Mi"}, "warning"),
        ("memory", {"memory": "7800Mi"}, "ok"),
        ("disk", {"disk": "40G"}, "error"),
        ("disk", {"disk": "60G"}, "warning"),
        ("disk", {"disk": "100G"}, "ok"),
    ],
)
def test_minimum_and_advice(check: str, node: dict[str, Any], severity: str) -> None:
    assert line_of(check, changed(k3s_with_traefik(), nodes=[a_node(**node)])).severity == severity


def test_nodes_that_take_no_pods_are_named_with_the_reason() -> None:
    taint = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
    nodes = [a_node("good"), a_node("ill", ready=False), a_node("kept", taints=(taint,))]
    line = line_of("nodes", changed(k3s_with_traefik(), nodes=nodes))
    assert line.severity is Severity.WARNING
    assert line.observed == "1 of 3 accept pods (ill not ready; kept tainted dedicated)"
    assert line_of("nodes", changed(k3s_with_traefik(), nodes=nodes[1:])).severity is Severity.ERROR


def test_two_cores_are_too_few_for_size_small() -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu="2", memory="8Gi")])
    line = line_of("room", facts, a_plan("C", version=(1, 1190, 8)))
    assert line_of("cpu", facts).severity is not Severity.ERROR
    assert line.severity is Severity.ERROR
    assert line.expected == "4.75 CPU and 3.75 GiB free (kasm-helm 1.1190.8, deploymentSize: small)"
    assert line.observed == "1.9 CPU and 7.93 GiB free"
    assert "node k3s-1: 2 CPU allocatable - 0.1 CPU requested = 1.9 CPU; " in "\n".join(
        line.evidence
    )
    assert line.evidence[-1] == "4.75 CPU requested - 1.9 CPU free = 2.85 CPU missing"
    assert "vdi kasm values" in line.remedy.text


def test_user_values_override_the_preset() -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu="4", memory="8Gi")])
    assert line_of("room", facts, a_plan("C")).severity is Severity.ERROR
    little = {"requests": {"cpu": "250m", "memory": "256Mi"}}
    off = {"enabled": False}
    values = {
        "publicAddr": "kasm.example.com",
        "components": {
            "api": {"resources": little},
            "guac": off,
            "rdpGateway": off,
            "rdpHttpsGateway": off,
        },
        "ingress": {"enabled": True},
    }
    line = line_of("room", facts, a_plan("C", values))
    # proxy 500m, manager 500m, db 750m; the API's own 250m are less than the 500m of its init
    # container.
    assert line.severity is Severity.OK
    assert line.expected.startswith("2.25 CPU and 2 GiB free")


def test_zones_and_an_external_database() -> None:
    values = {"kasmZones": [{"name": "a"}, {"name": "b"}], "database": {"standalone": True}}
    needs = a_plan("C", values).needs
    names = {pod.name for pod in needs.pods}
    assert names >= {"kasm-proxy-a", "kasm-proxy-b"}
    assert not [name for name in (*names, *(claim.name for claim in needs.claims)) if "db" in name]
    assert "kasm-db-1-19-0" in [pod.name for pod in a_plan("C").needs.pods]


def test_the_databases_volume_is_a_number_of_gib() -> None:
    """Not of bytes, as a bare number is elsewhere; 0 is the chart's own size."""
    for size, gib in ((0, 8), (20, 20)):
        claims = a_plan("C", {"database": {"storage": {"pvcSize": size}}}).needs.claims
        assert [claim.size for claim in claims if "db" in claim.name] == [gib * 2**30]
    with pytest.raises(ValueError, match=r"pvcSize is '8Gi'; allowed: a whole number"):
        a_plan("C", {"database": {"storage": {"pvcSize": "8Gi"}}})


def test_a_pod_larger_than_any_node() -> None:
    nodes = [a_node(f"n{number}", cpu="1", memory="8Gi") for number in range(9)]
    line = line_of("room", changed(k3s_with_traefik(), nodes=nodes), a_plan("C"))
    assert line.severity is Severity.ERROR
    assert "none has that" in line.message


def test_pods_of_the_kasm_that_is_replaced_are_not_counted() -> None:
    pods = [
        a_pod(
            "kasm-api-default-1",
            namespace="kasm",
            cpu="3",
            labels={"app.kubernetes.io/component": "api"},
        ),
        a_pod("other", namespace="kasm", cpu="1", labels={}),
    ]
    of_chart = {"namespace": "kasm", "labels": {"helm.sh/chart": "kasm-helm-1.1190.6"}}
    there = [
        {"metadata": {"name": f"kasm-{part}-default", **of_chart}}
        for part in ("proxy", "api", "manager")
    ]
    facts = changed(k3s_with_traefik(), pods=pods, deployments=there)
    line = line_of("room", facts)
    assert line.observed.startswith("7 CPU")
    assert (
        "not counted, because new pods replace them: 1 pods of the Kasm that runs there now"
        in line.evidence
    )
    assert line_of("room", changed(facts, deployments=[])).observed.startswith("4 CPU")


TWO_DEFAULTS = "a (default), b (default)"
NO_PROVISIONER = [
    pod for pod in k3s_with_traefik().objects["pods"] if "local-path" not in pod["metadata"]["name"]
]


@pytest.mark.parametrize(
    ("objects", "severity", "observed"),
    [
        ({"storageclasses": []}, "error", "none"),
        ({"storageclasses": [a_storage_class("fast")]}, "error", "fast"),
        (
            {"storageclasses": [a_storage_class(name, default=True) for name in "ab"]},
            "warning",
            TWO_DEFAULTS,
        ),
        (
            {"pods": NO_PROVISIONER},
            "error",
            "local-path (default); no pod of local-path-provisioner",
        ),
    ],
)
def test_one_default_storage_class_is_served(
    objects: dict[str, Any], severity: str, observed: str
) -> None:
    line = line_of("storage-class", changed(k3s_with_traefik(), **objects))
    assert (line.severity, line.observed) == (severity, observed)


def test_a_storage_class_that_is_missing_is_named() -> None:
    undecided = line_of(
        "storage-class", changed(k3s_with_traefik(), storageclasses=[a_storage_class("fast")])
    )
    assert "kubectl annotate storageclass fast" in undecided.remedy.text
    named = a_plan(
        "B", {"database": {"storage": {"storageClassName": "ssd"}}, "ingress": {"enabled": True}}
    )
    missing = line_of("storage-class", k3s_with_traefik(), named)
    assert missing.severity is Severity.ERROR
    assert "There is no StorageClass ssd" in missing.message


@pytest.mark.parametrize(
    "plural", ["nodes", "pods", "services", "storageclasses", "ingressclasses", "namespaces"]
)
def test_unreadable_preflight_facts_are_unknown(plural: str) -> None:
    lines = lines_of(without(k3s_with_traefik(), plural))
    assert worst(lines) is Severity.UNKNOWN
    assert any(line.message == DENIED.words for line in lines if line.severity is Severity.UNKNOWN)


def paths_of(letter: str) -> list[str]:
    generation = GENERATIONS[letter]
    parts = {
        path
        for part in generation.components
        for path in (part.replicas_path, part.switch.lstrip("!"))
        if path
    }
    blocks = [
        container.resources_path for part in generation.components for container in part.containers
    ]
    return sorted(
        {*parts, *blocks, *(f"{block}.requests" for block in blocks), *generation.paths.values()}
    )


@given(data=st.data(), letter=st.sampled_from(sorted(GENERATIONS)))
def test_arbitrary_values_are_read_or_refused(data: st.DataObject, letter: str) -> None:
    values: dict[str, Any] = {}
    for path in data.draw(st.lists(st.sampled_from(paths_of(letter)), max_size=4)):
        set_at(values, path, data.draw(JUNK))
    try:
        planned = a_plan(letter, values)
    except ValueError as error:
        assert "is" in str(error)
        return
    assert all(
        pod.count >= 0 and amount >= 0
        for pod in planned.needs.pods
        for amount in pod.takes.values()
    )
