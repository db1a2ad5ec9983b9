"""Two gateways with PostgreSQL and Redis of the chart's own, on a real node: each part dies, and no one loses a thing.

The servers' images are built from Debian's packages, since the official ones cannot be fetched everywhere.
"""

from collections.abc import Iterator

import pytest

from e2e.conftest import NAME
from e2e.desktops import start
from e2e.replicas import SERVERS, is_known, replicated
from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def two_gateways(sessions: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The world whose release has two gateways."""
    with replicated(sessions, NAME, tmp_path_factory.mktemp("servers")):
        yield sessions


def pods(world: World, selector: str) -> list[str]:
    found = world.kubectl("-n", RELEASE_NAMESPACE, "get", "pods", "-l", selector, "-o", "name").split()
    return [name for name in found if name]


def kill(world: World, pod: str) -> None:
    world.kubectl("-n", RELEASE_NAMESPACE, "delete", pod, "--grace-period=0", "--force", "--wait=false")


@pytest.mark.long
def test_each_part_dies_and_who_has_logged_in_stays_in(two_gateways: World) -> None:
    world = two_gateways
    selector = "app.kubernetes.io/component=gateway"
    gateways = wait_until("two gateways", lambda: two if len(two := pods(world, selector)) == 2 else None, 60)
    start(world, "rita", "small")
    with world.browser("rita") as browser:
        browser.open()
        portal = browser.page.context.new_page()
        portal.goto(f"{world.portal}/account")
        assert is_known(portal)
        for gateway in gateways:  # in turn: what the first one knew must be known to the second
            kill(world, gateway)
            wait_until("the other gateway answers", lambda: is_known(portal), 30)
        selectors = [f"app.kubernetes.io/name={name}" for name in SERVERS]
        for selector in selectors:
            (server,) = pods(world, selector)
            kill(world, server)
            wait_until(f"{selector} is back", lambda: is_known(portal), 60)
        before = browser.picture()
        browser.open_terminal()  # the connection of before: no picture has passed through any of them
        browser.wait_for_change(before, pixels=20_000)
        portal.goto(f"{world.portal}/history")
        portal.get_by_text("rita").first.wait_for()
