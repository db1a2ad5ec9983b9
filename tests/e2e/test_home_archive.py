"""`vdi home export` and `import` on a real node: a home leaves the cluster through `kubectl exec` and comes back."""

import tarfile
from pathlib import Path

import pytest

from e2e.desktops import home_claim_of, reach, run_in, start
from e2e.world import NAMESPACE, World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)
FILES = (
    "cd ~ && echo precious > paper.txt && mkdir -p 'a b/.c' && ln -sfn ../paper.txt 'a b/link' && chmod 640 paper.txt"
    " && ln -f paper.txt 'a b/same' && truncate -s 50M sparse"
)
LOOK = "cd ~ && cat 'a b/link' && stat -c '%a %u %h' paper.txt && ls -A 'a b' && [ $(du -m sparse | cut -f1) -lt 5 ]"


@pytest.mark.long
def test_deleted_home_is_imported_for_its_desktop(sessions: World, tmp_path: Path) -> None:
    world, archive = sessions, tmp_path / "hazel.tar.gz"
    start(world, "hazel", "small")
    run_in(world, "hazel", FILES)
    seen = run_in(world, "hazel", LOOK)
    claim = home_claim_of(world, "hazel")
    world.vdi("home", "export", claim, str(archive))  # while the desktop runs
    with tarfile.open(archive) as tar:
        assert "./paper.txt" in tar.getnames()

    world.vdi("session", "suspend", "hazel", "--wait")
    before = world.get("pvc", claim)
    assert before
    world.kubectl("delete", "pvc", claim, "--timeout=60s")
    world.vdi("home", "import", str(archive), "--user", "hazel@example.com", "--template", "small")
    after = world.get("pvc", claim)
    assert after and after["spec"]["volumeName"] != before["spec"]["volumeName"]
    assert "vdi.kasm.io/copying" not in after["metadata"]["annotations"]

    world.vdi("session", "resume", "hazel", "--wait")
    reach(world, "hazel", "Running")
    assert run_in(world, "hazel", LOOK) == seen == "precious\n640 1000 2\n.c\nlink\nsame\n"
    labels = "app.kubernetes.io/name=vdi-home-copy"
    copies = ("get", "pods", "-n", NAMESPACE, "-l", labels, "-o", "name")
    wait_until("the kubelet has ended the pods of both copies", lambda: world.kubectl(*copies) == "")
