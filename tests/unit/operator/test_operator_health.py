"""Answers of /healthz, /readyz and /metrics, to well-behaved and to hostile clients."""

import asyncio
import gc
import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.clock import FakeClock
from support.metrics_token import TOKEN, token_file
from support.variants import first_of
from support.waiting import PATIENCE
from vdi.kube.errors import ConnectionFailed, Forbidden
from vdi.kube.resource import LEASES, PODS
from vdi.operator import health
from vdi.operator.caches import Caches
from vdi.operator.health import STALE, Health
from vdi.operator.metrics import Metrics
from vdi.process import MetricsToken

FORBIDDEN = Forbidden(
    403, "Forbidden", "pods is forbidden: cannot watch", request="WATCH /api/v1/pods"
)


class Sight:
    """Health and metrics over stand-ins of the caches and the elector."""

    def __init__(self, token: Path) -> None:
        self.clock = FakeClock()
        self.reflector = SimpleNamespace(
            resource=PODS,
            synced=True,
            last_error=None,
            last_contact=self.clock.monotonic(),
            store=[1, 2],
        )
        self.elector: Any = SimpleNamespace(last_error=None, leads=False, age=None)
        self.host_key: Any = SimpleNamespace(problem="")
        self.metrics = Metrics()
        self.health = Health(self.metrics, self.clock, MetricsToken(token))

    def begin(self) -> None:
        caches: Any = SimpleNamespace(reflectors=(self.reflector,))
        caches.troubles = lambda: Caches.troubles(caches)
        self.health.watch(caches, self.elector, (self.host_key,))
        self.metrics.watch_lease(self.elector)
        self.metrics.watch_caches(caches.reflectors)


@pytest.fixture
def sight(tmp_path: Path) -> Sight:
    sight = Sight(token_file(tmp_path))
    sight.begin()
    return sight


async def ask(sight: Sight, request: bytes) -> tuple[int, bytes]:
    """Send bytes, read until the end; gives status and body."""
    async with sight.health.serve("127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for byte in (request[:5], request[5:]):
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"Content-Length: " in head and not request.startswith(b"HEAD"):
        assert int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]) == len(body)
    return int(head.split(b" ")[1]), body


def get(path: str, method: str = "GET", authorization: str = "") -> bytes:
    more = f"aUTHORIZATION:  {authorization}\r\n" if authorization else ""
    return f"{method} {path} HTTP/1.1\r\nHost: here\r\n{more}\r\n".encode()


SCRAPE = get("/metrics", authorization=f"bearer {TOKEN}")


async def test_not_ready_before_it_has_begun_but_alive(tmp_path: Path) -> None:
    sight = Sight(token_file(tmp_path))
    assert await ask(sight, get("/readyz")) == (503, b"the operator has not started yet\n")
    assert await ask(sight, get("/healthz")) == (200, b"ok\n")
    assert await ask(sight, get("/healthz", "HEAD")) == (200, b"")


async def test_standby_is_ready_until_a_watch_is_stuck(sight: Sight) -> None:
    assert await ask(sight, get("/readyz")) == (200, b"ok\n")
    await sight.clock.advance(STALE + 1)
    assert await ask(sight, get("/readyz")) == (
        503,
        b"pods: no message from the API server for 151 s\n",
    )


async def test_readyz_names_each_refusal(sight: Sight) -> None:
    sight.reflector.last_error = FORBIDDEN
    sight.elector.last_error = ConnectionFailed("https://api", f"GET {LEASES.plural}", "refused")
    sight.host_key.problem = "the Secret a/vdi-host-key cannot be read"
    status, body = await ask(sight, get("/readyz?verbose"))
    assert status == 503
    assert body.decode().splitlines() == [
        "pods: WATCH /api/v1/pods: pods is forbidden: cannot watch (403 Forbidden)",
        "leases: no response from the API server https://api to GET leases: refused",
        "keys: the Secret a/vdi-host-key cannot be read",
    ]


async def test_metrics_have_the_leader_and_the_caches(sight: Sight) -> None:
    sight.metrics.watch_sessions(list)
    text = (await ask(sight, SCRAPE))[1].decode()
    assert "vdi_leader 0.0" in text
    assert "vdi_lease_age_seconds" not in text
    assert 'vdi_cache_objects{kind="pods"} 2.0' in text
    assert "vdi_sessions{" not in text, "only the leader counts sessions, or they are counted twice"
    sight.elector.leads, sight.elector.age = True, 1.5
    text = (await ask(sight, SCRAPE))[1].decode()
    assert "vdi_leader 1.0" in text
    assert "vdi_lease_age_seconds 1.5" in text
    assert 'vdi_sessions{phase="Running"} 0.0' in text


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xff",
    ],
)
async def test_metrics_need_the_token_and_probes_need_none(
    sight: Sight, authorization: str
) -> None:
    for method in ("GET", "HEAD"):
        status, body = await ask(sight, get("/metrics", method, authorization))
        assert status == 401
        expected = b"/metrics needs `Authorization: Bearer TOKEN`: see docs/monitoring.md\n"
        assert body == (expected if method == "GET" else b"")
    for path in ("/healthz", "/readyz"):
        assert (await ask(sight, get(path, authorization=authorization)))[0] == 200


@pytest.mark.parametrize("content", [None, "", "\n"])
async def test_metrics_without_a_token_file_are_refused(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    sight = Sight(file)
    for request in (get("/metrics"), get("/metrics", authorization="Bearer"), SCRAPE):
        assert (await ask(sight, request))[0] == 503
    assert [
        record.getMessage().partition(f"{file}: ")[0]
        for record in caplog.records
        if "/metrics" in record.message
    ] == ["no one can read /metrics: VDI_METRICS_TOKEN_FILE="]
    token_file(tmp_path).rename(file)
    assert (await ask(sight, SCRAPE))[0] == 200, "it is read again each time"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/"), 404),
        (get("/healthz/"), 404),
        (get("/healthz", "POST"), 405),
        (b"\x16\x03\x01\x02\x00 not HTTP at all\r\n\r\n", 404),
        (b"GET /" + b"a" * health.LONGEST_REQUEST, 431),
    ],
)
async def test_malformed_request_is_refused_with_a_sentence(
    sight: Sight, request_: bytes, status: int
) -> None:
    answered, body = await ask(sight, request_)
    assert answered == status
    assert body.endswith(b"\n")


async def test_silent_connection_is_cut_after_the_timeout(
    sight: Sight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REQUEST_TIMEOUT", 0.02)
    async with sight.health.serve("127.0.0.1", 0) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /heal")
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


async def test_shutdown_does_not_wait_for_connections(sight: Sight) -> None:
    async with sight.health.serve("127.0.0.1", 0) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /heal")
        await writer.drain()
    writer.close()
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("turns", first_of(range(6)))
def test_connection_during_shutdown_is_cut(sight: Sight, turns: int) -> None:
    """Also one that is accepted already, and made after the others have been cut."""

    async def connect_and_end() -> socket.socket:
        async with sight.health.serve("127.0.0.1", 0) as port:
            client = socket.create_connection(("127.0.0.1", port), timeout=5)
            for _ in range(turns):
                await asyncio.sleep(0)
        return client

    with asyncio.run(connect_and_end()) as client, suppress(ConnectionResetError):
        assert client.recv(1) == b""
    gc.collect()  # a connection that was left open warns, which is an error


async def test_occupied_port_is_an_error(sight: Sight) -> None:
    async with sight.health.serve("127.0.0.1", 0) as port:
        with pytest.raises(OSError, match="address already in use"):
            async with sight.health.serve("127.0.0.1", port):
                pass
