"""The stand-in charts and what is known of the generations were written apart from each other: they say the same."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from vdi.devcluster import binaries
from vdi.devcluster.progress import Progress
from vdi.kasm.generations import ALL, Generation, matches, of_label, of_workloads

CHARTS = Path(__file__).parents[1] / "kasm" / "charts"
GENERATIONS = pytest.mark.parametrize("generation", ALL, ids=lambda each: each.letter)
Object = dict[str, Any]


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Progress(tmp_path_factory.mktemp("helm")) as progress:
        return binaries.ensure(["helm"], progress=progress)["helm"]


def rendered(helm: Path, generation: Generation) -> list[Object]:
    command = [str(helm), "template", "kasm", str(CHARTS / generation.letter.lower())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def workloads(objects: list[Object]) -> list[Object]:
    return [each for each in objects if each["kind"] in ("Deployment", "StatefulSet", "Job")]


@GENERATIONS
def test_the_generation_is_recognised_by_label_and_by_workloads(helm: Path, generation: Generation) -> None:
    found = workloads(rendered(helm, generation))
    assert of_workloads(each["metadata"]["name"] for each in found if each["kind"] != "Job") is generation
    labels = {each["spec"]["template"]["metadata"]["labels"]["helm.sh/chart"] for each in found}
    assert labels
    assert all(of_label(label) is generation for label in labels)


@GENERATIONS
def test_each_workload_is_a_component_with_its_waits_in_order(helm: Path, generation: Generation) -> None:
    seen = set()
    for each in workloads(rendered(helm, generation)):
        template = each["spec"]["template"]
        component = generation.component_of(template["metadata"]["labels"])
        assert component is not None, each["metadata"]["name"]
        seen.add(component.key)
        assert component.kind == each["kind"]
        assert matches(component.name, each["metadata"]["name"]), each["metadata"]["name"]
        steps = component.steps(generation.newest)
        names = [one["name"] for one in template["spec"].get("initContainers") or ()]
        places = [next((i for i, step in enumerate(steps) if step.is_named(name)), None) for name in names]
        assert None not in places, f"{component.key}: {names}"
        assert places == sorted(places), f"{component.key}: {names}"  # type: ignore[type-var]
    expected = {each.key for each in generation.present() if not each.may_be_absent}
    assert seen >= expected, expected - seen


@GENERATIONS
def test_each_service_is_one_of_a_component_on_its_ports(helm: Path, generation: Generation) -> None:
    services = [each for each in rendered(helm, generation) if each["kind"] == "Service"]
    for component in generation.present():
        if not component.service or component.may_be_absent:
            continue
        found = [each for each in services if matches(component.service, each["metadata"]["name"])]
        assert found, component.service
        ports = {port["port"] for each in found for port in each["spec"]["ports"]}
        assert ports & set(component.ports), component.key
