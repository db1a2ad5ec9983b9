"""The manifests for time-slicing are what the code makes, and what `vdi gpu configure` brings about."""

from pathlib import Path

import yaml

from unit.gpu.gpu_states import EIGHT, configured
from unit.gpu.test_gpu_sharing import MISSION
from vdi.gpu.sharing.plan import render_files

FOLDER = Path(__file__).parents[3] / "manifests"


def test_they_say_what_configure_does() -> None:
    config_map, patch = (yaml.safe_load((FOLDER / name).read_text()) for name in render_files())
    done = configured(request=EIGHT)
    assert done.config_map is not None
    assert done.policy is not None
    assert config_map["data"] == {"any": MISSION} == done.config_map.data
    assert config_map["metadata"] == {"name": "time-slicing-config", "namespace": "gpu-operator"}
    assert patch == {"spec": {"devicePlugin": {"config": {"name": "time-slicing-config", "default": "any"}}}}
    assert patch["spec"]["devicePlugin"]["config"] == done.policy.config
