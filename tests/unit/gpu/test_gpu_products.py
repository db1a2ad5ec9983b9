"""Which GPUs cannot encode, by the names that GPU Feature Discovery gives."""

import pytest

from vdi.gpu.sharing.state import lacks_encoder


@pytest.mark.parametrize(
    ("product", "lacks"),
    [
        ("NVIDIA-A100-SXM4-80GB", True),
        ("NVIDIA-A100-PCIE-40GB-MIG-1g.5gb", True),
        ("A100-SXM4-40GB-SHARED", True),
        ("NVIDIA-A30", True),
        ("NVIDIA-H100-80GB-HBM3", True),
        ("NVIDIA-H200", True),
        ("NVIDIA-GH200-480GB", True),
        ("NVIDIA-L4", False),
        ("NVIDIA-L40S", False),
        ("NVIDIA-A10", False),
        ("NVIDIA-A16", False),
        ("NVIDIA-A2", False),
        ("Tesla-T4", False),
        ("NVIDIA-RTX-A3000-Laptop-GPU", False),
        ("", False),  # an unknown one counts as able to
    ],
)
def test_gpus_for_computing_alone_cannot_encode(product: str, lacks: bool) -> None:
    assert lacks_encoder(product) is lacks
