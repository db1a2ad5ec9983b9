"""A real desktop gets more and less memory while its programs run, and offers more when one of them eats it."""

import re

import pytest

from e2e.desktops import condition, live_pod_of, run_in, started, uid_of
from e2e.world import World
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(240), pytest.mark.long]
_LIMIT = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | head -1"
# The X server's folder in /proc, which has its process number.
_SCREEN = "grep -lxE 'Xvfb|Xorg' /proc/[0-9]*/comm 2>/dev/null; true"
_GIB = 1 << 30


def limit_of(world: World, name: str) -> int:
    return int(run_in(world, name, _LIMIT))


def wait_for_memory(world: World, name: str, gib: int) -> None:
    wait_until(f"it has {gib} GiB", lambda: limit_of(world, name) == gib * _GIB)


def test_running_desktop_grows_and_shrinks(sessions: World) -> None:
    with started(sessions, "ella", resources={"defaultGPU": 0, "defaultMemory": "2Gi", "maxMemory": "9Ti"}):
        process, pod = run_in(sessions, "ella", _SCREEN), uid_of(sessions, "ella")
        assert process
        assert limit_of(sessions, "ella") == 2 * _GIB
        for size in (3, 2):
            sessions.vdi("session", "resize", "ella", "--memory", f"{size}Gi")
            wait_for_memory(sessions, "ella", size)
        after = live_pod_of(sessions, "ella")
        assert after["metadata"]["uid"] == pod
        assert after["status"]["containerStatuses"][0]["restartCount"] == 0
        assert run_in(sessions, "ella", _SCREEN) == process

        sessions.vdi("session", "resize", "ella", "--memory", "8Ti")
        refused = wait_until("the reason is said", lambda: condition(sessions, "ella", "ResizePending"))
        assert (refused["reason"], "8Ti is more than node" in refused["message"]) == ("Infeasible", True)
        assert limit_of(sessions, "ella") == 2 * _GIB
        sessions.vdi("session", "resize", "ella", "--memory", "2Gi")
        wait_until("it is taken back", lambda: condition(sessions, "ella", "ResizePending") is None)


def test_full_memory_is_offered_more_in_one_click(sessions: World) -> None:
    with started(sessions, "hugo", resources={"defaultGPU": 0, "defaultMemory": "1Gi", "maxMemory": "3Gi"}):
        with sessions.browser("hugo") as browser:
            browser.open()
            # Fills the memory up to 94 %, as the kernel counts it, and holds it.
            eater = (
                "import sys, time; sys.path.insert(0, '/usr/local/lib/vdi')"
                "\nfrom memory_use import read_memory"
                "\nheld = []"
                "\nwhile (now := read_memory())['used'] < 0.94 * now['limit']: held.append(b'x' * (4 << 20))"
                "\ntime.sleep(600)"
            )
            run_in(sessions, "hugo", f'nohup /opt/selkies/bin/python3 -c "{eater}" >/dev/null 2>&1 & echo started')
            offer = browser.page.get_by_role("button", name="Give it 2 GiB more")
            offer.wait_for(timeout=90_000)
            words = browser.page.get_by_text(re.compile("Your desktop uses 9[0-9] % of its memory")).inner_text()
            assert words.endswith("Give it 2 GiB more?")
            offer.click()
            wait_for_memory(sessions, "hugo", 3)
            offer.wait_for(state="hidden", timeout=10_000)
        assert run_in(sessions, "hugo", "grep -la [h]eld.append /proc/[0-9]*/cmdline 2>/dev/null; true"), (
            "the program goes on"
        )
