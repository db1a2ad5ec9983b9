"""Binaries that are on the machine: the user's folders, and the system's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import script
from vdi.devcluster.binaries import from_named_folder, from_system
from vdi.devcluster.binaries.components import CNI_PLUGINS, CONTAINERD_PROGRAMS
from vdi.devcluster.build_cache import SourceFailed


@pytest.mark.parametrize("variable", ["VDI_BINARIES", "KUBEBUILDER_ASSETS"])
def test_executable_in_a_named_folder_is_taken(tmp_path: Path, variable: str) -> None:
    tool = script(tmp_path / "etcd", "")
    assert from_named_folder("etcd", {variable: str(tmp_path)}) == (tool, [])


def test_plugin_folder_must_be_whole(tmp_path: Path) -> None:
    for plugin in CNI_PLUGINS[:-1]:
        script(tmp_path / "cni" / plugin, "")
    env = {"VDI_BINARIES": str(tmp_path)}
    assert from_named_folder("cni", env)[1] == [
        f"VDI_BINARIES={tmp_path}: the folder {tmp_path / 'cni'} lacks the plugins portmap"
    ]
    script(tmp_path / "cni" / "portmap", "")
    assert from_named_folder("cni", env) == (tmp_path / "cni", [])


def a_containerd(folder: Path, version: str) -> Path:
    for program in CONTAINERD_PROGRAMS:
        script(folder / program, f"echo containerd github.com/containerd/containerd {version} abc")
    return folder


@pytest.mark.parametrize("version", ["2.0.0~ds1", "v2.4.2"])
def test_system_containerd_of_a_supported_version_is_taken(tmp_path: Path, version: str) -> None:
    folder = a_containerd(tmp_path, version)
    assert from_system("ctr", {"PATH": str(folder)}, ()) == folder / "ctr"


@pytest.mark.parametrize(
    ("version", "shown"), [("1.7.24", "version 1.7"), ("v3.0.1", "version 3.0"), ("dev", "an unknown")]
)
def test_system_containerd_of_another_version_is_refused(tmp_path: Path, version: str, shown: str) -> None:
    folder = a_containerd(tmp_path, version)
    with pytest.raises(SourceFailed, match=f"{folder}/containerd is {shown}.*supported: 2.0 or newer, below 3.0"):
        from_system("containerd", {"PATH": str(folder)}, ())


@pytest.mark.parametrize(
    ("speaks", "taken"),
    [
        ("CNI bridge plugin v1.3.0\nCNI protocol versions supported: 0.3.1, 0.4.0, 1.0.0", True),
        ("CNI bridge plugin version unknown\nCNI protocol versions supported: 0.1.0, 0.4.0", True),
        ("CNI bridge plugin v0.7.0\nCNI protocol versions supported: 0.1.0, 0.3.1", False),
        ("bridge: not found", False),
    ],
)
def test_plugins_are_taken_by_the_protocol_they_speak(tmp_path: Path, speaks: str, taken: bool) -> None:
    for plugin in CNI_PLUGINS:
        script(tmp_path / plugin, f"echo '{speaks}' >&2")
    if taken:
        assert from_system("cni", {"PATH": ""}, (str(tmp_path),)) == tmp_path
    else:
        with pytest.raises(SourceFailed, match=f"{tmp_path}/bridge does not report support for CNI 0.4.0"):
            from_system("cni", {"PATH": ""}, (str(tmp_path),))
