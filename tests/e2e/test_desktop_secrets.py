"""A desktop's user learns neither of its tokens, though their programs have the uid of the
processes that see them.
"""

import json
from pathlib import Path

import pytest

from e2e.desktops import (
    ask_agent,
    live_pod_of,
    pod_of,
    pool,
    reach,
    run_in,
    start,
    started,
    template,
    token_of,
    uid_of,
    wait_for_pool,
)
from e2e.world import World
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

_LOOK = Path(__file__).with_name("look_for_secrets.py").read_text()
# What a person at the desktop runs who is after the requests, with tokens in them, that come to a
# port.
_TAKE_PORT = """
import signal, socket, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
open("/dev/shm/tries", "w").close()
while True:
    for address in ("127.0.0.1", "0.0.0.0", "::1", "::"):
        try:
            listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if ":" in address:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address, int(sys.argv[1])))
            listener.listen()
            open("/dev/shm/taken", "w").write(address)
            listener.settimeout(2)
            open("/dev/shm/heard", "wb").write(listener.accept()[0].recv(4096))
        except OSError:
            pass
        listener.close()
    time.sleep(0.001)
"""


def assert_nothing_to_learn(world: World, name: str) -> None:
    keys = {"the master token": "password", "the agent's token": "agentToken"}
    known = json.dumps({said: token_of(world, name, key) for said, key in keys.items()})
    pod = live_pod_of(world, name)["metadata"]["name"]
    seen = json.loads(world.kubectl("exec", "-i", pod, "--", "python3", "-c", _LOOK, stdin=known))
    assert seen["found"] == []
    closed = {"environ": True, "mem": True, "fd": True, "ptrace": True}
    assert seen["closed"] == dict.fromkeys(("vdi-desktop", "selkies", "vdi-agent"), closed)


def restarts(world: World, name: str) -> int:
    pod = pod_of(world, name) or {}
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return int(statuses[0]["restartCount"]) if statuses else 0


def take_port(world: World, name: str, port: int) -> None:
    """A program of the desktop's user tries to listen on this port, again and again."""
    run_in(world, name, f"setsid python3 -c '{_TAKE_PORT}' {port} </dev/null >/dev/null 2>&1 &")
    wait_until("somebody is after the port", lambda: "tries" in run_in(world, name, "ls /dev/shm"))


def test_user_programs_cannot_read_tokens(sessions: World) -> None:
    start(sessions, "tina", "small")
    assert_nothing_to_learn(sessions, "tina")
    with sessions.browser("tina") as browser:
        browser.open()
        assert ask_agent(sessions, "tina")["viewers"] == 1
    assert_nothing_to_learn(sessions, "tina")


@pytest.mark.long
def test_killed_agent_keeps_its_port_and_secrets(sessions: World) -> None:
    with started(sessions, "theo", persistence={"enabled": False}):
        take_port(sessions, "theo", 8082)
        first = run_in(sessions, "theo", "pgrep -f [b]in/vdi-agent").split()
        run_in(sessions, "theo", f"kill -9 {first[0]}")

        def answers_again() -> bool:
            now = run_in(sessions, "theo", "pgrep -f [b]in/vdi-agent || true").split()
            return bool(now) and now != first and ask_agent(sessions, "theo")["viewers"] == 0

        wait_until("the next agent answers", answers_again)
        assert "taken" not in run_in(sessions, "theo", "ls /dev/shm")
        run_in(sessions, "theo", "pkill -9 -f [d]ev/shm/tries || true")
        assert_nothing_to_learn(sessions, "theo")


@pytest.mark.long
def test_restarted_container_keeps_its_port(sessions: World) -> None:
    with started(sessions, "tom", persistence={"enabled": False}):
        take_port(sessions, "tom", 8080)
        pod = uid_of(sessions, "tom")
        run_in(sessions, "tom", "kill -9 $(pgrep -f '[r]un-selkies|[s]elkies.__main__' | head -1)")
        wait_until("the container restarts", lambda: restarts(sessions, "tom") == 1)
        reach(sessions, "tom", "Running")
        wait_until(
            "it answers",
            lambda: run_in(sessions, "tom", "curl -fs localhost:8080/api/health || true"),
        )
        assert "taken" not in run_in(sessions, "tom", "ls /dev/shm")
        assert_nothing_to_learn(sessions, "tom")
        with sessions.browser("tom") as browser:
            browser.open()
            assert ask_agent(sessions, "tom")["viewers"] == 1
        assert uid_of(sessions, "tom") == pod


@pytest.mark.long
def test_pool_desktop_programs_cannot_read_tokens(sessions: World) -> None:
    with (
        template(sessions, "watched", persistence={"enabled": False}) as name,
        pool(sessions, name),
    ):
        wait_for_pool(sessions, name)
        start(sessions, "tess", name)
        assert "vdi.kasm.io/pool" in live_pod_of(sessions, "tess")["metadata"]["annotations"]
        assert_nothing_to_learn(sessions, "tess")
        assert ask_agent(sessions, "tess")["viewers"] == 0
        with sessions.browser("tess") as browser:
            browser.open()
