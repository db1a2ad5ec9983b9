"""`vdi session open --direct` on a real node: past Traefik, while the owner has the desktop open
behind the gateway.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from e2e.desktops import start
from e2e.world import World
from vdi.demo.browser import NoPictureError

pytestmark = pytest.mark.timeout(240)

NAME = "direct"


@contextmanager
def opened(world: World) -> Iterator[str]:
    """The command, until it is interrupted; its address."""
    words = [sys.executable, "-m", "vdi", "session", "open", NAME, "--direct", "-o", "json"]
    env = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        killer = threading.Timer(120, process.kill)
        killer.start()
        try:
            assert process.stdout and process.stderr
            printed = "".join(iter(process.stdout.readline, "}\n")) + "}"
            yield json.loads(printed)["url"]
            process.send_signal(signal.SIGINT)
            assert (process.wait(), process.stderr.read()) == (130, "")
        finally:
            killer.cancel()
            process.kill()


def is_open(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) == 0


@pytest.mark.long
def test_direct_connection_leaves_the_owner_connected(sessions: World) -> None:
    start(sessions, NAME, "small")
    with sessions.browser(NAME) as alice:
        alice.log_in()
        alice.open()
        with opened(sessions) as url, alice.beside(None) as direct, alice.beside(None) as stranger:
            direct.url, stranger.url = url, url.partition("#")[0]
            direct.open()
            before = alice.picture()
            direct.open_terminal()
            alice.wait_for_change(before, pixels=20_000)
            with pytest.raises(NoPictureError):
                stranger.open(timeout_s=8)
        assert not is_open(url)
        before = alice.picture()
        alice.type("seq 1 200\n")
        alice.wait_for_change(before, pixels=2_000)
