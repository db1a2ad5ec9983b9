"""OCI image layouts as one tar file each: of an image archive, and of a packaged chart. Files and bytes only.

A layout fixes the digest of what it holds before any registry has seen it. The same input gives the same bytes.
"""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from tools.release.layers import write_layer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
_CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_CHART_CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_BUILDER_LABELS = {"io.buildah.version"}
"""Labels that say which builder it was."""

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a layout: its media type, its digest (with `sha256:`) and its size in bytes."""

    media_type: str
    digest: str
    size: int

    def descriptor(self, **more: object) -> Object:
        """As manifests and indexes write it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **more}


class Layout:
    """An OCI layout that is being made in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._blobs = folder / "blobs/sha256"
        self._blobs.mkdir(parents=True)

    def add(self, media_type: str, content: bytes) -> Blob:
        """Put a blob in."""
        name = hashlib.sha256(content).hexdigest()
        (self._blobs / name).write_bytes(content)
        return Blob(media_type, f"sha256:{name}", len(content))

    def add_layer(self, layer: IO[bytes], epoch: int) -> tuple[Blob, str]:
        """Put a layer in, compressed and without the times of its build. Gives its diff ID too."""
        packed = self._folder / "layer"
        diff_id = write_layer(layer, packed, epoch)
        with packed.open("rb") as written:
            name = hashlib.file_digest(written, "sha256").hexdigest()
        packed.rename(self._blobs / name)
        return Blob(_LAYER, f"sha256:{name}", (self._blobs / name).stat().st_size), diff_id

    def add_manifest(
        self, config: Blob, layers: Sequence[tuple[Blob, Mapping[str, str]]], annotations: Mapping[str, str]
    ) -> Blob:
        """Put a manifest in. `layers` are with their annotations."""
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor(**({"annotations": dict(notes)} if notes else {})) for layer, notes in layers],
            "annotations": dict(annotations),
        }
        return self.add(MANIFEST, as_json(document))

    def add_index(self, manifests: Mapping[str, Blob], annotations: Mapping[str, str]) -> Blob:
        """Put in an image of several platforms, from the manifest of each architecture."""
        platforms = [
            manifest.descriptor(platform={"architecture": arch, "os": "linux"}) for arch, manifest in manifests.items()
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": platforms,
            "annotations": dict(annotations),
        }
        return self.add(_INDEX, as_json(document))

    def close(self, named: Sequence[tuple[Blob, str]]) -> None:
        """Name what the layout holds: references, with a tag or a digest."""
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [content.descriptor(annotations=_named(name)) for content, name in named],
        }
        (self._folder / "index.json").write_bytes(as_json(index))
        (self._folder / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))

    def write(self, target: Path) -> None:
        """Write it as a tar file."""
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                entry = tarfile.TarInfo(str(path.relative_to(self._folder)))
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(entry, file)


def write_image(archives: Mapping[str, Path], target: Path, *, name: str, labels: Mapping[str, str], epoch: int) -> str:
    """The layout of the image in `archives`, a file of `docker save` for each architecture, under `name`.

    Gives its digest. Nothing of the builds stays but their files: no times after `epoch` (seconds), no history. Raises
    ValueError for an image that runs as root, or for another architecture.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        layout = Layout(Path(scratch) / "layout")
        manifests = {arch: _add_image(layout, archives[arch], arch, labels, epoch) for arch in sorted(archives)}
        content = next(iter(manifests.values())) if len(manifests) == 1 else layout.add_index(manifests, labels)
        layout.close(_by_tag_and_digest(content, name))
        layout.write(target)
    return content.digest


def _by_tag_and_digest(content: Blob, name: str) -> list[tuple[Blob, str]]:
    """A node without a registry then has the image that a chart names by digest."""
    return [(content, name), (content, f"{name.rpartition(':')[0]}@{content.digest}")]


