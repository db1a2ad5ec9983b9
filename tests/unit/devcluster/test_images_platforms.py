"""For which platforms an image is built here, by which program. docker, podman and buildah are stand-ins in PATH: shell
scripts that answer as the programs do."""

from pathlib import Path

import pytest

from vdi.devcluster.images import builder
from vdi.devcluster.images.builder import Platforms, find_platforms

DOCKER = """#!/bin/sh
# A stand-in for docker: it answers what an engine is asked, and builds nothing.
case "$1 $2" in
"info --format") echo 27.1 ;;
"buildx inspect") printf '%s' "$BUILDX" ;;
*) exit 2 ;;
esac
"""
EMULATED = "Name: default\nStatus:    running\nPlatforms: linux/amd64*, linux/amd64/v2, linux/arm64\n"
NATIVE = "Platforms: linux/amd64, linux/386\n"


@pytest.fixture(autouse=True)
def amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "architecture", lambda: "amd64")


@pytest.fixture
def binfmt(tmp_path: Path) -> Path:
    folder = tmp_path / "binfmt_misc"
    folder.mkdir()
    return folder


def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str, buildx: str = "") -> dict[str, str]:
    """An environment whose PATH has stand-ins for these programs and nothing else."""
    (bin_folder := folder / "bin").mkdir()
    for name in names:
        (bin_folder / name).write_text(DOCKER if name == "docker" else "#!/bin/sh\n# A stand-in.\nexit 2\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder))
    return {"PATH": str(bin_folder), "BUILDX": buildx}


def test_docker_builds_what_its_builder_offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binfmt: Path) -> None:
    env = stand_ins(tmp_path, monkeypatch, "docker", "podman", buildx=EMULATED)
    assert find_platforms(env, docker=True, binfmt=binfmt) == Platforms("docker", ("amd64", "arm64"), ())


@pytest.mark.parametrize(("buildx", "offered"), [(NATIVE, "linux/amd64, linux/386"), ("", "none")])
def test_what_docker_does_not_offer_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binfmt: Path, buildx: str, offered: str
) -> None:
    found = find_platforms(stand_ins(tmp_path, monkeypatch, "docker", buildx=buildx), docker=True, binfmt=binfmt)
    assert found.architectures == ("amd64",)
    (reason,) = found.left_out
    assert reason.startswith(f"linux/arm64: docker buildx offers {offered}; install QEMU's user mode for arm64")


def test_podman_and_buildah_build_what_this_machine_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binfmt: Path
) -> None:
    env = stand_ins(tmp_path, monkeypatch, "buildah")
    without = find_platforms(env, docker=True, binfmt=binfmt)
    assert (without.builder, without.architectures) == ("buildah", ("amd64",))
    assert without.left_out[:2] == ("docker: not in PATH", "podman: not in PATH")
    assert f"linux/arm64: this machine cannot run its programs: {binfmt}/qemu-aarch64" in without.left_out[2]
    (binfmt / "qemu-aarch64").write_text("enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64\nflags: POCF\n")
    assert find_platforms(env, docker=True, binfmt=binfmt).architectures == ("amd64", "arm64")
    (binfmt / "qemu-aarch64").write_text("disabled\n")
    assert find_platforms(env, docker=True, binfmt=binfmt).left_out[-1].endswith("is disabled; write 1 to it")
