"""Checks of a whole archive, and the script in the pod of a copy."""

import gzip
import io
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_template
from vdi.home_copy.archive import ArchiveCheck, BadArchiveError
from vdi.home_copy.pod import (
    MOUNT,
    CopyRefusedError,
    build_copy_pod,
    choose_template,
    held,
    unpack_script,
)


def an_archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("./a", "./b"):
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(bytes(range(100)) * 7))
    return stream.getvalue()


PLAIN = an_archive()
PACKED = gzip.compress(PLAIN, mtime=0)


def look(data: bytes, cuts: list[int]) -> ArchiveCheck:
    check, begin = ArchiveCheck(), 0
    for end in [*sorted(cuts), len(data)]:
        check.feed(data[begin:end])
        begin = end
    check.finish()
    return check


@given(st.sampled_from([PLAIN, PACKED]), st.data())
def test_a_whole_archive_passes_in_chunks_of_any_size(archive: bytes, data: st.DataObject) -> None:
    check = look(archive, data.draw(st.lists(st.integers(0, len(archive)), max_size=6)))
    assert (check.size, check.is_gzip) == (len(PLAIN), archive is PACKED)


@given(st.data())
def test_truncated_compressed_archive_is_found(data: st.DataObject) -> None:
    with pytest.raises(BadArchiveError):
        look(PACKED[: data.draw(st.integers(0, len(PACKED) - 1))], [])


@given(st.integers(0, 3 * 1024))
def test_truncated_plain_archive_is_found(length: int) -> None:
    with pytest.raises(BadArchiveError):
        look(PLAIN[:length], [])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"hello " * 200, "not a tar archive"),
        (gzip.compress(b"hello " * 200), "not a tar archive"),
        (PACKED[:40] + b"\xff\xff\xff\xff" + PACKED[44:], "damaged"),
        (PACKED + b"more", "after its end"),
    ],
    ids=["empty", "text", "compressed text", "damaged", "more after its end"],
)
def test_invalid_archive_is_refused_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(BadArchiveError, match=words):
        look(data, [])


def test_the_image_is_that_of_the_desktops_that_use_the_home() -> None:
    cad, office = a_template("cad"), a_template("office", persistence={"scope": "User"})
    assert choose_template("cad", [office, cad], "home").metadata.name == "cad"
    assert choose_template("", [cad, office], "home").metadata.name == "office"
    for template, words in (
        ("gone", "its template 'gone' does not exist"),
        ("", "no template has the scope User"),
    ):
        with pytest.raises(CopyRefusedError, match=words):
            choose_template(template, [cad], "home")
        assert build_copy_pod(
            "home", choose_template(template, [cad], "home", has_image=True), image="tools:1"
        )


def test_a_volume_that_is_mounted_is_read_on_the_same_node() -> None:
    pod = build_copy_pod("home", a_template(), read_only=True, nodes=["one"])
    (term,) = pod["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": ["one"]}]
    assert "affinity" not in build_copy_pod("home", a_template())["spec"]


@pytest.mark.parametrize("what", [".", "*"])
def test_top_folder_of_root_is_unchanged(tmp_path: Path, what: str) -> None:
    """As a volume's does; where the tests do not run as root, at least nothing changes it."""
    home, archive = tmp_path / "home", tmp_path / "home.tar"
    (home / "lost+found").mkdir(parents=True)
    (home / "lost+found" / "#12").write_text("recovered")
    (home / "a" / ".b").mkdir(parents=True)
    (home / "a" / ".b" / "paper.txt").write_text("precious")
    home.chmod(0o700)
    subprocess.run(["sh", "-c", f"cd {home} && tar -cf {archive} {what}"], check=True, timeout=20)
    as_user: dict[str, Any] = (
        {"user": 1000, "group": 1000, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    script = unpack_script(gzip=False).removesuffix(" && sync")
    # 1000 may not enter `tmp_path`.
    with (
        tempfile.TemporaryDirectory() as folder,
        archive.open("rb") as stdin,
    ):
        top = Path(folder)
        top.chmod(0o777)
        (top / "lost+found").mkdir(mode=0o700)
        ended = subprocess.run(
            ["sh", "-c", script],
            cwd=top,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=20,
            **as_user,
        )
        assert (ended.returncode, ended.stderr) == (0, "")
        assert stat.S_IMODE(top.stat().st_mode) == 0o777
        found = [str(path.relative_to(top)) for path in sorted(top.rglob("*"))]
        assert found == ["a", "a/.b", "a/.b/paper.txt", "lost+found"]


def test_image_without_gnu_tar_is_refused(tmp_path: Path) -> None:
    """busybox has a tar that keeps neither sparse files nor attributes."""
    (tmp_path / "tar").write_text("#!/bin/sh\necho 'tar (busybox) 1.36'\n")
    (tmp_path / "tar").chmod(0o755)
    script = (
        held(unpack_script(gzip=True))
        .replace(MOUNT, str(tmp_path))
        .replace("/tmp/held", f"{tmp_path}/held")
    )
    script = f"mkfifo {tmp_path}/held; cat {tmp_path}/held & {script}"
    ended = subprocess.run(
        ["sh", "-c", script],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=20,
    )
    assert (ended.returncode, ended.stderr.strip()) == (
        90,
        "the image has no GNU tar: name another one with --image",
    )
