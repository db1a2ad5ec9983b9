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
    changed,
    k3s_with_traefik,
    line_of,
    without,
)
from vdi.findings.model import Severity, worst
from vdi.kasm.preflight.checks import run_checks
from vdi.kasm.values.render import set_at

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "1Gi", "500m", "small", "x y"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["cpu", "requests", "name"]), inner),
    max_leaves=4,
)


@pytest.mark.parametrize("generation", ["A", "B", "C"])
@pytest.mark.parametrize("size", ["small", "medium"])
def test_a_large_k3s_takes_any_generation(generation: str, size: str) -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu="64", memory="256Gi")])
    path = GENERATIONS[generation].paths["size"]
    values: dict[str, Any] = {}
    set_at(values, path, size)
    lines = run_checks(facts, a_plan(generation, {**values, "ingress": {"enabled": True}}))
    assert [line for line in lines if line.severity is not Severity.OK] == []


@pytest.mark.parametrize(
    ("version", "verdict"),
    [
        ("v1.24.17+k3s1", Severity.ERROR),
        ("v1.25.0+k3s1", Severity.WARNING),
        ("v1.27.16+k3s1", Severity.WARNING),
        ("v1.28.0+k3s1", Severity.OK),
        ("v1.34.4", Severity.OK),
    ],
)
def test_version(version: str, verdict: Severity) -> None:
    line = line_of("kubernetes", changed(k3s_with_traefik(), nodes=[a_node(version=version)]))
    assert line.severity is verdict
    assert version in line.observed


def test_nodes_that_take_no_pods_are_named_with_the_reason() -> None:
    taint = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
    nodes = [a_node("good"), a_node("ill", ready=False), a_node("kept", taints=(taint,))]
    line = line_of("nodes", changed(k3s_with_traefik(), nodes=nodes))
    assert line.severity is Severity.WARNING
    assert line.observed == "1 of 3 accept pods (ill not ready; kept tainted dedicated)"
    assert line_of("nodes", changed(k3s_with_traefik(), nodes=nodes[1:])).severity is Severity.ERROR


@pytest.mark.parametrize(
    ("cpu", "memory", "cpu_verdict", "memory_verdict"),
    [
        ("1", "2Gi", Severity.ERROR, Severity.ERROR),
        ("2", "3900Mi", Severity.WARNING, Severity.WARNING),
        ("4", "7800Mi", Severity.OK, Severity.OK),
    ],
)
def test_minimum_and_advice(cpu: str, memory: str, cpu_verdict: Severity, memory_verdict: Severity) -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu=cpu, memory=memory)])
    assert line_of("cpu", facts).severity is cpu_verdict
    assert line_of("memory", facts).severity is memory_verdict


def test_two_cores_are_too_few_for_size_small() -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu="2", memory="8Gi")])
    line = line_of("room", facts, a_plan("C", version=(1, 1190, 8)))
    assert line_of("cpu", facts).severity is not Severity.ERROR
    assert line.severity is Severity.ERROR
    assert line.expected == "4.75 CPU and 3.75 GiB free (kasm-helm 1.1190.8, deploymentSize: small)"
    assert line.observed == "1.9 CPU and 7.93 GiB free"
    assert "node k3s-1: 2 CPU allocatable - 0.1 CPU requested = 1.9 CPU; " in "\n".join(line.evidence)
    assert line.evidence[-1] == "4.75 CPU requested - 1.9 CPU free = 2.85 CPU missing"
    assert "vdi kasm values" in line.remedy.text


def test_user_values_override_the_preset() -> None:
    facts = changed(k3s_with_traefik(), nodes=[a_node(cpu="4", memory="8Gi")])
    assert line_of("room", facts, a_plan("C")).severity is Severity.ERROR
    little = {"requests": {"cpu": "250m", "memory": "256Mi"}}
    off = {"enabled": False}
    values = {
        "publicAddr": "kasm.example.com",
        "components": {"api": {"resources": little}, "guac": off, "rdpGateway": off, "rdpHttpsGateway": off},
        "ingress": {"enabled": True},
    }
    line = line_of("room", facts, a_plan("C", values))
    # proxy 500m, manager 500m, db 750m; the API's own 250m are less than the 500m of its init container.
    assert line.severity is Severity.OK
    assert line.expected.startswith("2.25 CPU and 2 GiB free")


def test_zones_and_an_external_database() -> None:
    values = {"kasmZones": [{"name": "a"}, {"name": "b"}], "database": {"standalone": True}}
    names = [pod.name for pod in a_plan("C", values).needs.pods]
    assert "kasm-proxy-a" in names
    assert "kasm-proxy-b" in names
    assert not any("db" in name for name in names)
    assert all("db" not in claim.name for claim in a_plan("C", values).needs.claims)
    assert "kasm-db-1-19-0" in [pod.name for pod in a_plan("C").needs.pods]


