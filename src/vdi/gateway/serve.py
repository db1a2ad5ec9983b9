"""The gateway as a process: two listeners, one event loop, and an end within seconds whatever browsers hold open."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator

import uvicorn

from vdi.gateway.app import build_internal, build_public, open_gateway
from vdi.gateway.settings import Settings
from vdi.gateway.web.connection import Connection
from vdi.kube.config import ClusterConfig

log = logging.getLogger(__name__)

_GRACE = 2
"""Seconds that answers under way may take after SIGTERM. Streams of events end themselves at once."""
_KEEP_ALIVE = 120
"""Longer than Traefik keeps an idle connection (90 s): so it never uses one that is just being closed."""
_MOST = 4096
"""Connections at a time; each is a browser that waits, or one of Traefik's."""

OnListening = Callable[[int, int], None]
"""Called with the public and the internal port, once both are open."""


async def run_gateway(
    config: ClusterConfig, settings: Settings, *, stop: asyncio.Event, on_listening: OnListening | None = None
) -> None:
    """Serve until `stop` is set.

    Raises OSError when a port is taken, LimitsError, PricesError, DatabaseUrlError or KubeError for what can never
    work. A cluster or a database that is out of reach is waited for, and /readyz says so.
    """
    with (
        listen(settings.public_addr, "VDI_PUBLIC_ADDR") as public,
        listen(settings.internal_addr, "VDI_INTERNAL_ADDR") as internal,
    ):
        async with open_gateway(config, settings) as gateway:
            servers = {
                _Server(_config(build_public(gateway.context, gateway.components, gateway.health))): public,
                _Server(_config(build_internal(gateway.context, gateway.components, gateway.health))): internal,
            }
            ports = [listener.getsockname()[1] for listener in (public, internal)]
            log.info("listening on port %d for the public, on port %d for the cluster", *ports)
            if on_listening:
                on_listening(*ports)
            async with asyncio.TaskGroup() as group:
                for server, where in servers.items():
                    group.create_task(server.serve([where]))
                await stop.wait()
                gateway.stop()
                for server in servers:
                    server.should_exit = True
    log.info("stopped")


def run_process(config: ClusterConfig, settings: Settings) -> None:
    """The whole life of a gateway process, on uvloop."""
    import uvloop

    from vdi.operator.main import stop_on_signals

    async def life() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await run_gateway(config, settings, stop=stop)

    uvloop.run(life())


class _Server(uvicorn.Server):
    """One of several in a process: signals are for the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        limit_concurrency=_MOST,
    )


@contextlib.contextmanager
def listen(address: tuple[str, int], variable: str) -> Iterator[socket.socket]:
    """A socket on which connections can queue already. Raises OSError, which names the setting."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        one = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as why:
        raise OSError(f"{variable}={host}:{port}: cannot listen there: {why.strerror or why}") from why
    with one:
        one.setblocking(False)
        yield one
