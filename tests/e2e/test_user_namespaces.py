"""Desktops in user namespaces on a real node: other user ids outside, the same files, and root that may do little."""

import platform
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.desktops import pod_of, reach, run_in, start, template
from e2e.world import World

_KERNEL = tuple(int(part) for part in platform.release().split(".")[:2])
pytestmark = [
    pytest.mark.platform,
    pytest.mark.skipif(_KERNEL < (6, 3), reason="this kernel has no idmapped tmpfs, which the kubelet asks for"),
]
# A package of one file, without programs of its own.
_INSTALL = """
cd $(mktemp -d) && mkdir -p hello/DEBIAN hello/opt/hello && echo installed > hello/opt/hello/proof
printf 'Package: hello-vdi\nVersion: 1\nArchitecture: all\nMaintainer: vdi <a@example.com>\nDescription: a test\n' \
  > hello/DEBIAN/control
dpkg-deb --root-owner-group --build hello >&2 && dpkg -i hello.deb >&2 && cat /opt/hello/proof
"""


def processes(*words: str) -> list[Path]:
    """Folders in /proc of the processes with this command line, in all namespaces of this machine."""
    line = b"".join(f"{word}\0".encode() for word in words)
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and (folder / "cmdline").read_bytes() == line:
                found.append(folder)
        except OSError:  # it has ended meanwhile
            continue
    return found


def uid_outside(world: World, name: str) -> int:
    """The user id on the node of a process that the desktop's user starts."""
    mark = str(10**6 + secrets.randbelow(10**6))
    run_in(world, name, f"sleep {mark} > /dev/null 2>&1 &")
    try:
        (process,) = processes("sleep", mark)
        return process.stat().st_uid
    finally:
        run_in(world, name, f"pkill -x -f 'sleep {mark}'")


@pytest.fixture(scope="module")
def root(world: World) -> Iterator[str]:
    isolation = {"userNamespaces": "Required", "rootInDesktop": True}
    with template(world, "userns-root", isolation=isolation) as name:
        yield name


def test_home_keeps_its_owner_in_both_modes(sessions: World) -> None:
    for number, mode in enumerate(("Required", "Off", "Required")):
        with template(sessions, "userns", isolation={"userNamespaces": mode}):
            start(sessions, "lena", "userns")
            assert (uid_outside(sessions, "lena") >= 2**16) == (mode == "Required")
            owners = run_in(sessions, "lena", f"id -u; touch ~/in-{number}; stat -c %u ~/in-*").split()
            assert owners == ["1000"] * (number + 2)
            isolation = reach(sessions, "lena", "Running")["status"]["isolation"]
            off = {"message": "There is no user namespace: the template turns it off."}
            assert isolation == ({"userNamespace": True} if mode == "Required" else off)
            sessions.kubectl("delete", "vdi", "lena", "--wait=true", "--timeout=60s")


def test_auto_uses_a_user_namespace_without_a_home(sessions: World) -> None:
    with template(sessions, "userns-auto", persistence={"enabled": False}) as auto:
        start(sessions, "otto", auto)
        pod = pod_of(sessions, "otto")
        assert pod and pod["spec"]["hostUsers"] is False
        assert uid_outside(sessions, "otto") >= 2**16


@pytest.mark.parametrize("home", ["--home", "--no-home"])
def test_root_installs_a_package_and_has_no_other_right(sessions: World, root: str, home: str) -> None:
    name = f"rita{home.strip('-')}"
    start(sessions, name, root, *([home] if home == "--no-home" else []))
    assert run_in(sessions, name, "id -u; grep CapEff /proc/self/status").split() == ["0", "CapEff:", "0" * 16]
    assert uid_outside(sessions, name) >= 2**16
    assert run_in(sessions, name, _INSTALL).strip() == "installed"
    for refused in ("chown 1000 /etc/hosts", "mount -t tmpfs none /mnt", "su user -c true"):
        assert run_in(sessions, name, f"{refused} 2> /dev/null && echo done || echo refused").strip() == "refused"
    with sessions.browser(name) as browser:
        browser.open()
