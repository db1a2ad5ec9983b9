"""Connections to `vdi-agent` before a token: few threads, and room for those that have one."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

from support.waiting import wait_until
from unit.images.image_scripts import port_of, serve_agent

MOST = 16


class Desktop:
    """An agent whose report is ready once it is `released`."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()
        self.port = 0

    def report(self) -> dict[str, int]:
        self.asked.set()
        assert self.released.wait(60)
        return {"viewers": 1}

    def ask(self, token: str = "secret") -> int:
        with contextlib.closing(HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request("GET", "/activity", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status


@pytest.fixture
def desktop() -> Iterator[Desktop]:
    desktop = Desktop()
    with serve_agent(activity=desktop) as server:
        desktop.port = port_of(server)
        yield desktop


@pytest.mark.timeout(120)
def test_connections_without_a_token_take_few_threads(desktop: Desktop) -> None:
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as opened:
        known = pool.submit(desktop.ask)
        assert desktop.asked.wait(60)
        before = threading.active_count()
        for _ in range(200):
            stranger = opened.enter_context(socket.create_connection(("127.0.0.1", desktop.port)))
            stranger.sendall(b"GET /activity HTTP/1.1\r\n")
        assert desktop.ask("wrong") == 401
        assert threading.active_count() <= before + MOST + 1
        desktop.released.set()
        assert known.result(60) == 200, "a connection that has shown its token stays"
        assert desktop.ask() == 200


@pytest.mark.timeout(120)
def test_room_is_free_again_when_strangers_leave(desktop: Desktop) -> None:
    before = threading.active_count()
    for _ in range(3 * MOST):
        assert desktop.ask("wrong") == 401
    wait_until("their threads have ended", lambda: threading.active_count() <= before, 60)
