"""Desktops in user namespaces on a real node: other user ids outside, the same files, and root that
may do little.
"""

import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from e2e.conftest import NAME
from e2e.desktops import DESKTOP_IMAGE, live_pod_of, pod_of, reach, run_in, start, started, template
from e2e.release import metric
from e2e.world import World
from support.waiting import wait_until
from vdi.cluster.capacity import IMAGE_VOLUMES, USER_NAMESPACES, Need, find_lack
from vdi.cluster.objects import NodeStatus
from vdi.devcluster.layout import layout_of

WITHOUT_HOME: dict[str, Any] = {"persistence": {"enabled": False}}
REQUIRED = {"isolation": {"userNamespaces": "Required"}}
# The desktop's own image once more, as a bundle of programs.
PROGRAMS = {"programs": [{"image": DESKTOP_IMAGE, "mountPath": "/opt/again"}]}
_RUN_AND_WRITE = "/opt/again/usr/bin/id -u; touch /opt/again/x 2>&1 | grep -o Read-only.*"
# A package of one file, without programs of its own.
_INSTALL = """
cd $(mktemp -d) && mkdir -p hello/DEBIAN hello/opt/hello && echo installed > hello/opt/hello/proof
printf 'Package: hello-vdi\nVersion: 1\nArchitecture: all\nMaintainer: vdi <a@example.com>\nDescription: a test\n' \
  > hello/DEBIAN/control
dpkg-deb --root-owner-group --build hello >&2 && dpkg -i hello.deb >&2 && cat /opt/hello/proof
"""


def processes(*words: str) -> list[Path]:
    """Folders in /proc of the processes with this command line, in all namespaces of this
    machine.
    """
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


def lack_of(world: World, feature: str) -> str:
    """The reason why this machine's node does not have the feature; empty: it does."""
    (node,) = world.items("node")
    return find_lack(msgspec.convert(node["status"], NodeStatus), Need(feature))


@pytest.fixture
def able(world: World) -> None:
    if lack := lack_of(world, USER_NAMESPACES):
        pytest.skip(f"the node has {lack}; the tests of both kinds of node say what follows")


@pytest.fixture(scope="module")
def root(world: World) -> Iterator[str]:
    isolation = {"userNamespaces": "Required", "rootInDesktop": True}
    with template(world, "userns-root", isolation=isolation) as name:
        yield name


def test_auto_uses_what_the_node_has_and_says_so(sessions: World) -> None:
    """On either kind of node, without a home, whose volume would count too."""
    lack = lack_of(sessions, USER_NAMESPACES)
    with template(sessions, "userns-auto", **WITHOUT_HOME) as auto:
        start(sessions, "otto", auto)
        (node,) = sessions.items("node")
        message = f"There is no user namespace: node {node['metadata']['name']} has {lack}."
        isolation = reach(sessions, "otto", "Running")["status"]["isolation"]
        assert isolation == ({"message": message} if lack else {"userNamespace": True})
        assert live_pod_of(sessions, "otto")["spec"].get("hostUsers", True) == bool(lack)
        assert (uid_outside(sessions, "otto") < 2**16) == bool(lack)
        shown = " ".join(sessions.vdi("session", "show", "otto").split())
        assert (message if lack else "Isolation: user namespace") in shown
        assert ("user_namespace_unavailable" in sessions.vdi("doctor", check=False)) == bool(lack)
        used = f'vdi_session_user_namespaces{{used="{"false" if lack else "true"}"}}'
        wait_until("it is counted", lambda: metric(sessions, used, "operator") == 1)


@pytest.mark.parametrize(
    ("feature", "spec", "script", "said"),
    [
        (USER_NAMESPACES, REQUIRED, "id -u", "1000"),
        (IMAGE_VOLUMES, PROGRAMS, _RUN_AND_WRITE, "1000 Read-only file system"),
    ],
)
def test_template_that_needs_a_feature_runs_or_waits(
    sessions: World, feature: str, spec: dict[str, Any], script: str, said: str
) -> None:
    """On either kind of node."""
    lack = lack_of(sessions, feature)
    with template(sessions, "needs", **WITHOUT_HOME | spec):
        start(sessions, "nora", "needs", wait=not lack)
        if lack:
            waiting = reach(sessions, "nora", "Pending", lack)
            assert waiting["status"]["queue"]["reason"] == "NodeFeatureMissing"
            assert lack in " ".join(sessions.vdi("session", "show", "nora").split())
        else:
            assert " ".join(run_in(sessions, "nora", script).split()) == said