def test_the_databases_volume_is_a_number_of_gib() -> None:
    """Not of bytes, as a bare number is elsewhere; 0 is the chart's own size."""
    sizes = {
        given: next(
            claim.size
            for claim in a_plan("C", {"database": {"storage": {"pvcSize": given}}}).needs.claims
            if "db" in claim.name
        )
        for given in (0, 20)
    }
    assert sizes == {0: 8 * 2**30, 20: 20 * 2**30}
    with pytest.raises(ValueError, match=r"pvcSize is '8Gi'; allowed: a whole number"):
        a_plan("C", {"database": {"storage": {"pvcSize": "8Gi"}}})


def test_a_pod_larger_than_any_node() -> None:
    nodes = [a_node(f"n{number}", cpu="1", memory="8Gi") for number in range(9)]
    line = line_of("room", changed(k3s_with_traefik(), nodes=nodes), a_plan("C"))
    assert line.severity is Severity.ERROR
    assert "none has that" in line.message


def test_pods_of_the_kasm_that_is_replaced_are_not_counted() -> None:
    pods = [
        a_pod("kasm-api-default-1", namespace="kasm", cpu="3", labels={"app.kubernetes.io/component": "api"}),
        a_pod("other", namespace="kasm", cpu="1", labels={}),
    ]
    there = [
        {
            "metadata": {
                "name": f"kasm-{part}-default",
                "namespace": "kasm",
                "labels": {"helm.sh/chart": "kasm-helm-1.1190.6"},
            }
        }
        for part in ("proxy", "api", "manager")
    ]
    facts = changed(k3s_with_traefik(), pods=pods, deployments=there)
    line = line_of("room", facts)
    assert line.observed.startswith("7 CPU")
    assert "not counted, because new pods replace them: 1 pods of the Kasm that runs there now" in line.evidence
    assert line_of("room", changed(facts, deployments=[])).observed.startswith("4 CPU")


@pytest.mark.parametrize(
    ("disk", "verdict"), [("40G", Severity.ERROR), ("60G", Severity.WARNING), ("100G", Severity.OK)]
)
def test_disk(disk: str, verdict: Severity) -> None:
    assert line_of("disk", changed(k3s_with_traefik(), nodes=[a_node(disk=disk)])).severity is verdict


def storage_class(name: str, provisioner: str = "example.com/disks", *, default: bool = False) -> dict[str, Any]:
    marks = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": marks}, "provisioner": provisioner}


def test_storage_classes() -> None:
    good = k3s_with_traefik()
    none = line_of("storage-class", changed(good, storageclasses=[]))
    assert none.severity is Severity.ERROR
    undecided = line_of("storage-class", changed(good, storageclasses=[storage_class("fast")]))
    assert undecided.severity is Severity.ERROR
    assert "kubectl annotate storageclass fast" in undecided.remedy.text
    twice = [storage_class("a", default=True), storage_class("b", default=True)]
    assert line_of("storage-class", changed(good, storageclasses=twice)).severity is Severity.WARNING
    named = a_plan("B", {"database": {"storage": {"storageClassName": "ssd"}}, "ingress": {"enabled": True}})
    missing = line_of("storage-class", good, named)
    assert missing.severity is Severity.ERROR
    assert "There is no StorageClass ssd" in missing.message
    pods = [pod for pod in good.all("pods") if "local-path" not in pod["metadata"]["name"]]
    assert line_of("storage-class", changed(good, pods=pods)).severity is Severity.ERROR


@pytest.mark.parametrize("plural", ["nodes", "pods", "services", "storageclasses", "ingressclasses", "namespaces"])
def test_unreadable_preflight_facts_are_unknown(plural: str) -> None:
    lines = run_checks(without(k3s_with_traefik(), plural), a_plan())
    assert worst(lines) is Severity.UNKNOWN
    assert any(line.message == DENIED.words for line in lines if line.severity is Severity.UNKNOWN)


def paths_of(letter: str) -> list[str]:
    generation = GENERATIONS[letter]
    parts = [
        path
        for component in generation.components
        for path in (component.replicas_path, component.switch.lstrip("!"))
        if path
    ]
    blocks = [container.resources_path for component in generation.components for container in component.containers]
    return sorted({*parts, *blocks, *(f"{block}.requests" for block in blocks), *generation.paths.values()})


@given(data=st.data(), letter=st.sampled_from(sorted(GENERATIONS)))
def test_arbitrary_values_are_read_or_refused(data: st.DataObject, letter: str) -> None:
    values: dict[str, Any] = {}
    for path in data.draw(st.lists(st.sampled_from(paths_of(letter)), max_size=4)):
        node: Any = values
        *parents, last = path.split(".")
        for part in parents:
            below = node.get(part)
            node[part] = node = below if isinstance(below, dict) else {}
        node[last] = data.draw(JUNK)
    try:
        planned = a_plan(letter, values)
    except ValueError as error:
        assert "is" in str(error)
        return
    assert all(pod.count >= 0 and amount >= 0 for pod in planned.needs.pods for amount in pod.takes.values())
