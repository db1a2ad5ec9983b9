"""A suspended desktop comes back: the same address and Secret, the same files, and room for others meanwhile."""

import pytest

from e2e.desktops import master_token_of, pod_of, reach, run_in, start
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(240)


@pytest.mark.long
def test_home_and_address_survive_suspension(sessions: World) -> None:
    before = start(sessions, "sue", "small")
    url, secret = before["status"]["url"], master_token_of(sessions, "sue")
    first = pod_of(sessions, "sue")
    assert first
    run_in(sessions, "sue", "echo kept > ~/kept.txt; mkdir -p ~/.config/app && echo set > ~/.config/app/rc")

    sessions.vdi("session", "suspend", "sue", "--wait")
    suspended = reach(sessions, "sue", "Suspended")
    wait_until("no pod", lambda: not sessions.items("pod", "vdi.kasm.io/session=sue"))
    assert suspended["status"].get("startTime", "") == ""
    claims = {session["metadata"]["name"] for session in sessions.items("pvc")}
    (mounted,) = [v["persistentVolumeClaim"]["claimName"] for v in first["spec"]["volumes"] if v["name"] == "home"]
    assert mounted in claims

    sessions.vdi("session", "resume", "sue", "--wait")
    after = reach(sessions, "sue", "Running")
    assert (after["status"]["url"], master_token_of(sessions, "sue")) == (url, secret)
    assert after["status"]["startTime"] > before["status"]["startTime"], "a new run"
    assert run_in(sessions, "sue", "cat ~/kept.txt ~/.config/app/rc") == "kept\nset\n"
    with sessions.browser("sue") as browser:
        browser.open()


@pytest.mark.long
def test_the_home_of_a_suspended_session_is_free_for_another(sessions: World) -> None:
    start(sessions, "sven", "small")
    run_in(sessions, "sven", "echo mine > ~/mine.txt")
    words = ("session", "create", "sven-too", "--user", "sven@example.com", "--template", "small")
    sessions.vdi(*words)
    reach(sessions, "sven-too", "Pending", "are in use by the desktop 'sven'")
    sessions.vdi("session", "suspend", "sven", "--wait")
    reach(sessions, "sven-too", "Running", seconds=60)
    assert run_in(sessions, "sven-too", "cat ~/mine.txt") == "mine\n"
    sessions.vdi("session", "resume", "sven")
    reach(sessions, "sven", "Pending", "are in use by the desktop 'sven-too'")
