"""Clients without a login who send much and read nothing, before a gateway in a process of its
own.
"""

import json
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from support.variants import first_of
from support.waiting import PATIENCE
from vdi.gateway.app import PUBLIC_BYTES
from vdi.gateway.memory_budget import CONNECTION_BYTES
from vdi.gateway.web.connection import FREE_BYTES, UNREAD_BYTES
from vdi.gateway.web.credentials import LOGIN_COOKIE

HOST = b"Host: portal.vdi.localhost\r\n"
FORM = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
LOGIN = b"POST /login HTTP/1.1\r\n" + HOST + FORM
PAGE = b"GET /login HTTP/1.1\r\n" + HOST
FILE = b"GET /static/vendor/htmx.min.js HTTP/1.1\r\n" + HOST
# Killed the gateway within 2 s.
THE_FIRST = "a form that does not end"
# What each connection sends.
FLOODS = {
    THE_FIRST: LOGIN % 65_000 + b"x" * 63_000,
    "a form that is allowed and does not end": LOGIN % 4096 + b"x" * 4000,
    "a form after a head of 30 KiB": (
        LOGIN.replace(HOST, HOST + b"X: " + b"a" * 30_000 + b"\r\n") % 4096 + b"x" * 4000
    ),
    "a head that does not end": PAGE + b"X: " + b"a" * 30_000,
    "a page, then nothing": PAGE + b"X: " + b"a" * 30_000 + b"\r\n\r\n",
    "thousands of short headers": PAGE + b"a:b\r\n" * 5900 + b"\r\n",
    "thousands of requests": 1000 * (PAGE + b"\r\n"),
    "a page with a body that no one takes": PAGE + FORM % 250_000 + b"x" * 249_000,
    "a file that is not read": FILE + b"\r\n",
    "a piece of a body with a long name": (
        LOGIN.partition(b"Content-Length")[0]
        + b"Transfer-Encoding: chunked\r\n\r\n1;"
        + b"x" * 60_000
    ),
}


@dataclass
class Flooded:
    """The gateway's process."""

    pid: int
    port: int
    cookie: str
    # Bytes that it had in memory before all attacks.
    before: int = 0

    @property
    def peak(self) -> int:
        """The most bytes that it has had in memory since `forget_peak`."""
        (line,) = [
            line
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
            if "VmHWM" in line
        ]
        return int(line.split()[1]) * 1024

    def forget_peak(self) -> None:
        """Linux: the peak is what is in memory now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def page(self) -> httpx.Response:
        """Alice's portal."""
        headers = {"Host": "portal.vdi.localhost", "Cookie": f"{LOGIN_COOKIE}={self.cookie}"}
        return httpx.get(f"http://127.0.0.1:{self.port}/", headers=headers, timeout=PATIENCE)


@pytest.fixture(scope="module")
def flooded() -> Iterator[Flooded]:
    tests = Path(__file__).parents[2]
    program = [sys.executable, "-m", "unit.gateway.flooded_gateway"]
    with subprocess.Popen(program, cwd=tests, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            gateway = Flooded(process.pid, *json.loads(process.stdout.readline()))
            assert gateway.page().status_code == 200
            gateway.before = gateway.peak
            yield gateway
        finally:
            process.kill()


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(180)  # seconds on a machine with nothing else to do: thousands of connections
@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("flood", first_of(FLOODS))
def test_what_clients_send_stays_within_the_budget(flooded: Flooded, flood: str) -> None:
    flooded.forget_peak()
    connections = 3300 if flood == THE_FIRST else 1200
    with ExitStack() as stack:
        for _ in range(connections):
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", flooded.port), PATIENCE)
            )
            client.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):  # its buffer is full, or it is refused
                client.send(FLOODS[flood])
        assert flooded.page().status_code == 200
        grown = flooded.peak - flooded.before
    assert grown < PUBLIC_BYTES + connections * (CONNECTION_BYTES + FREE_BYTES + UNREAD_BYTES), (
        f"{grown:,} bytes"
    )
    assert flooded.page().status_code == 200
