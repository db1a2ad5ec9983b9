"""Images as OCI layouts, one tar file for each with all its platforms, and their bills of
materials.

docker, podman or buildah builds; oras writes manifests, index and layout; syft reads what is
installed.
"""

import gzip
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tools.release.platforms import find_platforms
from tools.release.programs import Programs
from vdi.devcluster.images import ensure_image, is_base_from_registry
from vdi.devcluster.progress import Progress

_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_NAME = "io.containerd.image.name"
TAG = "org.opencontainers.image.ref.name"
_BUILD_TOOL = re.compile(
    r"(gcc|g\+\+|cpp|clang)(-\d+)?|make|cmake|binutils|dpkg-dev|python3-(pip|venv)|pip|setuptools|wheel"
)


def build_images(
    version: str,
    epoch: int,
    report: Callable[[str], None],
    progress: Progress,
    gallery: Sequence[str] = (),
) -> dict[str, dict[str, Path]]:
    """The archives of `docker save`, by name and architecture, for each platform that this machine
    can build for.

    `version` is the package's, `epoch` SOURCE_DATE_EPOCH, `gallery` the names of images of the
    gallery that are built too. Reports the builder and what is left out. Raises NoBuilder,
    ImageFailed, StepFailed.
    """
    platforms = find_platforms(os.environ, docker=is_base_from_registry(progress=progress))
    report(
        f"{platforms.builder} builds"
        f" {', '.join(f'linux/{arch}' for arch in platforms.architectures)}"
    )
    for reason in platforms.left_out:
        report(f"  left out: {reason}")
    versions = {"vdi": version, "desktop": "", **dict.fromkeys(gallery, "")}
    return {
        name: {
            arch: ensure_image(name, progress=progress, version=of, epoch=epoch, arch=arch)
            for arch in platforms.architectures
        }
        for name, of in versions.items()
    }


def write_layout(
    programs: Programs,
    archives: Mapping[str, Path],
    target: Path,
    *,
    name: str,
    annotations: Mapping[str, str],
) -> str:
    """Write the layout of an image under `name`, a reference with a tag, from an archive for each
    architecture.

    Gives the digest, which no registry changes.
    """
    repository, _, tag = name.rpartition(":")
    notes = [
        word for key, value in annotations.items() for word in ("--annotation", f"{key}={value}")
    ]
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        layout = Path(scratch) / "layout"
        for arch, archive in archives.items():
            layers = _unpack(archive, files := Path(scratch) / arch)
            config = (
                "--config",
                f"config.json:{_CONFIG}",
                *(f"{layer}:{_LAYER}" for layer in layers),
            )
            programs.run(
                "oras", "push", "--oci-layout", f"{layout}:{arch}", *notes, *config, cwd=files
            )
            shutil.rmtree(files)
        programs.run(
            "oras",
            "manifest",
            "index",
            "create",
            "--oci-layout",
            f"{layout}:{tag}",
            *archives,
            *notes,
        )
        digest = programs.run("oras", "resolve", "--oci-layout", f"{layout}:{tag}")
        _name_by_tag_and_digest(layout / "index.json", repository, tag, digest)
        with tarfile.open(target, "w") as packed:
            for part in ("blobs", "index.json", "oci-layout"):
                packed.add(layout / part, part)
    return digest


def _unpack(archive: Path, folder: Path) -> list[str]:
    """Config and layers of an archive as files; gives the layers' names."""
    folder.mkdir()
    names = []
    with tarfile.open(archive) as source:
        manifest = read_json(source, "manifest.json")[0]
        (folder / "config.json").write_bytes(_open(source, manifest["Config"]).read())
        for number, layer in enumerate(manifest["Layers"]):
            names.append(f"{number}.tar.gz")
            with (
                (folder / names[-1]).open("wb") as file,
                gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
            ):
                shutil.copyfileobj(_open(source, layer), packed, 1 << 20)
    return names


def read_json(archive: tarfile.TarFile, name: str) -> Any:
    return json.load(_open(archive, name))


def _open(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    content = archive.extractfile(name)
    assert content is not None, f"{name} is no file in its archive"
    return content


def _name_by_tag_and_digest(index: Path, repository: str, tag: str, digest: str) -> None:
    """A node without a registry then has the image that a chart names by digest. oras finds it by
    its tag.
    """
    document = json.loads(index.read_text())
    (entry,) = [
        manifest for manifest in document["manifests"] if manifest["annotations"].get(TAG) == tag
    ]
    by_tag = entry | {"annotations": {TAG: tag, _NAME: f"{repository}:{tag}"}}
    by_digest = entry | {"annotations": {_NAME: f"{repository}@{digest}"}}
    index.write_text(json.dumps(document | {"manifests": [by_tag, by_digest]}))


def write_bill(programs: Programs, source: str, target: Path, name: str, version: str) -> list[str]:
    """Write the bill of materials (CycloneDX) of `source`, as syft names it; gives the build tools
    in it.
    """
    named = ("--source-name", name, "--source-version", version)
    # Not each file by itself.
    packages = ("--select-catalogers=-file", "--output", f"cyclonedx-json={target}")
    programs.run("syft", "scan", "--quiet", source, *named, *packages)
    components = json.loads(target.read_text()).get("components", [])
    return sorted({part["name"] for part in components if _BUILD_TOOL.fullmatch(part["name"])})
