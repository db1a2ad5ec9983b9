"""The stand-in charts and what is known of the generations were written apart from each other: they
say the same.
"""

import dataclasses
from pathlib import Path

import pytest

from kasm.kasm_ward import CHARTS
from kasm.real_chart import Chart, differences_of_profile, open_chart, profiles
from support.variants import first_of
from vdi.kasm.generations import ALL
from vdi.kasm.generations.a import A
from vdi.kasm.generations.model import Generation
from vdi.kasm.values.render import InstallOptions


def stand_in(helm: Path, generation: Generation) -> Chart:
    return open_chart(helm, CHARTS / generation.letter.lower())


@pytest.mark.parametrize("generation", first_of(ALL), ids=lambda each: each.letter)
def test_each_values_file_renders_the_known_objects(helm: Path, generation: Generation) -> None:
    chart = stand_in(helm, generation)
    assert (chart.generation, chart.version) == (generation, generation.newest)
    found = {
        name: differences_of_profile(chart, answers, is_stand_in=True)
        for name, answers in profiles(chart)
    }
    assert found
    assert {name: each for name, each in found.items() if each} == {}


def test_chart_that_differs_is_reported(helm: Path) -> None:
    chart = stand_in(helm, A)
    options = InstallOptions(A, "kasm.example.com")
    fewer = dataclasses.replace(
        A, components=tuple(component for component in A.components if component.key != "redis")
    )
    without_redis = dataclasses.replace(chart, generation=fewer)
    found = differences_of_profile(without_redis, options, is_stand_in=True)
    assert "Deployment kasm-redis-deployment is no component that is known" in found
    amounts = differences_of_profile(chart, options)
    assert "proxy: kasm-proxy-container: requests.cpu 10m, known as 150m" in amounts
    refused = dataclasses.replace(
        options, generation=dataclasses.replace(A, requires_replicas=False)
    )
    assert (
        "missing property 'replicas'" in differences_of_profile(chart, refused, is_stand_in=True)[0]
    )
