"""Two gateways with PostgreSQL and Redis of the chart's own, on a real node: each part dies, and no
one loses a thing.

The servers' images are built from Debian's packages, since the official ones cannot be fetched
everywhere.
"""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page

from e2e.conftest import NAME
from e2e.desktops import is_ready, start
from e2e.release import SERVERS, is_known, replicated
from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def two_gateways(sessions: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world whose release has two gateways."""
    with replicated(sessions, NAME, tmp_path_factory.mktemp("servers")):
        yield sessions


def ready_pods(world: World, selector: str) -> dict[str, str]:
    """Name by uid: a pod of a StatefulSet has the name of the one before it."""
    pods = json.loads(
        world.kubectl("-n", RELEASE_NAMESPACE, "get", "pods", "-l", selector, "-o", "json")
    )["items"]
    return {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in pods if is_ready(pod)}


def kill(world: World, portal: Page, selector: str, uid: str) -> None:
    """Return when another pod is Ready in its place, and the portal knows who has logged in."""
    pods = ready_pods(world, selector)
    words = ("delete", "pod", pods[uid], "--grace-period=0", "--force", "--wait=false")
    world.kubectl("-n", RELEASE_NAMESPACE, *words)
    wait_until(
        f"{pods[uid]} is replaced",
        lambda: len(ready_pods(world, selector).keys() - {uid}) == len(pods),
        120,
    )
    wait_until(f"the portal works without {pods[uid]}", lambda: is_known(portal))


@pytest.mark.long
def test_logins_survive_a_restart_of_each_component(two_gateways: World) -> None:
    world = two_gateways
    selector = "app.kubernetes.io/component=gateway"
    gateways = wait_until(
        "two gateways", lambda: two if len(two := ready_pods(world, selector)) == 2 else None
    )
    start(world, "rita", "small")
    with world.browser("rita") as browser:
        browser.open()
        portal = browser.page.context.new_page()
        portal.goto(f"{world.portal}/account")
        assert is_known(portal)
        for gateway in gateways:  # in turn: what the first one knew must be known to the second
            kill(world, portal, selector, gateway)
        for selector in [f"app.kubernetes.io/name={name}" for name in SERVERS]:
            (server,) = ready_pods(world, selector)
            kill(world, portal, selector, server)
        before = browser.picture()
        browser.open_terminal()  # the connection of before: no picture has passed through any of them
        browser.wait_for_change(before, pixels=20_000)
        portal.goto(f"{world.portal}/history")
        portal.get_by_text("rita").first.wait_for()
