"""The objects of `vdi gpu configure` as files in manifests/, for people who apply files."""

from vdi.gpu.sharing.changes import to_yaml
from vdi.gpu.sharing.config import Sharing, render_config
from vdi.gpu.sharing.plan import DEFAULT_KEY, build_config_map
from vdi.gpu.sharing.state import DEFAULT_NAME, OPERATOR_NAMESPACE

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


def render_manifests() -> dict[str, str]:
    """Contents by file name."""
    data = {DEFAULT_KEY: render_config(Sharing())}
    config_map = build_config_map(OPERATOR_NAMESPACE, DEFAULT_NAME, data)
    patch = {"spec": {"devicePlugin": {"config": {"name": DEFAULT_NAME, "default": DEFAULT_KEY}}}}
    return {
        "gpu-time-slicing.yaml": f"{_CONFIG_MAP}{to_yaml(config_map)}",
        "gpu-cluster-policy-patch.yaml": f"{_POLICY_PATCH}{to_yaml(patch)}",
    }
