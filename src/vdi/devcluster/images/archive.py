"""Image archives as `docker save` writes them: writing one around given files, and looking into
one.

Pure files and bytes; nothing here runs a program. The same input gives the same archive to the
byte.
"""

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_EPOCH = "1970-01-01T00:00:00Z"
_PT_INTERP = 3


class BadProgram(Exception):  # noqa: N818 - named for what was found
    """Raised when a program cannot run alone in an image: it is no ELF file, or asks for a dynamic
    loader.
    """


@dataclass(frozen=True)
class ImageConfig:
    """Run configuration of an image; empty fields are left out."""

    entrypoint: Sequence[str] = ()
    cmd: Sequence[str] = ()
    env: Sequence[str] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    user: str = ""
    workdir: str = "/"

    def document(self, *, arch: str, diff_id: str, comment: str) -> dict[str, Any]:
        """The image's configuration file. `diff_id` is the SHA-256 of its one layer."""
        config = {
            "Entrypoint": [*self.entrypoint],
            "Cmd": [*self.cmd],
            "Env": [*self.env],
            "User": self.user,
        }
        return {
            "architecture": arch,
            "os": "linux",
            "created": _EPOCH,
            "config": {
                "WorkingDir": self.workdir,
                **{key: value for key, value in config.items() if value},
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
            "history": [{"created": _EPOCH, "created_by": comment}],
        }


def write_program_layer(programs: Mapping[str, Path], target: Path) -> None:
    """Write a layer that holds `programs` (absolute path in the image -> file here), and a /tmp.
    Raises BadProgram.
    """
    folders = {"/tmp": 0o1777}  # noqa: S108 - in the image
    for path in programs:
        folders |= dict.fromkeys(map(str, Path(path).parents[:-1]), 0o755)
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as layer:
        for folder, mode in sorted(folders.items()):
            entry = tarfile.TarInfo(folder.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            layer.addfile(entry)
        for path, source in sorted(programs.items()):
            require_static(source)
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode, entry.size = 0o755, source.stat().st_size
            with source.open("rb") as program:
                layer.addfile(entry, program)


def write_archive(
    target: Path, *, name: str, layer: Path, config: ImageConfig, arch: str, comment: str
) -> None:
    """Write the archive of an image `name` (with its tag) of one `layer`, an uncompressed tar."""
    with layer.open("rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    document = _json(config.document(arch=arch, diff_id=diff_id, comment=comment))
    config_name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{diff_id}/layer.tar"]}]
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        with layer.open("rb") as file:
            _add(archive, f"{diff_id}/layer.tar", file, layer.stat().st_size)
        for path, content in ((config_name, document), ("manifest.json", _json(manifest))):
            _add(archive, path, io.BytesIO(content), len(content))


def image_names(archive: Path) -> list[str]:
    """The names in the archive, each with its tag; an image can be without."""
    with tarfile.open(archive) as outer:
        names: list[str] = _manifest(outer).get("RepoTags") or []
        return names


def image_id(archive: Path) -> str:
    """The SHA-256 of the image's configuration, which names its content wholly."""
    return hashlib.sha256(_config_bytes(archive)).hexdigest()


def find_leaks(archive: Path, private: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Data of the build machine that stayed in the image, one line each.

    `private` are texts that its configuration and history must not hold, `paths` are files (without
    the first `/`) that no layer may hold.
    """
    config = _config_bytes(archive).decode()
    leaks = []
    for text in private:
        if text and text in config:
            leaks.append(f"its configuration or history contains {text!r}")
    for name in layer_paths(archive):
        leaks += [f"it contains /{name}" for path in paths if name == path]
    return leaks


def layer_paths(archive: Path) -> Iterator[str]:
    """The path of every file in every layer, without the first `/`."""
    for _, member in _members(archive):
        yield member.name.removeprefix("./").rstrip("/")


def extract(archive: Path, into: Path, starts: Sequence[str]) -> None:
    """Unpack the files of an image whose paths (without the first `/`) begin with one of `starts`,
    layer upon layer.

    What a later layer has removed of an earlier one stays. Raises tarfile.FilterError where a path
    leads out of `into`.
    """
    for layer, member in _members(archive):
        if member.name.removeprefix("./").startswith(tuple(starts)):
            layer.extract(member, into, filter="tar")


def require_static(program: Path) -> None:
    """Raises BadProgram unless `program` is a 64-bit little-endian ELF file that needs no dynamic
    loader.
    """
    with program.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            raise BadProgram(
                f"{program} is not a 64-bit ELF program, so it cannot be put into an image"
            )
        (table,) = struct.unpack_from("<Q", header, 0x20)
        size, count = struct.unpack_from("<HH", header, 0x36)
        file.seek(table)
        entries = file.read(size * count)
    if any(
        struct.unpack_from("<I", entries, index * size)[0] == _PT_INTERP for index in range(count)
    ):
        raise BadProgram(
            f"{program} needs a dynamic loader, which an image without a system does not have: link"
            " it statically"
        )


def _members(archive: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Every file of every layer with its layer, which is open until the next one is asked for."""
    with tarfile.open(archive) as outer:
        for layer_name in _manifest(outer)["Layers"]:
            file = outer.extractfile(layer_name)
            if file is not None:
                with file, tarfile.open(fileobj=file) as layer:
                    for member in layer:
                        yield layer, member


def _manifest(archive: tarfile.TarFile) -> dict[str, Any]:
    file = archive.extractfile("manifest.json")
    if file is None:
        raise ValueError(
            f"{archive.name!r} is not an image archive: its manifest.json is not a file"
        )
    with file:
        manifest: dict[str, Any] = json.load(file)[0]
    return manifest


def _config_bytes(archive: Path) -> bytes:
    with tarfile.open(archive) as outer:
        file = outer.extractfile(_manifest(outer)["Config"])
        if file is None:
            raise ValueError(f"{archive} is not an image archive: its configuration is not a file")
        with file:
            return file.read()


def _add(archive: tarfile.TarFile, path: str, content: IO[bytes], size: int) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    archive.addfile(entry, content)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
