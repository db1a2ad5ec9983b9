"""Binaries in the folder that the user names."""

from pathlib import Path

from unit.devcluster.binaries_servers import script
from vdi.devcluster.binaries import from_named_folder
from vdi.devcluster.binaries.components import CNI_PLUGINS


def test_only_an_executable_in_the_named_folder_is_taken(tmp_path: Path) -> None:
    env = {"VDI_BINARIES": str(tmp_path)}
    (tmp_path / "etcd").touch()
    assert from_named_folder("etcd", env) == (None, f"VDI_BINARIES={tmp_path}: contains no executable etcd")
    tool = script(tmp_path / "etcd", "")
    assert from_named_folder("etcd", env) == (tool, "")


def test_plugin_folder_must_be_whole(tmp_path: Path) -> None:
    for plugin in CNI_PLUGINS[:-1]:
        script(tmp_path / "cni" / plugin, "")
    env = {"VDI_BINARIES": str(tmp_path)}
    lacks = f"VDI_BINARIES={tmp_path}: the folder {tmp_path / 'cni'} lacks the plugins portmap"
    assert from_named_folder("cni", env) == (None, lacks)
    script(tmp_path / "cni" / "portmap", "")
    assert from_named_folder("cni", env) == (tmp_path / "cni", "")
