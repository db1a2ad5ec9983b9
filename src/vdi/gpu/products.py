"""What a GPU is good for, by the name that GPU Feature Discovery gives its node (`nvidia.com/gpu.product`). Pure."""

import re

PRODUCT_LABEL = "nvidia.com/gpu.product"
_WITHOUT_ENCODER = re.compile(r"(?<![A-Za-z0-9])(A100X?|A30X?|H100|H200|GH200)(?![A-Za-z0-9])")
"""NVIDIA's support matrix of the Video Codec SDK: GPUs for computing that decode video and have no NVENC."""


def lacks_encoder(product: str) -> bool:
    """Whether this GPU has no NVENC; a product that is not known counts as one that has it."""
    return _WITHOUT_ENCODER.search(product) is not None
