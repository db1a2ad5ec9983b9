"""Codes of graphics: what draws and what encodes the picture of a desktop with a GPU."""

from functools import partial

from vdi.diagnosis.code import Code
from vdi.findings.model import Severity

_code = partial(Code, layer="data plane", severity=Severity.WARNING)

GRAPHICS = (
    _code(
        code="graphics_capability_missing",
        means=(
            "The container runtime did not mount NVIDIA's OpenGL and Vulkan libraries: the desktop renders on the CPU."
        ),
        proof="status.graphics.reason of a desktop with a GPU: NVIDIA_DRIVER_CAPABILITIES lacks `graphics`.",
        remedy="Add `graphics` to NVIDIA_DRIVER_CAPABILITIES of the template, or remove the variable there.",
        follows=("gpu_runtime_class_unset",),
    ),
    _code(
        code="graphics_driver_not_loadable",
        means="NVIDIA's driver library cannot be loaded in the desktop's container: it renders on the CPU.",
        proof="status.graphics.reason, and the loader's error in status.graphics.message.",
        remedy="Restart the desktop after an upgrade of the driver; otherwise update the NVIDIA Container Toolkit.",
        follows=("gpu_runtime_class_unset", "gpu_toolkit_paths_not_k3s"),
    ),
    _code(
        code="graphics_in_software",
        means="A desktop of a template with a GPU renders OpenGL on the CPU.",
        proof="status.graphics.renderer and its reason, which the desktop's image determines at the start.",
        remedy=(
            "See the reason in the desktop's log. Intel and AMD GPUs need `spec.streaming.display: Auto`; rendering on "
            "MIG devices is not supported."
        ),
        follows=("gpu_runtime_class_unset", "gpu_runtime_class_missing", "gpu_toolkit_paths_not_k3s"),
    ),
    _code(
        code="gpu_encoder_missing",
        means=(
            "A GPU for computing (A100, A30, H100, H200) has no NVENC: desktops on it render on the GPU and encode "
            "on the CPU."
        ),
        proof="The node's label nvidia.com/gpu.product, and a template whose desktops have a GPU.",
        remedy="Use GPUs with NVENC for desktops, such as L4, L40S, A10, A16, T4 or RTX.",
    ),
)
