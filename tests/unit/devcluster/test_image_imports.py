"""Which archives are imported into containerd again: `ctr` is played by a script that keeps a list
of names.
"""

import json
import os
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import script
from vdi.devcluster import privileged
from vdi.devcluster.layout import ClusterError, Layout
from vdi.devcluster.machine import GIB, KEPT_FREE_BYTES

Import = Callable[..., list[str]]

CTR = """names={names}
case "$2" in */node-2/*) names={names}-of-node-2; touch $names ;; esac
case "$6" in
list) cat $names ;;
export) echo $8 > $7 ;;
import) case "$7" in */exported.tar) cat $7 ;; *) echo {name} ;; esac >> $names ;;
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
def ctr(tmp_path: Path, names: Path) -> Path:
    return script(tmp_path / "ctr", CTR.format(names=names, name="docker.io/library/redis:7"))


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A cluster of two nodes."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    cluster = Layout(tmp_path / "cluster")
    for node in (cluster, cluster.of_node(2)):
        node.node.mkdir(parents=True)
    return cluster


@pytest.fixture
def import_images(layout: Layout, ctr: Path) -> Import:
    return lambda *tars: privileged.import_images(layout, ctr, *tars)


def test_an_archive_is_imported_again_once_it_or_its_image_changed(
    archive: Path, names: Path, import_images: Import
) -> None:
    assert import_images(archive) == [str(archive)]
    assert import_images(archive) == []
    os.utime(archive, (0, 0))
    assert import_images(archive) == [str(archive)], "it was built again"
    assert import_images(archive) == []
    names.write_text("docker.io/library/other-redis:7\n")
    assert import_images(archive) == [str(archive)], "the kubelet deleted the image"


def test_an_image_that_fills_the_disk_is_refused(archive: Path) -> None:
    size = archive.stat().st_size
    privileged.require_room(archive, KEPT_FREE_BYTES + 2 * size)
    with pytest.raises(
        ClusterError,
        match=(
            r"image.tar needs 0.0 GiB of disk, and 1.0 GiB are free, of which 1 must .*`vdi cluster"
        ),
    ):
        privileged.require_room(archive, GIB)


@pytest.mark.parametrize("archive_is", ["as imported", "built again", "gone"])
def test_a_further_node_gets_the_images_of_the_first_once(
    archive: Path, names: Path, layout: Layout, ctr: Path, import_images: Import, archive_is: str
) -> None:
    import_images(archive)
    if archive_is == "gone":
        archive.unlink()
    elif archive_is == "built again":
        os.utime(archive, (0, 0))
    source = str(archive) if archive_is == "as imported" else "docker.io/library/redis:7"
    assert privileged.copy_images(layout, 2, ctr) == [source]
    assert privileged.copy_images(layout, 2, ctr) == []
    assert names.with_name("names-of-node-2").read_text() == "docker.io/library/redis:7\n"


def test_without_root_sudo_runs_the_function(
    layout: Layout, ctr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sudo = script(
        tmp_path / "bin/sudo", f'printf "%s\\n" "$*" > {tmp_path}/called\necho \'["new.tar"]\''
    )
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", f"{sudo.parent}:/usr/bin:/bin")
    assert privileged.copy_images(layout, 2, ctr) == ["new.tar"]
    called = (tmp_path / "called").read_text()
    assert called.startswith("-n env PYTHONPATH=")
    assert called.endswith(f"-m vdi.devcluster.privileged copy_images {layout.root} 2 {ctr}\n")