def _add_image(layout: Layout, archive: Path, arch: str, labels: Mapping[str, str], epoch: int) -> Blob:
    with tarfile.open(archive) as source:
        manifest = json.load(_member(source, "manifest.json"))[0]
        built = json.load(_member(source, manifest["Config"]))
        if built["architecture"] != arch:
            raise ValueError(f"{archive} is for {built['architecture']}, not for {arch}")
        settings = built["config"]
        if (settings.get("User") or "").partition(":")[0] in ("", "0", "root"):
            raise ValueError(f"{archive} runs as root: its Containerfile needs a line USER")
        own = {label: value for label, value in (settings.get("Labels") or {}).items() if label not in _BUILDER_LABELS}
        layers = [layout.add_layer(_member(source, layer), epoch) for layer in manifest["Layers"]]
    config = {name: built[name] for name in ("architecture", "os", "variant") if name in built} | {
        "created": timestamp(epoch),
        "config": settings | {"Labels": own | dict(labels)},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _, diff_id in layers]},
    }
    return layout.add_manifest(layout.add(_IMAGE_CONFIG, as_json(config)), [(blob, {}) for blob, _ in layers], labels)


def timestamp(epoch: int) -> str:
    """Seconds, as OCI writes a time."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_chart(package: Path, target: Path, *, name: str, created: str) -> str:
    """The layout of a chart that `helm package` has written, as `helm push` would push it. Gives its digest."""
    with tarfile.open(package) as source:
        about = yaml.safe_load(_member(source, "vdi/Chart.yaml"))
    annotations = {
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.description": about["description"],
        "org.opencontainers.image.title": about["name"],
        "org.opencontainers.image.version": about["version"],
    }
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        layout = Layout(Path(scratch) / "layout")
        config = layout.add(_CHART_CONFIG, as_json(about))
        content = layout.add(_CHART_CONTENT, package.read_bytes())
        manifest = layout.add_manifest(config, [(content, {})], annotations)
        layout.close(_by_tag_and_digest(manifest, name))
        layout.write(target)
    return manifest.digest


@dataclass(frozen=True, slots=True)
class Artifact:
    """What is pushed: NAME:TAG below the registry, the layout that has it, and its descriptor there."""

    target: str
    layout: Path
    descriptor: Object

    @property
    def digest(self) -> str:
        """Of the manifest or index."""
        return str(self.descriptor["digest"])


def artifacts(folder: Path) -> list[Artifact]:
    """The images and the chart of a release."""
    found = []
    for pattern, prefix in (("vdi-image-*.tar", ""), ("vdi-chart-*.tar", "charts/")):
        for layout in sorted(folder.glob(pattern)):
            first = descriptors(layout)[0]
            found.append(Artifact(prefix + name_in(first).rpartition("/")[2], layout, first))
    return found


def descriptors(layout: Path) -> list[Object]:
    """What a layout's index lists."""
    with tarfile.open(layout) as source:
        found: list[Object] = json.load(_member(source, "index.json"))["manifests"]
    return found


def name_in(descriptor: Mapping[str, Any]) -> str:
    """The reference that a layout gives to an entry of its index."""
    return str(descriptor["annotations"]["io.containerd.image.name"])


def digest_of(archive: Path) -> str:
    """The digest of what a layout holds."""
    return str(descriptors(archive)[0]["digest"])


def pack_folder(folder: Path, target: Path) -> None:
    """A .tar.gz of `folder` that has neither times nor owners: what `helm package` writes has both."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = tarfile.TarInfo(f"{folder.name}/{path.relative_to(folder)}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def as_json(value: object) -> bytes:
    """The same bytes for the same value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _named(name: str) -> dict[str, str]:
    return {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a layout, with the first entry of its index alone."""
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    choose(folder, json.loads((folder / "index.json").read_bytes())["manifests"][0])


def choose(folder: Path, descriptor: Object) -> None:
    """Leave one entry in an unpacked layout's index, as crane wants it."""
    index = json.loads((folder / "index.json").read_bytes())
    (folder / "index.json").write_bytes(as_json(index | {"manifests": [descriptor]}))


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file in its archive")
    return file
