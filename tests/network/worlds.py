"""The chart as helm renders it for each variant of the matrix."""

from pathlib import Path
from typing import Any

from network.evaluate import Policy
from network.matrix import Variant, load
from network.roles import Role, roles_of
from tools.generate.chart_render import render

Object = dict[str, Any]


def variants() -> dict[str, Variant]:
    """By name."""
    return {each.name: each for each in load()}


def rendered(helm: Path, variant: Variant, *, with_tests: bool = False) -> list[Object]:
    """Its objects, and if wanted those of `helm test`."""
    words = [word for value in variant.set for word in ("--set", value)]
    return render(helm, "values.yaml", f"--skip-tests={not with_tests}", *words)


def policies(objects: list[Object]) -> list[Policy]:
    """The NetworkPolicies among them."""
    return [each for each in objects if each["kind"] == "NetworkPolicy"]


def world_of(helm: Path, variant: Variant) -> tuple[list[Policy], list[Role]]:
    """Its policies, and who there is."""
    objects = rendered(helm, variant)
    return policies(objects), roles_of(objects, **variant.world)
