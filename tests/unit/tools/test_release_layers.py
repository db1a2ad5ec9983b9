"""A layer and an image are the same bytes, whatever order and times a builder has written."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from tools.release import oci
from tools.release.layers import write_layer
from vdi.release.images.archive import ArchiveImage, read_archive

EPOCH = 1_790_000_000
FILES = {"./etc/": b"", "./etc/a": b"a", "./etc/b": b"bb", "./etc/old": b"old", "./usr/": b""}


def entry(name: str, mtime: float, content: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name.rstrip("/"))
    made.size, made.mtime, made.uname, made.mode = len(content), mtime, f"builder-{mtime}", 0o644
    if name.endswith("/"):
        made.type, made.mode = tarfile.DIRTYPE, 0o755
    return made, content


def layer(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for made, content in entries:
            archive.addfile(made, io.BytesIO(content))
    stream.seek(0)
    return stream


def a_build(seconds: float, *, reverse: bool = False) -> io.BytesIO:
    """The layer of a build that ran at that time."""
    entries = [entry(name, 7.5 if name.endswith("old") else seconds, content) for name, content in FILES.items()]
    link, _ = entry("./aaa-link", seconds)
    link.type, link.linkname, link.mode = tarfile.LNKTYPE, "./etc/a", 0o644
    symlink, _ = entry("./usr/link", seconds)
    symlink.type, symlink.linkname = tarfile.SYMTYPE, "../etc/a"
    capable, content = entry("./usr/ping", seconds, b"ping")
    capable.pax_headers = {"SCHILY.xattr.security.capability": "\x01", "comment": f"{seconds}"}
    made = [*entries, (link, b""), (symlink, b""), (capable, content)]
    return layer(made[::-1] if reverse else made)


def content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def test_two_builds_at_different_times_give_the_same_bytes(tmp_path: Path) -> None:
    builds = [a_build(EPOCH + 10.25), a_build(EPOCH + 99.75, reverse=True)]
    diff_ids = {write_layer(build, tmp_path / f"{index}", EPOCH) for index, build in enumerate(builds)}
    assert len(diff_ids) == 1
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


def test_what_is_in_a_layer_stays(tmp_path: Path) -> None:
    write_layer(a_build(EPOCH + 10), tmp_path / "layer", EPOCH)
    with zstd.open(tmp_path / "layer") as unpacked, tarfile.open(fileobj=unpacked) as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        assert names == ["etc", "etc/a", "etc/b", "etc/old", "usr", "usr/link", "usr/ping", "aaa-link"]
        assert {member.mtime for member in members} == {7, EPOCH}, "older times stay"
        assert {(member.uname, member.gname) for member in members} == {("", "")}
        assert [content(archive, name) for name in ("etc/b", "aaa-link")] == [b"bb", b"a"]
        assert archive.getmember("usr/link").linkname == "../etc/a"
        assert archive.getmember("usr/ping").pax_headers == {"SCHILY.xattr.security.capability": "\x01"}


def archive_of(folder: Path, arch: str, seconds: float, *, user: str = "65532:65532") -> Path:
    """An image archive as a builder saves it, with its times."""
    config = {
        "architecture": arch,
        "os": "linux",
        "created": f"{seconds}",
        "config": {"User": user, "Labels": {"io.buildah.version": f"{seconds}", "kept": "yes"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:of-the-builder"]},
        "history": [{"created": f"{seconds}", "created_by": "RUN it"}],
        "container": "random",
    }
    manifest = [{"Config": "config.json", "RepoTags": ["a:1"], "Layers": ["layer.tar"]}]
    target = folder / f"{arch}-{seconds}.tar"
    parts = (("config.json", config), ("manifest.json", manifest))
    entries = [entry(name, 0, json.dumps(value).encode()) for name, value in parts]
    target.write_bytes(layer([*entries, entry("layer.tar", 0, a_build(seconds).getvalue())]).getvalue())
    return target


def blob(folder: Path, digest: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "blobs/sha256" / digest.removeprefix("sha256:")).read_text())
    return found


def write(archives: dict[str, Path], target: Path) -> str:
    return oci.write_image(archives, target, name="r.example.com/a:1", labels={"l": "v"}, epoch=EPOCH)


def test_an_image_of_two_builds_has_one_digest(tmp_path: Path) -> None:
    digests = {
        write({"amd64": archive_of(tmp_path, "amd64", EPOCH + more)}, tmp_path / f"{more}.oci") for more in (1.5, 80.5)
    }
    assert len(digests) == 1
    oci.unpack(tmp_path / "1.5.oci", tmp_path / "layout")
    (digest,) = digests
    manifest = blob(tmp_path / "layout", digest)
    config = blob(tmp_path / "layout", manifest["config"]["digest"])
    assert config["created"] == "2026-09-21T14:13:20Z"
    assert config["config"] == {"User": "65532:65532", "Labels": {"kept": "yes", "l": "v"}}
    assert set(config) == {"architecture", "os", "created", "config", "rootfs"}, "nothing of the build itself"


def test_an_image_for_two_platforms_is_an_index_of_both(tmp_path: Path) -> None:
    archives = {arch: archive_of(tmp_path, arch, EPOCH) for arch in ("arm64", "amd64")}
    digest = write(archives, tmp_path / "a.oci")
    assert oci.digest_of(tmp_path / "a.oci") == digest
    oci.unpack(tmp_path / "a.oci", tmp_path / "layout")
    index = blob(tmp_path / "layout", digest)
    platforms = [entry["platform"] for entry in index["manifests"]]
    assert platforms == [{"architecture": arch, "os": "linux"} for arch in ("amd64", "arm64")]
    names = ("r.example.com/a:1", f"r.example.com/a@{digest}")
    assert read_archive(tmp_path / "a.oci") == tuple(
        ArchiveImage(name, arch) for name in names for arch in ("amd64", "arm64")
    ), "as `vdi images load` reads it"


def test_an_archive_of_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is for amd64, not for arm64"):
        write({"arm64": archive_of(tmp_path, "amd64", EPOCH)}, tmp_path / "a.oci")


@pytest.mark.parametrize("user", ["", "0", "0:0", "root", "root:root"])
def test_an_image_that_runs_as_root_is_refused(tmp_path: Path, user: str) -> None:
    with pytest.raises(ValueError, match="runs as root"):
        write({"amd64": archive_of(tmp_path, "amd64", EPOCH, user=user)}, tmp_path / "a.oci")
