"""A drain of one of three nodes: people see a notice, desktops without a home move, the others say
why they cannot.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.desktops import (
    PYTHON_ON_SCREEN,
    condition,
    live_pod_of,
    reach,
    run_in,
    start,
    template,
    uid_of,
)
from e2e.world import World
from nodes.mounts import mounts_watched
from nodes.several import LIGHT, Nodes, drain
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)

WITHOUT_HOME = ("lea", "leo", "liv")
WITH_HOME = ("abe", "ada", "amy")

_FIND_NOTICES = """
from selkies.Xlib.display import Display

def below(window):
    yield window
    for child in window.query_tree().children:
        yield from below(child)

shown = [window for window in below(Display().screen().root) if window.get_attributes().map_state == 2]
print(sum("xfce4-notifyd" in (window.get_wm_class() or ()) for window in shown))"""


def notices_in(world: World, pod: str) -> int:
    """The number of notices that this desktop shows; 0 also while that is unknown, as a window
    closes.
    """
    said = world.kubectl(
        "exec", pod, "--", "sh", "-c", f"{PYTHON_ON_SCREEN} -c '{_FIND_NOTICES}' || echo 0"
    )
    return int(said.split()[-1])


def test_drain_is_announced_and_moves_desktops_without_a_home(nodes: Nodes) -> None:
    world, node, everyone = nodes.world, nodes.names[1], WITHOUT_HOME + WITH_HOME
    with (
        template(world, "roams", resources=LIGHT, persistence={"enabled": False}),
        template(world, "stays", resources=LIGHT),
    ):
        with nodes.only(node):
            for name in everyone:
                start(world, name, "roams" if name in WITHOUT_HOME else "stays", wait=False)
            for name in everyone:
                reach(world, name, "Running", seconds=180)
        for name in WITH_HOME:
            run_in(world, name, f"echo {name} > ~/mine.txt")
        before = {name: live_pod_of(world, name)["metadata"] for name in everyone}
        assert {nodes.of(name) for name in everyone} == {node}
        volumes = {name: nodes.volume_of(name) for name in WITH_HOME}

        def sees_it(name: str) -> bool:
            return wait_until(
                f"{name} sees the notice", lambda: notices_in(world, before[name]["name"]) > 0
            )

        with (
            mounts_watched(*volumes.values()) as mounts,
            ThreadPoolExecutor(len(everyone)) as people,
        ):
            assert not any(
                people.map(lambda name: notices_in(world, before[name]["name"]), everyone)
            )
            draining = drain(world, node)
            try:
                # Asked in the pods of before: whoever was stopped without a notice cannot be asked
                # any more.
                assert all(people.map(sees_it, everyone))
                said, _ = draining.communicate(timeout=120)
            finally:
                draining.kill()
            assert draining.returncode == 0, said
            for name in WITHOUT_HOME:
                nodes.wait_moved(name, node)
            for name in WITH_HOME:
                reach(
                    world,
                    name,
                    "Pending",
                    f"the home is on node {node}, and node {node} is cordoned",
                )
                admitted = condition(world, name, "Admitted")
                assert admitted and admitted["reason"] == "NodesUnavailable"

            world.kubectl("uncordon", node)
            for name in WITH_HOME:
                reach(world, name, "Running", seconds=120)
                assert run_in(world, name, "cat ~/mine.txt") == f"{name}\n"
        for name, volume in volumes.items():
            assert mounts.pods(volume) == {before[name]["uid"], uid_of(world, name)}
        assert mounts.twice == {}
