"""Which images an archive holds: what `docker save`, `podman save` and `buildah push docker-archive:` write, or OCI."""

import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

_LARGEST_DOCUMENT, _LARGEST_INDEX = 1 << 20, 64 << 20
"""Bytes of one JSON file, and of all that are read. A blob of less than a MiB may be a layer as well."""
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class BadArchiveError(Exception):
    """Raised for a file that is no image archive; the message names the file and what is allowed."""


class ArchiveImage(NamedTuple):
    """An image for one architecture."""

    name: str
    architecture: str


def read_archive(path: Path) -> tuple[ArchiveImage, ...]:
    """The images in a tar file, gzip or not. Raises BadArchiveError."""
    allowed = "allowed: a tar file of docker save, podman save or an OCI layout, also with gzip"
    try:
        with tarfile.open(path) as archive:
            documents = dict(_documents(archive))
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise BadArchiveError(f"{path}: cannot be read as an image archive ({error}); {allowed}") from error
    try:
        images = tuple(dict.fromkeys(_docker_images(documents) or _oci_images(documents)))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadArchiveError(f"{path}: its index of images is broken ({error!r}); {allowed}") from error
    if not images:
        raise BadArchiveError(f"{path}: contains no image with a name; {allowed}")
    return images


def _documents(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    size = 0
    for member in archive:
        name = member.name.removeprefix("./")
        is_document = name.endswith(".json") or name.startswith("blobs/")
        if member.isfile() and is_document and member.size <= _LARGEST_DOCUMENT:
            content = archive.extractfile(member)
            assert content is not None  # noqa: S101 - it is a file
            size += member.size
            if size > _LARGEST_INDEX:
                raise tarfile.TarError(f"its small files have more than {_LARGEST_INDEX} bytes")
            yield name, content.read()


def _docker_images(documents: Mapping[str, bytes]) -> list[ArchiveImage]:
    found = []
    for entry in json.loads(documents.get("manifest.json", b"[]")):
        architecture = json.loads(documents[entry["Config"]])["architecture"]
        found += [ArchiveImage(name, architecture) for name in entry.get("RepoTags") or ()]
    return found


def _oci_images(documents: Mapping[str, bytes]) -> list[ArchiveImage]:
    found = []
    for entry in json.loads(documents.get("index.json", b"{}")).get("manifests", ()):
        notes = entry.get("annotations") or {}
        name = next((notes[key] for key in _NAMES if key in notes), "")
        if name:
            found += [ArchiveImage(name, architecture) for architecture in _architectures(documents, entry)]
    return found


def _architectures(documents: Mapping[str, bytes], entry: Mapping[str, Any]) -> Iterator[str]:
    """Of an image, or of each image in an index. Attestations have the architecture `unknown`."""
    seen: set[str] = set()
    waiting = [entry]
    while waiting:
        entry = waiting.pop(0)
        if platform := (entry.get("platform") or {}).get("architecture"):
            if platform != "unknown":
                yield platform
            continue
        path = _path(entry)
        if path in seen:  # read again, two indexes that name each other would have no end
            raise ValueError(f"the index names {path} twice, or itself")
        seen.add(path)
        document = json.loads(documents[path])
        if "manifests" in document:
            waiting += document["manifests"]
        else:
            yield json.loads(documents[_path(document["config"])])["architecture"]


def _path(descriptor: Mapping[str, Any]) -> str:
    return "blobs/" + str(descriptor["digest"]).replace(":", "/")
