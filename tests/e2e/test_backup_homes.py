"""docs/examples/homes.sh for real: a home leaves the cluster as a file, is lost, and its desktop goes on with it."""

import os
import subprocess
from pathlib import Path

import pytest

from e2e.desktops import home_claim_of, reach, run_in, start
from e2e.world import NAMESPACE, World
from vdi.demo.run import checkout

pytestmark = pytest.mark.timeout(240)
SCRIPT = checkout() / "docs/examples/homes.sh"
FILES = (
    "cd ~ && echo precious > paper.txt && mkdir -p 'a b/.c' && ln -sfn ../paper.txt 'a b/link' && chmod 600 paper.txt"
)
LOOK = "cd ~ && cat 'a b/link' && stat -c '%a %u' paper.txt && ls -A 'a b'"


def homes(world: World, *words: str | Path, check: bool = True) -> str:
    """The script as people call it; what it prints, and on failure what it says."""
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    argv = [str(SCRIPT), *map(str, words)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode == 0) is check, f"{argv} ended with {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout if check else done.stderr


@pytest.mark.long
def test_lost_home_is_restored_for_its_desktop(sessions: World, tmp_path: Path) -> None:
    world = sessions
    start(world, "hanna", "small")
    run_in(world, "hanna", FILES)
    seen = run_in(world, "hanna", LOOK)
    claim = home_claim_of(world, "hanna")
    assert f"{claim}  hanna@example.com  small\n" in homes(world, "list")

    assert f"{claim} of hanna@example.com" in homes(world, "save", tmp_path, claim), "while the desktop runs"
    assert {path.name for path in tmp_path.iterdir()} == {f"{claim}.yaml", f"{claim}.tar.gz"}
    assert (tmp_path / f"{claim}.tar.gz").stat().st_mode & 0o077 == 0, "for nobody else"
    assert "is there already and stays as it is" in homes(world, "load", tmp_path, claim, check=False)

    world.vdi("session", "suspend", "hanna", "--wait")
    before = world.get("pvc", claim)
    assert before
    world.kubectl("delete", "pvc", claim, "--timeout=60s")
    assert f"{claim} of hanna@example.com: loaded" in homes(world, "load", tmp_path)
    after = world.get("pvc", claim)
    assert after and after["spec"]["volumeName"] != before["spec"]["volumeName"]

    world.vdi("session", "resume", "hanna", "--wait")
    reach(world, "hanna", "Running")
    assert run_in(world, "hanna", LOOK) == seen == "precious\n600 1000\n.c\nlink\n"


@pytest.mark.long
def test_saving_an_unknown_home_leaves_nothing(sessions: World, tmp_path: Path) -> None:
    said = homes(sessions, "save", tmp_path, "nobodys-home", check=False)
    assert "nobodys-home" in said
    assert not list(tmp_path.glob("*.tar.gz"))
    left = sessions.kubectl("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=vdi-home-copy", "-o", "name")
    assert left == ""
