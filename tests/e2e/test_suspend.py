"""A suspended desktop comes back: the same address and Secret, the same files."""

import pytest

from e2e.desktops import home_claim_of, reach, run_in, start, token_of
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.mark.long
def test_home_and_address_survive_suspension(sessions: World) -> None:
    before = start(sessions, "sue", "small")
    url, secret = before["status"]["url"], token_of(sessions, "sue", "password")
    home = home_claim_of(sessions, "sue")
    run_in(sessions, "sue", "echo kept > ~/kept.txt; mkdir -p ~/.config/app && echo set > ~/.config/app/rc")

    sessions.vdi("session", "suspend", "sue", "--wait")
    suspended = reach(sessions, "sue", "Suspended")
    wait_until("no pod", lambda: not sessions.items("pod", "vdi.kasm.io/session=sue"))
    assert suspended["status"].get("startTime", "") == ""
    assert sessions.get("pvc", home)

    sessions.vdi("session", "resume", "sue", "--wait")
    after = reach(sessions, "sue", "Running")
    assert (after["status"]["url"], token_of(sessions, "sue", "password")) == (url, secret)
    assert after["status"]["startTime"] > before["status"]["startTime"], "a new run"
    assert run_in(sessions, "sue", "cat ~/kept.txt ~/.config/app/rc") == "kept\nset\n"
    with sessions.browser("sue") as browser:
        browser.open()
