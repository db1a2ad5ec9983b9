"""`vdi home migrate` on a real node: files of a template's home are there in the home of the user."""

import json

import pytest

from e2e.desktops import pod_of, reach, run_in, start
from e2e.world import NAMESPACE, World

pytestmark = pytest.mark.timeout(300)
FILES = (
    "cd ~ && echo precious > paper.txt && mkdir -p 'a b/.c' && ln -sfn ../paper.txt 'a b/link' && chmod 640 paper.txt"
    " && ln -f paper.txt 'a b/same' && head -c 20000000 /dev/urandom > data && sha256sum data > data.sum"
)
LOOK = "cd ~ && cat 'a b/link' && stat -c '%a %u %h' paper.txt && ls -A 'a b' && sha256sum --check data.sum"


def home_of(world: World, name: str) -> str:
    pod = pod_of(world, name)
    assert pod
    (claim,) = [
        volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"]["volumes"] if volume["name"] == "home"
    ]
    return str(claim)


@pytest.mark.long
def test_files_move_to_the_home_of_the_user_and_the_desktop_goes_on_with_them(sessions: World) -> None:
    world = sessions
    start(world, "mira", "small")
    run_in(world, "mira", FILES)
    seen, old = run_in(world, "mira", LOOK), home_of(world, "mira")
    words = ("home", "migrate", "--template", "small", "--to", "User", "--user", "mira@example.com", "-o", "json")
    refused = world.vdi(*words, check=False)
    assert "the session 'mira' uses the home; suspend it first" in refused

    world.vdi("session", "suspend", "mira", "--wait")
    (moved,) = json.loads(world.vdi(*words))["homes"]
    assert (moved["from"], moved["migrated"]) == (old, True)
    world.vdi("session", "resume", "mira", "--wait")
    reach(world, "mira", "Running")
    assert home_of(world, "mira") == moved["to"] != old
    assert run_in(world, "mira", LOOK) == seen == "precious\n640 1000 2\n.c\nlink\nsame\ndata: OK\n"
    labels = "app.kubernetes.io/name=vdi-home-copy"
    assert world.kubectl("get", "pods", "-n", NAMESPACE, "-l", labels, "-o", "name") == ""
    world.vdi("home", "rm", old, "--yes")
