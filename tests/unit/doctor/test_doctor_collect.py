"""An API server that answers slowly, and one that takes connections and never answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat

import pytest

from support.clock import FakeClock
from vdi.doctor import collect as collector
from vdi.doctor.collect import collect
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.config import ClusterConfig
from vdi.kube.errors import ConnectionFailed
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope

_NOT_FOUND = (
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)
# Durations of the first requests: the first one opens the connection, all later ones take no time.
_REQUEST_SECONDS = (9.0, 0.05, 0.25)


@asynccontextmanager
async def api_server(clock: FakeClock | None) -> AsyncIterator[Client]:
    """Finds nothing, after `_REQUEST_SECONDS` of this clock; None: never answers."""

    seconds = chain(_REQUEST_SECONDS, repeat(0.0))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if clock is None:
                    await reader.read()
                    return
                clock.forward(seconds=next(seconds))
                writer.write(_NOT_FOUND)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Client(
            ClusterConfig(f"http://127.0.0.1:{port}"), field_manager="doctor"
        ) as client:
            yield client


async def test_slowest_small_request_is_measured() -> None:
    clock = FakeClock()
    async with api_server(clock) as client:
        snapshot = await collect(client, Scope("vdi-sessions"), clock)
    assert snapshot.api_seconds == pytest.approx(0.25)


async def test_a_hanging_api_server_is_reported_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector, "_SMALL_REQUEST_SECONDS", 0.2)
    async with api_server(None) as client:
        with pytest.raises(ConnectionFailed, match=r"has not responded for 0\.2 s: it hangs"):
            await collect(client, Scope("vdi-sessions"), SYSTEM_CLOCK)
