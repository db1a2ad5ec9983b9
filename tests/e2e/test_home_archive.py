"""A home leaves a real node as a file, is lost, and its desktop goes on with it: by `vdi home
export` and `import`, and by docs/examples/homes.sh.
"""

import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.desktops import home_claim_of, reach, run_in, start
from e2e.world import World
from support.waiting import wait_until
from vdi.demo.run import checkout

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]
SCRIPT = checkout() / "docs/examples/homes.sh"
FILES = (
    "cd ~ && echo precious > paper.txt && mkdir -p 'a b/.c' && ln -sfn ../paper.txt 'a b/link' &&"
    " chmod 640 paper.txt"
)
LOOK = "cd ~ && cat 'a b/link' && stat -c '%a %u' paper.txt && ls -A 'a b'"
SEEN = "precious\n640 1000\n.c\nlink\n"
# Of these the script promises nothing.
MORE_FILES = "cd ~ && ln -f paper.txt 'a b/same' && truncate -s 50M sparse"
LOOK_AT_MORE = "cd ~ && stat -c %h paper.txt && [ $(du -m sparse | cut -f1) -lt 5 ]"


def homes(world: World, *words: str | Path, check: bool = True) -> str:
    """The script as people call it; what it prints, and on failure what it says."""
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    argv = [str(SCRIPT), *map(str, words)]
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=False, timeout=180
    )
    assert (done.returncode == 0) is check, (
        f"{argv} ended with {done.returncode}: {done.stdout} {done.stderr}"
    )
    return done.stdout if check else done.stderr


@contextmanager
def lost_home(world: World, name: str, seen: str) -> Iterator[None]:
    """The home is deleted, and the context restores it: `LOOK` sees the same as before, on another
    volume.
    """
    assert run_in(world, name, LOOK) == seen
    claim = home_claim_of(world, name)
    world.vdi("session", "suspend", name, "--wait")
    before = world.get("pvc", claim)
    assert before
    world.kubectl("delete", "pvc", claim, "--timeout=60s")
    yield
    after = world.get("pvc", claim)
    assert after and after["spec"]["volumeName"] != before["spec"]["volumeName"]
    assert "vdi.kasm.io/copying" not in after["metadata"]["annotations"]

    world.vdi("session", "resume", name, "--wait")
    reach(world, name, "Running")
    assert run_in(world, name, LOOK) == seen


def pods_of_copies(world: World) -> str:
    return world.kubectl("get", "pods", "-l", "app.kubernetes.io/name=vdi-home-copy", "-o", "name")


def test_command_restores_a_deleted_home(sessions: World, tmp_path: Path) -> None:
    world, archive = sessions, tmp_path / "hazel.tar.gz"
    start(world, "hazel", "small")
    run_in(world, "hazel", f"{FILES} && {MORE_FILES}")
    # While the desktop runs.
    world.vdi("home", "export", home_claim_of(world, "hazel"), str(archive))
    with tarfile.open(archive) as tar:
        assert "./paper.txt" in tar.getnames()

    with lost_home(world, "hazel", f"{SEEN}same\n"):
        world.vdi(
            "home", "import", str(archive), "--user", "hazel@example.com", "--template", "small"
        )
    assert run_in(world, "hazel", LOOK_AT_MORE) == "2\n"
    wait_until("the kubelet has ended the pods of both copies", lambda: pods_of_copies(world) == "")


def test_script_restores_a_deleted_home(sessions: World, tmp_path: Path) -> None:
    world = sessions
    start(world, "hanna", "small")
    run_in(world, "hanna", FILES)
    claim = home_claim_of(world, "hanna")
    assert f"{claim}  hanna@example.com  small\n" in homes(world, "list")
    assert f"{claim} of hanna@example.com" in homes(world, "save", tmp_path, claim), (
        "while the desktop runs"
    )
    files = {f"{claim}.yaml", f"{claim}.tar.gz"}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert (tmp_path / f"{claim}.tar.gz").stat().st_mode & 0o077 == 0, "for nobody else"
    assert "is there already and stays as it is" in homes(
        world, "load", tmp_path, claim, check=False
    )

    with lost_home(world, "hanna", SEEN):
        assert f"{claim} of hanna@example.com: loaded" in homes(world, "load", tmp_path)
    assert "nobodys-home" in homes(world, "save", tmp_path, "nobodys-home", check=False)
    assert {path.name for path in tmp_path.iterdir()} == files
    assert pods_of_copies(world) == ""
