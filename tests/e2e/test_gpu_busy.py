"""`vdi gpu status` asks the DCGM exporter's pod through the API server of a real node. The exporter
serves a file.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from e2e.desktops import DESKTOP_IMAGE
from e2e.world import World

PAGE = Path(__file__).parents[1] / "dcgm/shared.txt"
NAMESPACE, NAME = "gpu-operator", "nvidia-dcgm-exporter"
pytestmark = pytest.mark.timeout(180)


def exporter() -> dict[str, Any]:
    """As the GPU Operator names and shapes it; in the container a program that serves a file."""
    container = {
        "name": NAME,
        "image": DESKTOP_IMAGE,
        "command": ["python3", "-m", "http.server", "9400", "--directory", "/page"],
        "ports": [{"name": "metrics", "containerPort": 9400}],
        "readinessProbe": {"httpGet": {"path": "/metrics", "port": "metrics"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "page", "mountPath": "/page"}],
    }
    pod = {
        "containers": [container],
        "volumes": [{"name": "page", "configMap": {"name": NAME}}],
        "terminationGracePeriodSeconds": 0,
    }
    labels = {"app": NAME}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


@pytest.mark.long
def test_gpu_load_is_unknown_without_an_exporter(world: World) -> None:
    before = json.loads(world.vdi("gpu", "status", "-o", "json"))
    (node,) = before["nodes"]
    assert (node["busy"], node["busyUnknown"]) == (None, "no DCGM exporter runs in this cluster")

    page = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
    }
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    items = [namespace, {**page, "data": {"metrics": PAGE.read_text()}}, exporter()]
    try:
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        world.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", stdin=given)
        world.kubectl(
            "rollout", "status", f"daemonset/{NAME}", "--namespace", NAMESPACE, "--timeout=60s"
        )
        (node,) = json.loads(world.vdi("gpu", "status", "-o", "json"))["nodes"]
        assert node["busyUnknown"] is None
        assert node["busy"] == pytest.approx(0.36)
        assert [gpu["model"] for gpu in node["measured"]] == ["NVIDIA L4", "NVIDIA L4"]
        shown = world.vdi("gpu", "status")
        assert re.search(rf"^{node['node']} .* 36% +10\.0 of 44\.0 GiB$", shown, re.MULTILINE), (
            shown
        )
        assert "it is unknown how much each desktop uses" in shown
    finally:
        world.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")
