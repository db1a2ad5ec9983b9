"""One home for all desktops of a person, on a real node: templates with the scope `User` share it,
one desktop at a time. A suspended desktop leaves it to another.
"""

import json
from typing import Any

import pytest

from e2e.desktops import home_claim_of, pod_of, reach, run_in, start, template
from e2e.world import World

pytestmark = pytest.mark.timeout(300)
OF_USER: dict[str, Any] = {"persistence": {"scope": "User"}}


@pytest.mark.long
def test_desktops_share_a_home_one_at_a_time(sessions: World) -> None:
    world = sessions
    with template(world, "draw", **OF_USER) as draw, template(world, "write", **OF_USER) as write:
        start(world, "olga", draw)
        run_in(world, "olga", "echo precious > ~/paper.txt")
        home = home_claim_of(world, "olga")
        try:
            world.vdi(
                "session", "create", "second", "--user", "olga@example.com", "--template", write
            )
            reach(
                world,
                "second",
                "Pending",
                "The files of olga@example.com are in use by the desktop 'olga'.",
            )
            assert pod_of(world, "second") is None
            listed = json.loads(world.vdi("home", "show", home, "-o", "json"))
            assert (listed["usedBy"], listed["scope"]) == (["olga"], "User")

            world.vdi("session", "suspend", "olga", "--wait")
            reach(world, "second", "Running")
            assert home_claim_of(world, "second") == home
            assert run_in(world, "second", "cat ~/paper.txt") == "precious\n"

            world.vdi("session", "resume", "olga")
            reach(world, "olga", "Pending", "are in use by the desktop 'second'")
        finally:
            world.kubectl("delete", "vdi", "--all", "--wait=true", "--timeout=60s")
            world.vdi("home", "rm", home, "--yes")
