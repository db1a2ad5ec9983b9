"""Data of the three charts: names match their patterns, and waits name a component that exists."""

import pytest

from vdi.cluster.units import parse_quantity
from vdi.kasm.generations import (
    ALL,
    by_letter,
    chart_of_label,
    kasm_version,
    of_chart,
    of_label,
    of_workloads,
    parse_version,
)
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import SIZES, Generation

GENERATIONS = pytest.mark.parametrize("generation", ALL, ids=lambda each: each.letter)


@GENERATIONS
def test_each_wait_targets_a_component_and_its_port(generation: Generation) -> None:
    for component in generation.components:
        for step in component.init_containers:
            targets = [target for target in generation.components if target.key == step.waits_for]
            is_open = any(step.port in target.ports for target in targets)
            assert is_open or not step.waits_for, (
                f"{component.key}: {step.name} waits for {step.waits_for}"
            )


@GENERATIONS
def test_each_size_has_resources_and_replicas(generation: Generation) -> None:
    for component in generation.components:
        assert component.kind == "Job" or set(component.replicas) == set(SIZES)
        for container in component.containers:
            assert set(container.presets) == set(SIZES)
            for preset in container.presets.values():
                assert parse_quantity(preset.cpu) > 0
                assert not preset.cpu_limit or parse_quantity(preset.cpu) <= parse_quantity(
                    preset.cpu_limit
                )
                assert parse_quantity(preset.memory) <= parse_quantity(preset.memory_limit)


def test_same_step_count_is_another_wait_by_generation() -> None:
    a, b = A.component("proxy"), B.component("proxy")
    assert a and b
    waits_a = [step.name for step in a.steps(A.newest) if not step.as_root]
    waits_b = [step.name for step in b.steps(B.newest)]
    assert len(waits_a) == len(waits_b) == 5
    second_of_a, second_of_b = a.step(waits_a[1]), b.step(waits_b[1])
    assert second_of_a and second_of_b
    assert (second_of_a.waits_for, second_of_b.waits_for) == ("manager", "api")


@pytest.mark.parametrize(
    ("key", "first", "later"),
    [
        ("proxy", ["", "api", "manager", "guac", "rdp-gateway"], ["", "api", "manager"]),
        ("guac", ["", "api", ""], ["", "proxy", ""]),
    ],
)
def test_first_version_of_c_waits_the_other_way_round(
    key: str, first: list[str], later: list[str]
) -> None:
    component = C.component(key, (1, 1190, 0))
    assert component
    waits = [[step.waits_for for step in component.steps((1, 1190, patch))] for patch in (0, 1)]
    assert waits == [first, later]


def test_step_name_matches_with_release_and_zone() -> None:
    proxy = B.component("proxy")
    assert proxy
    assert proxy.owns(
        {"app.kubernetes.io/component": "proxy", "app.kubernetes.io/instance": "kasm"}
    )
    assert proxy.step("my-kasm-proxy-data-perms") is proxy.init_containers[0]
    manager = proxy.step("kasm-manager-zone-a-is-ready")
    assert manager and manager.waits_for == "manager"
    assert proxy.step("somebody-elses") is None


@pytest.mark.parametrize(
    ("label", "chart", "version", "generation"),
    [
        ("kasm-single-zone-1.16.0-develop", "kasm-single-zone", "1.16.0-develop", A),
        ("kasm-1.1181.0", "kasm", "1.1181.0", B),
        ("kasm-helm-1.1190.6", "kasm-helm", "1.1190.6", C),
        ("kasm-platform-1.1190.6", "kasm-platform", "1.1190.6", C),
        ("kasm-agent-0.1.0", "kasm-agent", "0.1.0", None),
        ("vdi-0.1.0", "vdi", "0.1.0", None),
        ("kasm-1.17.0", "kasm", "1.17.0", None),
        ("kasm-2.0.0", "kasm", "2.0.0", None),
        ("kasm-1.1170.0", "kasm", "1.1170.0", B),
        ("kasm-helm-1.1200.0-develop", "kasm-helm", "1.1200.0-develop", C),
        ("nonsense", "", "", None),
    ],
)
def test_chart_is_read_from_its_label(
    label: str, chart: str, version: str, generation: Generation | None
) -> None:
    assert chart_of_label(label) == (chart, version)
    assert of_label(label) is generation


def test_chart_is_read_from_workloads_without_a_release() -> None:
    assert (
        of_workloads(
            ["kasm-proxy-deployment", "kasm-api-deployment", "kasm-manager-deployment", "x"]
        )
        is A
    )
    assert (
        of_workloads(
            ["k-proxy-default-deployment", "k-api-deployment", "k-manager-default-deployment"]
        )
        is B
    )
    assert (
        of_workloads(["k-proxy-default", "k-api-default", "k-manager-default", "k-db-1-19-0"]) is C
    )
    assert of_workloads(["coredns", "traefik"]) is None


def test_chart_version_maps_to_the_kasm_version() -> None:
    assert parse_version("1.16.0-develop") == (1, 16, 0)
    assert [kasm_version(text) for text in ("1.17.0", "1.1181.0", "1.1190.6")] == [
        "1.17.0",
        "1.18.1",
        "1.19.0",
    ]
    with pytest.raises(ValueError, match="'newest' is not a version"):
        parse_version("newest")


def test_generations_are_found_by_letter_and_by_chart() -> None:
    assert by_letter("b") is B
    assert by_letter("kasm-helm") is of_chart("kasm-helm", "1.1190.6") is C
    with pytest.raises(ValueError, match=r"allowed: A \(kasm-single-zone"):
        by_letter("D")
