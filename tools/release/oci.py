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
from pathlib import Path
from typing import IO, Any

import yaml

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_CHART_CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_CHUNK = 1 << 20

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

    def add_layer(self, layer: IO[bytes]) -> Blob:
        """Put a layer in, compressed."""
        packed = self._folder / "layer"
        with packed.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as target:
            while chunk := layer.read(_CHUNK):
                target.write(chunk)
        with packed.open("rb") as written:
            name = hashlib.file_digest(written, "sha256").hexdigest()
        packed.rename(self._blobs / name)
        return Blob(_LAYER, f"sha256:{name}", (self._blobs / name).stat().st_size)

    def close(self, config: Blob, layers: Sequence[Blob], annotations: Mapping[str, str], name: str) -> str:
        """Write manifest and index; gives the digest of the manifest. `name` is the reference, with a tag.

        The index has it by digest too: a node without a registry then has the image that a chart names by digest.
        """
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
            "annotations": dict(annotations),
        }
        manifest = self.add(MANIFEST, as_json(document))
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX,
            "manifests": [
                manifest.descriptor(annotations=_named(name)),
                manifest.descriptor(annotations=_named(f"{name.rpartition(':')[0]}@{manifest.digest}")),
            ],
        }
        (self._folder / "index.json").write_bytes(as_json(index))
        (self._folder / "oci-layout").write_bytes(as_json({"imageLayoutVersion": "1.0.0"}))
        return manifest.digest

    def write(self, target: Path) -> None:
        """Write it as a tar file."""
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                entry = tarfile.TarInfo(str(path.relative_to(self._folder)))
                entry.size, entry.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    archive.addfile(entry, file)


def write_image(archive: Path, target: Path, *, name: str, labels: Mapping[str, str], created: str) -> str:
    """The layout of the image in `archive`, a file of `docker save`, under `name`. Gives its digest."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch, tarfile.open(archive) as source:
        layout = Layout(Path(scratch) / "layout")
        manifest = json.load(_member(source, "manifest.json"))[0]
        config = json.load(_member(source, manifest["Config"]))
        config["created"] = created
        config["config"]["Labels"] = {**(config["config"].get("Labels") or {}), **labels}
        layers = [layout.add_layer(_member(source, layer)) for layer in manifest["Layers"]]
        blob = layout.add(_IMAGE_CONFIG, as_json(config))
        digest = layout.close(blob, layers, labels, name)
        layout.write(target)
    return digest


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
        digest = layout.close(config, [content], annotations, name)
        layout.write(target)
    return digest


def digest_of(archive: Path) -> str:
    """The digest of what a layout holds."""
    with tarfile.open(archive) as source:
        index = json.load(_member(source, "index.json"))
    return str(index["manifests"][0]["digest"])


def name_of(archive: Path) -> str:
    """The reference under which a layout was written."""
    with tarfile.open(archive) as source:
        index = json.load(_member(source, "index.json"))
    return str(index["manifests"][0]["annotations"]["io.containerd.image.name"])


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
    """Unpack a layout for tools that want one entry in its index."""
    with tarfile.open(archive) as source:
        source.extractall(folder, filter="data")
    index = json.loads((folder / "index.json").read_bytes())
    (folder / "index.json").write_bytes(as_json(index | {"manifests": index["manifests"][:1]}))


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file in its archive")
    return file
