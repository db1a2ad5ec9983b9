"""No one at the desktop: the notice in its picture, what spares it and what does not, the
suspension. Real input.
"""

from datetime import timedelta
from pathlib import Path

import pytest

from e2e.desktops import condition, pod_of, reach, started, status_of, wait_for_notice
from e2e.world import World
from support.waiting import wait_until
from vdi.cluster.units import parse_time

pytestmark = pytest.mark.timeout(300)
IDLE_TIMEOUT = 40


@pytest.mark.long
def test_input_clears_the_idle_notice_an_open_tab_does_not(sessions: World, tmp_path: Path) -> None:
    with started(sessions, "ida", lifecycle={"idleTimeout": f"{IDLE_TIMEOUT}s"}):
        with sessions.browser("ida") as browser:
            browser.open()
            assert condition(sessions, "ida", "Idle") is None
            wait_for_notice(browser, shown=True, seconds=IDLE_TIMEOUT)
            browser.picture().save(tmp_path / "notice.png")
            warned = condition(sessions, "ida", "Idle")
            assert warned
            assert "unless someone uses mouse or keyboard" in warned["message"]

            browser.type("x")
            wait_for_notice(browser, shown=False, seconds=10)
            wait_until(
                "the warning is taken back", lambda: condition(sessions, "ida", "Idle") is None
            )
            assert pod_of(sessions, "ida")

            # The page stays open and shows the desktop all the time; no one touches it.
            wait_for_notice(browser, shown=True, seconds=IDLE_TIMEOUT)
            assert "Waiting for stream" not in browser.page.inner_text("body")
            active = parse_time(status_of(sessions, "ida")["lastActivityTime"])
            assert active >= parse_time(warned["lastTransitionTime"]), (
                "the key was after the first warning"
            )
            reach(sessions, "ida", "Suspended", seconds=IDLE_TIMEOUT)
            suspended = condition(sessions, "ida", "Ready")
            assert suspended
            length = parse_time(suspended["lastTransitionTime"]) - active
            assert timedelta(seconds=IDLE_TIMEOUT) <= length < timedelta(seconds=IDLE_TIMEOUT + 20)
        # The status tells it first, so that no one is suspended without a word; then the spec.
        wait_until(
            "the spec says so", lambda: (sessions.get("vdi", "ida") or {})["spec"]["suspended"]
        )
        wait_until(
            "the desktop is gone", lambda: not sessions.items("pod", "vdi.kasm.io/session=ida")
        )
