"""manifests/gpu-time-slicing.yaml is what the code makes, and what `vdi gpu configure` brings about."""

from pathlib import Path

import yaml

from unit.gpu.gpu_states import EIGHT, configured
from unit.gpu.test_gpu_sharing import MISSION
from vdi.gpu.manifest import render_manifest

FILE = Path(__file__).parents[3] / "manifests" / "gpu-time-slicing.yaml"


def test_the_file_is_generated() -> None:
    assert FILE.read_text() == render_manifest(), "python -m vdi.gpu.manifest > manifests/gpu-time-slicing.yaml"


def test_it_says_what_configure_does() -> None:
    config_map, policy = yaml.safe_load_all(FILE.read_text())
    done = configured(wish=EIGHT)
    assert done.config_map is not None
    assert done.policy is not None
    assert config_map["data"] == {"any": MISSION} == done.config_map.data
    assert config_map["metadata"] == {"name": "time-slicing-config", "namespace": "gpu-operator"}
    assert policy["spec"] == {"devicePlugin": {"config": {"name": "time-slicing-config", "default": "any"}}}
    assert policy["spec"]["devicePlugin"]["config"] == done.policy.config
