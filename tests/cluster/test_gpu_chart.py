"""The chart's ConfigMap for the device plugin is what the code writes, and what the manifest
has.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tools.generate.chart_render import CHART, DEV_IMAGES, render
from vdi.gpu.sharing.config import Sharing, render_config

MANIFEST = CHART.parents[1] / "manifests/gpu-time-slicing.yaml"
ON = ("--set", "gpu.timeSlicing.enabled=true")


def config_maps(helm: Path, *words: str) -> list[dict[str, Any]]:
    made = render(helm, "values.yaml", *words)
    return [
        one
        for one in made
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "time-slicing-config"
    ]


def test_chart_defaults_equal_the_gpu_manifests(helm: Path) -> None:
    (made,) = config_maps(helm, *ON)
    written = yaml.safe_load(MANIFEST.read_text())
    assert made["data"] == written["data"]
    assert made["metadata"]["namespace"] == written["metadata"]["namespace"]


def test_the_notes_have_the_command_with_the_same_numbers(helm: Path) -> None:
    given = "configs.any=4,configs.big=2,migStrategy=single,renameByDefault=true,failRequestsGreaterThanOne=true"
    words = [f"gpu.timeSlicing.{part}" for part in given.split(",")] + [
        "gpuResource=nvidia.com/gpu.shared"
    ]
    assert "vdi gpu" not in notes(helm)
    assert notes(helm, *ON).splitlines().count("  vdi gpu configure --replicas 8") == 1
    line = (
        "--replicas 4 --config big=2 --mig-strategy single --rename-by-default"
        " --fail-requests-greater-than-one"
    )
    assert f"  vdi gpu configure {line}\n" in notes(helm, *ON, "--set", ",".join(words))


def notes(helm: Path, *words: str) -> str:
    command = [
        str(helm),
        "install",
        "vdi",
        str(CHART),
        "--namespace",
        "vdi-system",
        "--dry-run=client",
    ]
    command += ["--values", str(DEV_IMAGES), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def test_chart_writes_what_gpu_configure_writes(helm: Path) -> None:
    given = {
        "configs.big": "2",
        "configs.whole": "1",
        "migStrategy": "single",
        "renameByDefault": "true",
        "failRequestsGreaterThanOne": "true",
    }
    words = [
        word for key, value in given.items() for word in ("--set", f"gpu.timeSlicing.{key}={value}")
    ]
    (made,) = config_maps(helm, *ON, *words, "--set", "gpuResource=nvidia.com/gpu.shared")
    desired = {
        name: render_config(
            Sharing(
                replicas, rename=True, fail_requests_greater_than_one=True, mig_strategy="single"
            )
        )
        for name, replicas in (("any", 8), ("big", 2), ("whole", 1))
    }
    assert made["data"] == desired
