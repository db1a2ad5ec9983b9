"""The objects that turn time-slicing on, also for people who apply YAML. Pure. `make generate` writes the files."""

from collections.abc import Mapping
from typing import Any

from vdi.gpu.sharing.changes import to_yaml
from vdi.gpu.sharing.config import Sharing, render_config
from vdi.gpu.sharing.effect import DEFAULT_NAME
from vdi.gpu.sharing.state import OPERATOR_NAMESPACE
from vdi.kube.resource import CONFIG_MAPS

DEFAULT_KEY = "any"

_CONFIG_MAP = """\
# GPU time-slicing for NVIDIA's GPU Operator: 8 desktops per GPU. scripts/configure_gpu_slicing.sh applies it, patches
# the ClusterPolicy, restarts the device plugin and verifies the nodes. By hand:
#
#   kubectl apply -f manifests/gpu-time-slicing.yaml
#   kubectl patch clusterpolicy cluster-policy --type=merge --patch-file manifests/gpu-cluster-policy-patch.yaml
#   kubectl --namespace gpu-operator rollout restart daemonset nvidia-device-plugin-daemonset gpu-feature-discovery
#
# docs/gpu.md says what time-slicing is not (isolation).
"""
_POLICY_PATCH = """\
# A patch for the ClusterPolicy of NVIDIA's GPU Operator, see gpu-time-slicing.yaml. It is no object of its own: only
# the Operator's chart can make a ClusterPolicy, so `kubectl apply` refuses this file. Without `default` only nodes with
# the label nvidia.com/device-plugin.config=any take the configuration.
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


def render_files() -> dict[str, str]:
    """The files' contents by name."""
    ours = config_map(OPERATOR_NAMESPACE, DEFAULT_NAME, {DEFAULT_KEY: Sharing()})
    patch = {"spec": {"devicePlugin": {"config": policy_config(DEFAULT_NAME, DEFAULT_KEY)}}}
    return {
        "gpu-time-slicing.yaml": f"{_CONFIG_MAP}{to_yaml(ours)}",
        "gpu-cluster-policy-patch.yaml": f"{_POLICY_PATCH}{to_yaml(patch)}",
    }
