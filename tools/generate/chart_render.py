"""The chart rendered by real helm, without a cluster."""

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vdi.api.meta import RELEASE_NAMESPACE

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/vdi"
# What the chart of a source checkout has no default for.
DEV_IMAGES = ROOT / "tests/support/dev-images.yaml"
VALUES_FILES = tuple(sorted(path.name for path in CHART.glob("values*.yaml")))
Object = dict[str, Any]


@lru_cache(maxsize=32)  # no one changes what comes back
def render(helm: Path, values_file: str, *options: str) -> list[Object]:
    """Its objects with one of its values files, as they are sent to a cluster that has the CRDs.

    Not those of `helm test`, which come and go.
    """
    kinds = "vdi.kasm.io/v1alpha1/VDITemplate,vdi.kasm.io/v1alpha1/VDIPool"
    known = ("--skip-tests", "--kube-version", "1.34.0", "--api-versions", kinds)
    where = ("--namespace", RELEASE_NAMESPACE, *values_words(values_file))
    command = [str(helm), "template", "vdi", str(CHART), *where, *known, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return read_objects(done.stdout)


def values_words(values_file: str) -> list[str]:
    """helm's options for the images and one of the chart's values files.

    Not for values.yaml: it has the defaults, and given as an option its empty images would win.
    """
    options = ["-f", str(DEV_IMAGES)]
    return options if values_file == "values.yaml" else [*options, "-f", str(CHART / values_file)]


def read_objects(text: str) -> list[Object]:
    """The objects that `helm template` prints. Read in C: in Python it takes longer than helm."""
    return [made for made in yaml.load_all(text, yaml.CSafeLoader) if made]


def pod_specs(made: Object) -> list[tuple[int, Object]]:
    """Pods that an object makes, as (how many, spec); of a DaemonSet and of a Job one."""
    spec = made.get("spec", {})
    if made["kind"] in ("Deployment", "StatefulSet"):
        return [(spec.get("replicas", 1), spec["template"]["spec"])]
    if made["kind"] in ("DaemonSet", "Job"):
        return [(1, spec["template"]["spec"])]
    if made["kind"] == "CronJob":
        return [(1, spec["jobTemplate"]["spec"]["template"]["spec"])]
    return [(1, spec)] if made["kind"] == "Pod" else []


def images_of(objects: list[Object]) -> set[str]:
    """Every image that a cluster has to fetch for them, desktops' included."""
    images: set[str] = set()
    for made in objects:
        if made["kind"] == "VDITemplate":
            images.add(made["spec"]["image"])
        for _, spec in pod_specs(made):
            for container in [*spec["containers"], *spec.get("initContainers", [])]:
                images.add(container["image"])
    return images
