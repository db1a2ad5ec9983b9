"""Which archives are imported into containerd again: `ctr` is played by a script that keeps a list of names."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from vdi.devcluster import privileged
from vdi.devcluster.layout import ClusterError, Layout
from vdi.devcluster.machine import GIB, KEPT_FREE_BYTES

Import = Callable[..., list[str]]

CTR = """#!/bin/sh
case "$6" in
list) cat {names} ;;
import) echo {name} >> {names} ;;
esac
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    content = json.dumps([{"Config": "c.json", "RepoTags": ["redis:7"], "Layers": []}]).encode()
    entry = tarfile.TarInfo("manifest.json")
    entry.size = len(content)
    with tarfile.open(tmp_path / "image.tar", "w") as tar:
        tar.addfile(entry, BytesIO(content))
    return tmp_path / "image.tar"


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """What containerd has."""
    (tmp_path / "names").write_text("registry.k8s.io/pause:3.10\n")
    return tmp_path / "names"


@pytest.fixture
def import_images(tmp_path: Path, names: Path, monkeypatch: pytest.MonkeyPatch) -> Import:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ctr, layout = tmp_path / "ctr", Layout(tmp_path / "cluster")
    ctr.write_text(CTR.format(names=names, name="docker.io/library/redis:7"))
    ctr.chmod(0o755)
    layout.node.mkdir(parents=True)
    return lambda *tars: privileged.import_images(layout, ctr, tars)


def test_an_archive_is_imported_once(archive: Path, import_images: Import) -> None:
    assert import_images(archive) == [str(archive)]
    assert import_images(archive) == []


def test_an_archive_that_was_built_again_is_imported_again(archive: Path, import_images: Import) -> None:
    import_images(archive)
    os.utime(archive, (0, 0))
    assert import_images(archive) == [str(archive)]


def test_an_image_that_the_kubelet_deleted_is_imported_again(archive: Path, names: Path, import_images: Import) -> None:
    import_images(archive)
    names.write_text("docker.io/library/other-redis:7\n")
    assert import_images(archive) == [str(archive)]


def test_an_image_that_leaves_the_kubelet_too_little_disk_is_refused_with_what_to_do(archive: Path) -> None:
    size = archive.stat().st_size
    privileged.require_room(archive, KEPT_FREE_BYTES + 2 * size)
    with pytest.raises(
        ClusterError, match=r"image.tar needs 0.0 GiB of disk, and 1.0 GiB are free, of which 1 must .*`vdi cluster"
    ):
        privileged.require_room(archive, GIB)
