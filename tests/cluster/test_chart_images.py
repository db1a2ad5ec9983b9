"""The chart of a checkout has no default image: a render without one says what to set."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tools import binaries
from tools.generate.chart_render import CHART
from vdi.devcluster.progress import Progress

# The first time, building Helm 3 takes a minute or two.
pytestmark = pytest.mark.timeout(480)
OURS = "image.repository and image.tag (or image.digest)"


@pytest.fixture(scope="module", params=["helm", pytest.param("helm3", marks=pytest.mark.long)])
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    with Progress(tmp_path_factory.mktemp("helm")) as progress:
        return binaries.ensure([name], progress=progress)[name]


def template(helm: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(helm), "template", "vdi", str(CHART), "--kube-version", "1.34.0", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ("domain=vdi.localhost", f"{OURS}, templates.small.image"),
        ("templates=null", OURS),
        ("image.repository=registry.example.com/vdi", "templates.small.image"),
        (
            "image.repository=registry.example.com/vdi,templates.small=null,templates.cad.displayName=CAD",
            "templates.cad.image",
        ),
    ],
)
def test_missing_image_values_are_named(helm: Path, values: str, missing: str) -> None:
    done = template(helm, "--set", values)
    sentence = (
        f"no image: set {missing}. The chart of a source checkout has no default image; `make"
        " images` builds"
    )
    assert done.returncode != 0 and sentence in done.stderr, done.stderr


def test_default_tag_is_the_version_of_the_chart(helm: Path) -> None:
    words = ("--set", "templates=null,image.repository=registry.example.com/vdi")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert f"image: registry.example.com/vdi:{version}\n" in template(helm, *words).stdout
