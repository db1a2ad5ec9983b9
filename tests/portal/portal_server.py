"""A portal that a real browser can open: a PortalStage behind TLS on loopback, in a thread of its
own.
"""

import asyncio
import datetime
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn

from support.certificates import self_signed
from unit.gateway.portal_stage import PortalStage
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.limits import Limits
from vdi.gateway.settings import Settings

T = TypeVar("T")
SECONDS = 10.0


class Server:
    """The stage while it is served. Its world belongs to the server's thread: change it within
    `do`.
    """

    def __init__(
        self,
        stage: PortalStage,
        loop: asyncio.AbstractEventLoop,
        port: int,
        uvicorn_server: uvicorn.Server,
    ) -> None:
        self.stage = stage
        self.port = port
        self._loop = loop
        self._uvicorn = uvicorn_server

    @property
    def url(self) -> str:
        return self.stage.settings.portal_url

    def do(self, work: Callable[[], T]) -> T:
        """Run this where the portal runs."""

        async def in_loop() -> T:
            return work()

        return self.run(in_loop())

    def put(self, *objects: VDISession | VDITemplate) -> None:
        """Put objects into the world."""
        self.do(lambda: self.stage.put(*objects))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Await this where the portal runs."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def break_connections(self) -> None:
        """Cut what browsers have open now, as a proxy that restarts does. To be called within
        `do`.
        """
        for connection in [*self._uvicorn.server_state.connections]:
            connection.transport.abort()


@contextmanager
def serve(
    folder: Path,
    *,
    limits: Limits | None = None,
    now: datetime.datetime | None = None,
    domain: str = "",
) -> Iterator[Server]:
    """A portal at https://portal.vdi.localhost:PORT, where PORT is free; its certificate is not
    trusted.

    With `domain` it takes itself for one at the usual port of that domain; see
    `portal_browser.chromium`.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    settings = Settings(domain=domain) if domain else Settings(url_port=port)
    stage = PortalStage(
        limits=limits, settings=settings, now=now or datetime.datetime.now(datetime.UTC)
    )
    certificate, key = _certificate(folder)
    server = uvicorn.Server(
        uvicorn.Config(
            stage.public,
            ssl_certfile=str(certificate),
            ssl_keyfile=str(key),
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        ready.set()
        await server.serve([listener])
        # Not sooner: a request that is still being answered would open another connection, which no
        # one closes.
        await stage.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    if not ready.wait(SECONDS):
        raise TimeoutError("the portal did not start")
    try:
        yield Server(stage, loops[0], port, server)
    finally:
        loops[0].call_soon_threadsafe(stage.gateway.stop)
        server.should_exit = True
        thread.join(SECONDS)
        listener.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    certificate, key = self_signed("*.vdi.localhost", days=1, address="127.0.0.1")
    made = folder / "portal.crt", folder / "portal.key"
    made[0].write_text(certificate)
    made[1].write_text(key)
    return made
