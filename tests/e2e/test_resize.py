"""A real desktop gets more and less memory while its programs run, offers more, and says when the
kernel killed one.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.desktops import condition, live_pod_of, reach, run_in, started, status_of, uid_of
from e2e.world import World
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(240), pytest.mark.long]
_LIMIT = (
    "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null |"
    " head -1"
)
# The X server's folder in /proc, which has its process number.
_SCREEN = "grep -lxE 'Xvfb|Xorg' /proc/[0-9]*/comm 2>/dev/null; true"
_GIB = 1 << 30


def limit_of(world: World, name: str) -> int:
    return int(run_in(world, name, _LIMIT))


def wait_for_memory(world: World, name: str, gib: int) -> None:
    wait_until(f"it has {gib} GiB", lambda: limit_of(world, name) == gib * _GIB)


def eat(world: World, name: str, then: str, *, most: float) -> None:
    """Start a program that fills this part of the memory, as the kernel counts it, and then does
    something else.
    """
    program = (
        "import sys, time; sys.path.insert(0, '/usr/local/lib/vdi')\nfrom memory_use import"
        f" read_memory\nheld = []\nwhile (now := read_memory())['used'] < {most} * now['limit']:"
        f" held.append(b'x' * (4 << 20))\n{then}"
    )
    run_in(
        world, name, f'nohup /opt/selkies/bin/python3 -c "{program}" >/dev/null 2>&1 & echo started'
    )


@contextmanager
def eating(world: World, name: str, then: str, *, most: float) -> Iterator[None]:
    """While the block runs."""
    eat(world, name, then, most=most)
    yield
    run_in(
        world,
        name,
        "kill $(grep -la [h]eld.append /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3) 2>&1; true",
    )


def reasons_of(world: World, name: str) -> set[str]:
    """Reasons of the session's Events."""
    field = f"regarding.kind=VDISession,regarding.name={name}"
    words = (
        "get",
        "events.events.k8s.io",
        "--field-selector",
        field,
        "-o",
        "jsonpath={.items[*].reason}",
    )
    return set(world.kubectl(*words).split())


def test_running_desktop_grows_and_shrinks(sessions: World) -> None:
    with started(
        sessions, "ella", resources={"defaultGPU": 0, "defaultMemory": "2Gi", "maxMemory": "9Ti"}
    ):
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

        refused = sessions.vdi("session", "resize", "ella", "--memory", "8Ti", check=False)
        assert (
            "8Ti is more than" in refused and "of the largest node that can run template" in refused
        )
        assert "is not an amount of at least 64Mi" in sessions.vdi(
            "session", "resize", "ella", "--memory", "1Mi", check=False
        )
        assert limit_of(sessions, "ella") == 2 * _GIB
        assert condition(sessions, "ella", "ResizePending") is None


def test_size_below_what_is_in_use_waits_and_is_announced(sessions: World) -> None:
    with started(
        sessions, "nora", resources={"defaultGPU": 0, "defaultMemory": "2Gi", "maxMemory": "4Gi"}
    ):
        with eating(sessions, "nora", "time.sleep(600)", most=0.7):
            sessions.vdi("session", "resize", "nora", "--memory", "1Gi")
            waits = wait_until("it waits", lambda: condition(sessions, "nora", "ResizePending"), 90)
            assert (waits["reason"], "uses more than its new size of 1Gi" in waits["message"]) == (
                "InUse",
                True,
            )
            assert limit_of(sessions, "nora") == 2 * _GIB
        wait_for_memory(sessions, "nora", 1)
        wait_until("it is applied", lambda: condition(sessions, "nora", "ResizePending") is None)
        wait_until("an Event says so", lambda: "Resized" in reasons_of(sessions, "nora"))


def test_killed_program_is_said(sessions: World) -> None:
    """In the desktop at once, in status and Event within the minute in which the operator asks."""
    with started(sessions, "kim", resources={"defaultGPU": 0, "defaultMemory": "1Gi"}):
        with eating(sessions, "kim", "", most=9.0):
            said = wait_until(
                "the kill is said", lambda: condition(sessions, "kim", "OutOfMemory"), 120
            )
        assert said["reason"] == "ProgramKilled", (
            "with cgroup v2 too: the kubelet has singleProcessOOMKill"
        )
        assert "a program in it was ended" in said["message"]
        assert "ProgramKilled" in reasons_of(sessions, "kim")
        assert live_pod_of(sessions, "kim")["status"]["containerStatuses"][0]["restartCount"] == 0


def test_killed_desktop_is_said_and_comes_back(sessions: World) -> None:
    """A full /dev/shm belongs to no program, so the kernel kills all: twice, since it lasts as long
    as the pod.
    """
    small = {"defaultGPU": 0, "defaultMemory": "1Gi"}
    with started(sessions, "jan", resources=small, shmSize="2Gi"):
        pod = live_pod_of(sessions, "jan")["metadata"]
        fill = (
            "exec",
            pod["name"],
            "--",
            "dd",
            "if=/dev/zero",
            "of=/dev/shm/full",
            "bs=1M",
            "count=2000",
        )
        sessions.kubectl(*fill, check=False)
        said = wait_until("the kill is said", lambda: condition(sessions, "jan", "OutOfMemory"), 60)
        assert said["reason"] == "DesktopKilled"
        lost = wait_until(
            "its pod is given up", lambda: status_of(sessions, "jan").get("failures"), 60
        )
        assert (lost["count"], lost["reason"]) == (1, "OutOfMemory")
        reach(sessions, "jan", "Running", seconds=90)
        assert uid_of(sessions, "jan") != pod["uid"]
        assert {"DesktopKilled", "OutOfMemory"} <= reasons_of(sessions, "jan")


def test_full_memory_is_offered_more_in_one_click(sessions: World) -> None:
    with started(
        sessions, "hugo", resources={"defaultGPU": 0, "defaultMemory": "1Gi", "maxMemory": "3Gi"}
    ):
        with sessions.browser("hugo") as browser:
            browser.open()
            eat(sessions, "hugo", "time.sleep(600)", most=0.94)
            offer = browser.page.get_by_role("button", name="Give it 2 GiB more")
            offer.wait_for(timeout=90_000)
            words = browser.page.get_by_text(
                re.compile("Your desktop uses 9[0-9] % of its memory")
            ).inner_text()
            assert words.endswith("Give it 2 GiB more?")
            offer.click()
            wait_for_memory(sessions, "hugo", 3)
            offer.wait_for(state="hidden", timeout=10_000)
        assert run_in(
            sessions, "hugo", "grep -la [h]eld.append /proc/[0-9]*/cmdline 2>/dev/null; true"
        ), "the program goes on"
