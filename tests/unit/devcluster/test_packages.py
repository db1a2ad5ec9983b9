"""Packages are installed by whoever may, and named to whoever may not."""

import os
from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import script
from vdi.devcluster.binaries import packages
from vdi.devcluster.binaries.packages import PackagesUnavailable
from vdi.devcluster.progress import Progress, Step


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with an apt-get that writes down how it was called, and with `env` and `sh`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("env", "sh"):
        (folder / name).symlink_to(Path("/usr/bin") / name)
    script(folder / "apt-get", f'echo "$DEBIAN_FRONTEND $*" >> {tmp_path}/called')
    monkeypatch.setenv("PATH", str(folder))
    return folder


def install(tmp_path: Path) -> None:
    with Progress(tmp_path / "logs") as progress, progress.step("packages") as step:
        packages.install(step, ["buildah", "chromium"])


def test_lists_are_fetched_first_and_the_lock_is_waited_for(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    install(tmp_path)
    update, installed = (tmp_path / "called").read_text().splitlines()
    assert update == "noninteractive --quiet update"
    assert installed == (
        "noninteractive --quiet -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends buildah chromium"
    )


def test_package_lists_are_locked_only_while_replaced(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(Step, "run", lambda _, argv, **__: seen.append((argv[-1], packages.lists.locked())))
    install(tmp_path)
    assert seen == [("update", True), ("chromium", False)]


def test_a_user_without_rights_is_reported_the_command(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackagesUnavailable, match="sudo apt-get install buildah chromium"):
        install(tmp_path)
