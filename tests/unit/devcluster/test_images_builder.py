"""Which program builds, and its command lines."""

from pathlib import Path

import pytest

from vdi.devcluster.binaries import packages
from vdi.devcluster.images import builder as images_builder
from vdi.devcluster.images.builder import (
    Buildah,
    Docker,
    NoBuilder,
    Podman,
    Storage,
    clean_storage,
    find_builder,
    mounts_below,
    require_builder,
)
from vdi.devcluster.progress import Progress

STORE = Storage(Path("/cache/storage"), Path("/tmp/vdi-x"))


def programs(folder: Path, *names: str) -> dict[str, str]:
    """An environment whose PATH has these programs."""
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


def test_docker_is_asked_for_proxies_by_name_only() -> None:
    words = Docker().build(Path("/c"), Path("/c/Containerfile"), "t:1", [(Path("/home"), "/root")])

    assert words[:2] == ["docker", "build"]
    assert words[-5:] == ["--tag", "t:1", "--file", "/c/Containerfile", "/c"]
    assert ["--build-arg", "https_proxy"] in [words[i : i + 2] for i in range(len(words))]
    assert not any("=" in word for word in words)


def test_buildah_builds_in_a_storage_of_its_own_with_read_only_mounts_and_sudo_in_front() -> None:
    words = Buildah(STORE, ("sudo", "-n")).build(Path("/c"), Path("/c/F"), "t:1", [(Path("/h"), "/root")])

    assert words == [
        *("sudo", "-n", "buildah", "--root", "/cache/storage", "--runroot", "/tmp/vdi-x", "build"),
        *("--isolation", "chroot", "--pull=false", "--volume", "/h:/root:ro", "--tag", "t:1", "--file", "/c/F", "/c"),
    ]


@pytest.mark.parametrize(
    ("builder", "pull"),
    [
        (Docker("linux/arm64"), "docker pull --platform linux/arm64 b@sha256:1"),
        (
            Podman(STORE, platform="linux/arm64"),
            "podman --root /cache/storage --runroot /tmp/vdi-x pull --platform linux/arm64 docker://b@sha256:1",
        ),
    ],
)
def test_another_platform_is_named_for_base_and_build(builder: images_builder.Builder, pull: str) -> None:
    assert " ".join(builder.pull("b@sha256:1")) == pull
    assert "--platform linux/arm64" in " ".join(builder.build(Path("/c"), Path("/c/F"), "t:1", []))
    assert builder.tag("b@sha256:1", "b:1")[-3:] == ["tag", "b@sha256:1", "b:1"]


@pytest.mark.parametrize(
    ("builder", "load", "save"),
    [
        (Docker(), "docker load --input /a.tar", "docker save --output /a.tar t:1"),
        (
            Podman(STORE),
            "podman --root /cache/storage --runroot /tmp/vdi-x load --input /a.tar",
            "podman --root /cache/storage --runroot /tmp/vdi-x save --quiet --format docker-archive"
            " --output /a.tar t:1",
        ),
        (
            Buildah(STORE),
            "buildah --root /cache/storage --runroot /tmp/vdi-x pull docker-archive:/a.tar",
            "buildah --root /cache/storage --runroot /tmp/vdi-x push --quiet t:1 docker-archive:/a.tar:t:1",
        ),
    ],
)
def test_archives_go_in_and_out(builder: images_builder.Builder, load: str, save: str) -> None:
    archive = Path("/a.tar")

    assert " ".join(builder.load(archive)) == load
    assert " ".join(builder.save("t:1", archive)) == save


def test_docker_comes_first_when_its_engine_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images_builder, "docker_problem", lambda: None)

    builder, _ = find_builder(STORE, programs(tmp_path, "docker", "podman", "buildah"), docker=True)

    assert builder == Docker()


def test_podman_when_docker_has_no_engine_and_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_builder, "docker_problem", lambda: "Cannot connect to the Docker daemon")

    builder, reasons = find_builder(STORE, programs(tmp_path, "docker", "podman", "buildah"), docker=True)

    assert builder == Podman(STORE)
    assert reasons == ["docker: Cannot connect to the Docker daemon"]


def test_docker_is_left_alone_with_a_base_that_came_from_no_registry(tmp_path: Path) -> None:
    builder, reasons = find_builder(STORE, programs(tmp_path, "docker", "buildah"), docker=False)

    assert isinstance(builder, Buildah) and builder.name == "buildah"
    assert reasons[0].startswith("docker: not used") and reasons[1] == "podman: not in PATH"


def test_buildah_is_installed_when_nothing_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []
    monkeypatch.setattr(packages, "install", lambda _step, names: installed.extend(names))

    with Progress(tmp_path / "logs") as progress, progress.step("build") as step:
        builder = require_builder(step, STORE, {"PATH": str(tmp_path)}, docker=True)

    assert installed == ["buildah"] and builder.name == "buildah"


def test_who_cannot_install_a_builder_is_reported_what_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with (
        Progress(tmp_path / "logs") as progress,
        progress.step("build") as step,
        pytest.raises(
            NoBuilder, match=r"apt-get, which installs buildah, is not on this machine(.|\n)*podman: not in PATH"
        ),
    ):
        require_builder(step, STORE, {"PATH": str(tmp_path)}, docker=True)


def test_mounts_below_a_folder_come_last_mounted_first() -> None:
    mounts = """\
/dev/vda / ext4 rw 0 0
overlay /cache/storage/root/overlay/x/merged overlay rw 0 0
tmpfs /cache/storage/root/overlay/x/merged/with\\040space tmpfs rw 0 0
tmpfs /cache/storage-of-another tmpfs rw 0 0
"""
    assert mounts_below(STORE.root, mounts) == [
        "/cache/storage/root/overlay/x/merged/with space",
        "/cache/storage/root/overlay/x/merged",
    ]


def test_storage_is_gone_after_an_interrupt_and_what_an_old_one_left_before(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    (root / "old").mkdir(parents=True)

    with pytest.raises(KeyboardInterrupt), clean_storage(root) as storage:
        assert list(root.iterdir()) == [] and len(str(storage.run)) <= 50
        (root / "new").mkdir()
        raise KeyboardInterrupt

    assert not root.exists() and not storage.run.exists()
