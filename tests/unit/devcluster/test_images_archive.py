"""Image archives: same input, same bytes; what is in them is what was asked for; leaks are
named.
"""

import io
import tarfile
from pathlib import Path

import pytest

from unit.devcluster.images_elf import a_static_program, elf
from vdi.devcluster.images.archive import (
    BadProgram,
    ImageConfig,
    extract,
    find_leaks,
    layer_paths,
    require_static,
    write_archive,
    write_program_layer,
)


def an_archive(folder: Path, name: str = "example.org/tool:1") -> Path:
    layer, target = folder / "layer.tar", folder / "image.tar"
    write_program_layer({"/usr/bin/tool": a_static_program(folder / "program")}, layer)
    config = ImageConfig(entrypoint=("tool",), user="1:1")
    write_archive(target, name=name, layer=layer, config=config, arch="arm64", comment="a tool")
    return target


def an_archive_with(folder: Path, name: str, comment: str = "") -> Path:
    """An image whose one layer has this file."""
    layer, target = folder / "layer.tar", folder / "image.tar"
    with tarfile.open(layer, "w") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    write_archive(
        target, name="n:1", layer=layer, config=ImageConfig(), arch="amd64", comment=comment
    )
    return target


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    assert an_archive(tmp_path / "one").read_bytes() == an_archive(tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"#!/bin/sh\n", "not a 64-bit ELF program"),
        (b"", "not a 64-bit ELF program"),
        (elf(1, 3), "needs a dynamic loader"),
    ],
)
def test_program_that_cannot_run_alone_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    (tmp_path / "program").write_bytes(content)
    with pytest.raises(BadProgram, match=words):
        require_static(tmp_path / "program")


def test_leaks_are_found_in_the_history_and_in_the_layers(tmp_path: Path) -> None:
    target = an_archive_with(tmp_path, "./root/ca.crt", "RUN pip --proxy http://me:pw@p")

    assert find_leaks(target, ["http://me:pw@p", ""], ["root/ca.crt", "root/.netrc"]) == [
        "its configuration or history contains 'http://me:pw@p'",
        "it contains /root/ca.crt",
    ]
    assert list(layer_paths(target)) == ["root/ca.crt"]


def test_a_layer_cannot_write_outside_of_the_folder(tmp_path: Path) -> None:
    target = an_archive_with(tmp_path, "opt/../../outside")

    with pytest.raises(tarfile.FilterError):
        extract(target, tmp_path / "root", ["opt/"])
    assert not (tmp_path / "outside").exists()
