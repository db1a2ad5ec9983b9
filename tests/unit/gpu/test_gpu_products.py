"""Which GPUs cannot encode, by the names that GPU Feature Discovery gives."""

import pytest

from vdi.gpu.sharing.state import lacks_encoder


@pytest.mark.parametrize(
    "product",
    [
        "NVIDIA-A100-SXM4-80GB",
        "NVIDIA-A100-PCIE-40GB-MIG-1g.5gb",
        "A100-SXM4-40GB-SHARED",
        "NVIDIA-A30",
        "NVIDIA-H100-80GB-HBM3",
        "NVIDIA-H200",
        "NVIDIA-GH200-480GB",
    ],
)
def test_gpus_for_computing_cannot_encode(product: str) -> None:
    assert lacks_encoder(product)


@pytest.mark.parametrize(
    "product",
    [
        "NVIDIA-L4",
        "NVIDIA-L40S",
        "NVIDIA-A10",
        "NVIDIA-A16",
        "NVIDIA-A2",
        "Tesla-T4",
        "NVIDIA-RTX-A3000-Laptop-GPU",
        "",
    ],
)
def test_gpus_for_desktops_and_unknown_ones_count_as_able_to(product: str) -> None:
    assert not lacks_encoder(product)