@pytest.mark.ci
@pytest.mark.platform
@pytest.mark.usefixtures("able")
def test_home_keeps_its_owner_in_both_modes(sessions: World) -> None:
    for number, mode in enumerate(("Required", "Off", "Required")):
        with started(sessions, "lena", isolation={"userNamespaces": mode}):
            assert (uid_outside(sessions, "lena") >= 2**16) == (mode == "Required")
            owners = run_in(
                sessions, "lena", f"id -u; touch ~/in-{number}; stat -c %u ~/in-*"
            ).split()
            # More of an earlier run: the home is kept.
            assert set(owners) == {"1000"} and len(owners) >= number + 2
            isolation = reach(sessions, "lena", "Running")["status"]["isolation"]
            off = {"message": "There is no user namespace: the template turns it off."}
            assert isolation == ({"userNamespace": True} if mode == "Required" else off)
            sessions.kubectl("delete", "vdi", "lena", "--wait=true", "--timeout=60s")


@pytest.mark.platform
@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("home", [pytest.param("--home", marks=pytest.mark.ci), "--no-home"])
def test_root_installs_a_package_and_has_no_other_right(
    sessions: World, root: str, home: str
) -> None:
    name = f"rita{home.strip('-')}"
    start(sessions, name, root, *([home] if home == "--no-home" else []))
    assert run_in(sessions, name, "id -u; grep CapEff /proc/self/status").split() == [
        "0",
        "CapEff:",
        "0" * 16,
    ]
    assert uid_outside(sessions, name) >= 2**16
    assert run_in(sessions, name, _INSTALL).strip() == "installed"
    for refused in ("chown 1000 /etc/hosts", "mount -t tmpfs none /mnt", "su user -c true"):
        assert (
            run_in(sessions, name, f"{refused} 2> /dev/null && echo done || echo refused").strip()
            == "refused"
        )
    with sessions.browser(name) as browser:
        browser.open()


def on_node(*command: str) -> None:
    """Run a command in the mount namespace of the node, where containerd sees what it mounts."""
    config = f"{layout_of(NAME).config}/containerd.toml"
    for folder in Path("/proc").iterdir():
        with suppress(OSError):
            if folder.name.isdecimal() and config in (folder / "cmdline").read_text().split("\0"):
                subprocess.run(
                    ["nsenter", "--target", folder.name, "--mount", "--pid", *command], check=True
                )
                return
    pytest.fail(f"no process has the configuration {config}")


@pytest.fixture
def volumes_of_ramfs(world: World, tmp_path: Path) -> Iterator[str]:
    """A StorageClass with two volumes on a filesystem without idmapped mounts."""
    name = f"ramfs-{secrets.token_hex(4)}"
    on_node("mount", "-t", "ramfs", "ramfs", str(tmp_path))
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    volumes = []
    for number in range(2):
        folder = tmp_path / str(number)
        on_node("mkdir", "--mode", "0777", str(folder))
        spec = {
            "storageClassName": name,
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": str(folder)},
        }
        metadata = {"name": f"{name}-{number}", "labels": {"of": name}}
        volumes.append(
            {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}
        )
    world.kubectl(
        "create",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": volumes}),
    )
    world.kubectl("create", "-f", "-", stdin=json.dumps(storage_class))
    try:
        yield name
    finally:
        world.kubectl("delete", "pv", "--selector", f"of={name}", "--wait=false")
        world.kubectl("delete", "storageclass", name)
        on_node("umount", "--lazy", str(tmp_path))


@pytest.mark.platform
@pytest.mark.usefixtures("able")
def test_volume_without_idmapped_mounts_costs_the_namespace_only(
    sessions: World, volumes_of_ramfs: str
) -> None:
    """The default starts again without one; Required waits without a pod, and the doctor says
    why.
    """
    home: dict[str, Any] = {
        "persistence": {"scope": "Session", "size": "1Gi", "storageClass": volumes_of_ramfs}
    }
    why = f"has no idmapped mounts for StorageClass '{volumes_of_ramfs}'"
    with started(sessions, "rams", **home):
        status = reach(sessions, "rams", "Running")["status"]
        assert why in status["isolation"]["message"] and "failures" not in status
        assert run_in(sessions, "rams", "touch ~/kept && stat -f -c %T ~").strip() == "ramfs"
        with started(sessions, "waits", wait=False, **home | REQUIRED):
            status = reach(sessions, "waits", "Pending", why)["status"]
            assert 'userNamespaces: "Off"' in status["message"] and "failures" not in status
            assert not pod_of(sessions, "waits")
            assert "user_namespace_unavailable" in sessions.vdi("doctor", check=False)
