"""The chart as helm renders it for each variant of the matrix."""

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from network.evaluate import Policy
from network.matrix import Variant, load
from network.roles import Role, roles_of
from tools.generate.chart_render import CHART, DEV_IMAGES, read_objects

Object = dict[str, Any]


def variants() -> dict[str, Variant]:
    """By name."""
    return {each.name: each for each in load()}


def rendered(helm: Path, variant: Variant, *, with_tests: bool = False) -> list[Object]:
    """Its objects, and if wanted those of `helm test`."""
    objects = _render(helm, variant.set)
    return objects if with_tests else [each for each in objects if not _is_of_a_test(each)]


@lru_cache(maxsize=32)  # no one changes what comes back
def _render(helm: Path, values: tuple[str, ...]) -> list[Object]:
    words = [word for one in values for word in ("--set", one)]
    command = [str(helm), "template", "vdi", str(CHART), "--namespace", "vdi-system", "--kube-version", "1.34.0"]
    command += ["--api-versions", "vdi.kasm.io/v1alpha1/VDITemplate", "--values", str(DEV_IMAGES), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return read_objects(done.stdout)


def _is_of_a_test(made: Object) -> bool:
    return "helm.sh/hook" in made["metadata"].get("annotations", {})


def policies(objects: list[Object]) -> list[Policy]:
    """The NetworkPolicies among them."""
    return [each for each in objects if each["kind"] == "NetworkPolicy"]


def world_of(helm: Path, variant: Variant) -> tuple[list[Policy], list[Role]]:
    """Its policies, and who there is."""
    objects = rendered(helm, variant)
    return policies(objects), roles_of(objects, **variant.world)
