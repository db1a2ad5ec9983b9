"""A node dies and comes back: desktops without a home run elsewhere meanwhile, the others wait and
keep their files.
"""

import pytest

from e2e.desktops import message_of, reach, run_in, start, template, uid_of
from nodes.mounts import mounts_watched, pods_that_run
from nodes.several import GIVES_UP_SOON, LIGHT, LOST_SECONDS, Nodes
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)


def test_returning_node_never_mounts_a_home_twice(nodes: Nodes) -> None:
    world, node = nodes.world, nodes.spare
    with (
        template(
            world, "roams", resources=LIGHT, placement=GIVES_UP_SOON, persistence={"enabled": False}
        ),
        template(world, "stays", resources=LIGHT, placement=GIVES_UP_SOON),
    ):
        with nodes.only(node):
            start(world, "lea", "roams", wait=False)
            start(world, "abe", "stays")
            reach(world, "lea", "Running")
        run_in(world, "abe", "echo mine > ~/mine.txt")
        volume = nodes.volume_of("abe")
        before = {name: uid_of(world, name) for name in ("abe", "lea")}
        with mounts_watched(volume) as mounts:
            nodes.kill(node, "kubelet", "containerd")
            nodes.cut(node)
            lost = f"The node {node} does not respond"
            wait_until(
                "abe's session says so", lambda: lost in message_of(world, "abe"), LOST_SECONDS
            )
            nodes.wait_moved("lea", node, LOST_SECONDS)
            reach(world, "abe", "Creating", f"{lost}, and may still be writing to")
            assert pods_that_run() >= set(before.values()), "no one can stop what runs on that node"
            assert mounts.pods(volume) == {before["abe"]}
            said = world.vdi("doctor", check=False)
            assert "node_not_ready" in said and "desktop_on_lost_node" in said, said

            nodes.bring_back(node)
            reach(world, "abe", "Running", seconds=120)
            assert nodes.of("abe") == node
            assert run_in(world, "abe", "cat ~/mine.txt") == "mine\n"
            wait_until(
                "the desktops of before have ended",
                lambda: not pods_that_run() & set(before.values()),
            )
            assert nodes.of("lea") != node
        assert mounts.pods(volume) == {before["abe"], uid_of(world, "abe")}
        assert mounts.twice == {}
