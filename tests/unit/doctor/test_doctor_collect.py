"""An API server that answers slowly, and one that takes connections and never answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, repeat

import pytest

from support.clock import FakeClock
from unit.doctor.doctor_builders import POD, SPACE, Cluster, meta_of, ready_condition
from unit.doctor.doctor_server import ApiServer
from vdi.doctor import collect as collector
from vdi.doctor.collect import collect
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.config import ClusterConfig
from vdi.kube.errors import ConnectionFailed
from vdi.kube.transport import Client
from vdi.snapshot.model import Scope, ServiceAttempt

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


@asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A port of 127.0.0.1 that accepts connections."""
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0
    ) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("ready", ["11:59:20", "11:59:50"], ids=["settled", "just ready"])
async def test_service_of_the_newest_pod_is_tried(ready: str, inside: bool) -> None:
    """Not a desktop's, which has no address."""
    cluster = Cluster(1)
    async with listening() as port:
        for name, labels in (
            ("gateway", {"app.kubernetes.io/name": "vdi"}),
            ("dns", {"k8s-app": "kube-dns"}),
        ):
            pod = cluster.add_pod(f"{name}-1", "kube-system", labels=labels)
            ready_condition(pod)["lastTransitionTime"] = "2026-11-20T11:00:00Z"
            # Nothing listens at the Service's own address.
            spec = {"clusterIP": "127.0.0.2", "ports": [{"port": port}], "selector": labels}
            service = cluster.add("services", meta_of("kube-system", name), spec=spec)
            service["metadata"]["labels"] = labels
            cluster.add_slice("kube-system", name, ("http", port))
            cluster.one("endpointslices", f"{name}-x")["endpoints"][0]["addresses"] = ["127.0.0.1"]
        newest = ready_condition(cluster.one("pods", "gateway-1"))
        newest["lastTransitionTime"] = f"2026-11-20T{ready}Z"
        address = "127.0.0.1" if inside else "127.0.0.2"
        spec = {"clusterIP": address, "ports": [{"port": port}]}
        cluster.add("services", meta_of("default", "kubernetes"), spec=spec)
        server = ApiServer(cluster)
        async with server.client() as client:
            snapshot = await collect(client, Scope(SPACE), FakeClock())
    name = "gateway" if ready == "11:59:20" else "dns"
    expected = None
    if inside:
        expected = ServiceAttempt(service=f"service/kube-system/{name}", pod=True, address=False)
    assert snapshot.service_attempt == expected
    assert sum("labelSelector" in path for path in server.requests) == 1, "one Service is tried"


async def test_log_that_does_not_come_leaves_the_error() -> None:
    cluster = Cluster()
    server = ApiServer(cluster)
    server.log_error = 'Get "https://192.0.2.1:10250/containerLogs": connection refused'
    async with server.client() as client:
        snapshot = await collect(client, Scope(SPACE), FakeClock())
    assert snapshot.log_errors[f"kasm/{POD}"] == server.log_error
    assert snapshot.logs == {} and snapshot.unread == ()
