"""Notices in the picture before a desktop goes: its time is over, or its node is taken away."""

import pytest

from e2e.desktops import (
    A_NOTICE,
    condition,
    notice_pixels,
    reach,
    start,
    status_of,
    uid_of,
    wait_for_notice,
)
from e2e.world import World

pytestmark = pytest.mark.timeout(240)


@pytest.mark.long
def test_longer_timeout_withdraws_the_end_notice(sessions: World) -> None:
    """Input does not: it is no question of being there."""
    start(sessions, "emma", "small", "--timeout", "60s")
    with sessions.browser("emma") as browser:
        browser.open()
        wait_for_notice(browser, shown=True, seconds=60)
        assert condition(sessions, "emma", "Expiring")
        browser.type("x")
        browser.page.wait_for_timeout(1500)
        assert notice_pixels(browser.picture()) > A_NOTICE
        sessions.kubectl("patch", "vdi", "emma", "--type=merge", "-p", '{"spec":{"timeout":"8h"}}')
        wait_for_notice(browser, shown=False, seconds=10)
    assert condition(sessions, "emma", "Expiring") is None
    reach(sessions, "emma", "Running")


@pytest.mark.long
def test_uncordon_withdraws_the_drain_notice(sessions: World) -> None:
    start(sessions, "dana", "small")
    pod, node = uid_of(sessions, "dana"), status_of(sessions, "dana")["nodeName"]
    with sessions.browser("dana") as browser:
        browser.open()
        assert notice_pixels(browser.picture()) < A_NOTICE
        sessions.kubectl("cordon", node)
        try:
            wait_for_notice(browser, shown=True, seconds=15)
            draining = condition(sessions, "dana", "Draining")
            assert draining
            assert node in draining["message"]
        finally:
            sessions.kubectl("uncordon", node)
        wait_for_notice(browser, shown=False, seconds=15)
    assert uid_of(sessions, "dana") == pod, "a cordon alone stops nobody"
