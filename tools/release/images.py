"""Builds the images: with docker, podman or buildah, for each platform that this machine can build for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vdi.devcluster.images import ensure_desktop, ensure_gallery, ensure_vdi, is_base_from_registry
from vdi.devcluster.images.platforms import find_platforms
from vdi.devcluster.progress import Progress


def build_images(
    version: str, epoch: int, report: Callable[[str], None], progress: Progress, gallery: Sequence[str] = ()
) -> dict[str, dict[str, Path]]:
    """The image archives, by name and architecture. `version` is the package's, `epoch` SOURCE_DATE_EPOCH,
    `gallery` the names of images of the gallery that are built too.

    Reports the builder and what is left out. Raises NoBuilder, ImageFailed, StepFailed.
    """
    platforms = find_platforms(os.environ, docker=is_base_from_registry(progress=progress))
    report(f"{platforms.builder} builds {', '.join(f'linux/{arch}' for arch in platforms.architectures)}")
    for reason in platforms.left_out:
        report(f"  left out: {reason}")
    return {
        "vdi": {
            arch: ensure_vdi(progress=progress, version=version, epoch=epoch, arch=arch)
            for arch in platforms.architectures
        },
        "desktop": {
            arch: ensure_desktop(progress=progress, epoch=epoch, arch=arch) for arch in platforms.architectures
        },
        **{
            name: {
                arch: ensure_gallery(name, progress=progress, epoch=epoch, arch=arch)
                for arch in platforms.architectures
            }
            for name in gallery
        },
    }
