"""Which program builds, and its command lines."""

from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import script
from vdi.devcluster.binaries import packages
from vdi.devcluster.images import builder as images_builder
from vdi.devcluster.images.builder import (
    Builder,
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
        script(folder / name, "")
    return {"PATH": str(folder)}


def test_docker_is_asked_for_proxies_by_name_only() -> None:
    words = Builder("docker").build(
        Path("/c"), Path("/c/Containerfile"), "t:1", [(Path("/home"), "/root")], {}
    )

    assert words[:2] == ["docker", "build"]
    assert words[-5:] == ["--tag", "t:1", "--file", "/c/Containerfile", "/c"]
    assert ["--build-arg", "https_proxy"] in [words[i : i + 2] for i in range(len(words))]
    assert not any("=" in word for word in words)


@pytest.mark.parametrize(
    ("there", "docker", "problem", "chosen", "reasons"),
    [
        (("docker", "podman", "buildah"), True, None, "docker", []),
        (("docker", "podman", "buildah"), True, "no daemon", "podman", ["docker: no daemon"]),
        (
            ("docker", "buildah"),
            False,
            None,
            "buildah",
            [
                "docker: not used, because it would keep a base image that came from no registry",
                "podman: not in PATH",
            ],
        ),
        (
            (),
            True,
            None,
            None,
            ["docker: not in PATH", "podman: not in PATH", "buildah: not in PATH"],
        ),
    ],
)
def test_the_first_builder_that_works_is_chosen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: tuple[str, ...],
    docker: bool,
    problem: str | None,
    chosen: str | None,
    reasons: list[str],
) -> None:
    monkeypatch.setattr(images_builder, "docker_problem", lambda: problem)
    builder, said = find_builder(STORE, programs(tmp_path, *there), docker=docker)
    assert (builder and builder.name, said) == (chosen, reasons)


def test_buildah_is_installed_when_nothing_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[str] = []
    monkeypatch.setattr(packages, "install", lambda _step, names: installed.extend(names))
    with Progress(tmp_path / "logs") as progress, progress.step("build") as step:
        builder = require_builder(step, STORE, {"PATH": str(tmp_path)}, docker=True)
    assert installed == ["buildah"] and builder.storage == STORE


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


def test_storage_is_emptied_before_and_gone_after(tmp_path: Path) -> None:
    root = tmp_path / "storage"
    (root / "old").mkdir(parents=True)

    with pytest.raises(KeyboardInterrupt), clean_storage(root) as storage:
        assert list(root.iterdir()) == [] and len(str(storage.run)) <= 50
        (root / "new").mkdir()
        raise KeyboardInterrupt

    assert not root.exists() and not storage.run.exists()
