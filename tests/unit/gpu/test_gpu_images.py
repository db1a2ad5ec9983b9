"""Which GPU a desktop sees is the device plugin's word alone."""

import re
from pathlib import Path

IMAGES = Path(__file__).parents[3] / "images"


def test_no_image_of_ours_asks_for_gpus() -> None:
    """With NVIDIA's runtime as the default, an image with this variable sees every GPU of its
    node.
    """
    files = sorted(IMAGES.glob("**/Containerfile"))
    assert IMAGES / "desktop/Containerfile" in files
    for path in files:
        lines = [
            line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")
        ]
        assert not re.search("NVIDIA_VISIBLE_DEVICES|CUDA_VISIBLE_DEVICES", "\n".join(lines)), path
