"""The objects that turn time-slicing on, also for people who apply YAML: `python -m vdi.gpu.manifest`. Pure.

Writes manifests/gpu-time-slicing.yaml, which a test holds equal.
"""

from collections.abc import Mapping
from typing import Any

from vdi.gpu.effect import DEFAULT_NAME
from vdi.gpu.sharing import Sharing, render_config
from vdi.gpu.steps import CLUSTER_POLICIES, to_yaml
from vdi.kube.resource import CONFIG_MAPS

OPERATOR_NAMESPACE = "gpu-operator"
POLICY_NAME = "cluster-policy"
DEFAULT_KEY = "any"

_HEAD = """\
# GPU time-slicing for NVIDIA's GPU Operator: 8 desktops per GPU. `vdi gpu configure` does the same, restarts the device
# plugin where that is needed, and verifies it; docs/gpu.md says what time-slicing is not (isolation).
#
#   kubectl apply --server-side --field-manager=vdi-gpu -f manifests/gpu-time-slicing.yaml
#   vdi gpu verify
#
# After a later change of the ConfigMap alone, the Operator restarts nothing:
#   kubectl --namespace gpu-operator rollout restart daemonset nvidia-device-plugin-daemonset gpu-feature-discovery
"""
_POLICY = """\
# Only these fields of the ClusterPolicy are ours; the Operator's chart makes the object. Without `default` only nodes
# with the label nvidia.com/device-plugin.config=any take the configuration.
"""


def config_map(namespace: str, name: str, configs: Mapping[str, Sharing]) -> dict[str, Any]:
    """The ConfigMap with these named configurations."""
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: render_config(sharing) for key, sharing in configs.items()},
    }


def policy_config(name: str, default: str) -> dict[str, Any]:
    """`spec.devicePlugin.config` of the ClusterPolicy."""
    return {"name": name, "default": default}


def render_manifest() -> str:
    """The file's content."""
    ours = config_map(OPERATOR_NAMESPACE, DEFAULT_NAME, {DEFAULT_KEY: Sharing()})
    policy = {
        "apiVersion": CLUSTER_POLICIES.api_version,
        "kind": CLUSTER_POLICIES.kind,
        "metadata": {"name": POLICY_NAME},
        "spec": {"devicePlugin": {"config": policy_config(DEFAULT_NAME, DEFAULT_KEY)}},
    }
    return f"{_HEAD}{to_yaml(ours)}---\n{_POLICY}{to_yaml(policy)}"


if __name__ == "__main__":
    print(render_manifest(), end="")  # noqa: T201 - what it is for
