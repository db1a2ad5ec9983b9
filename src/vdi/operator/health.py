"""/healthz, /readyz and /metrics, which tell the truth: ready means that the operator sees the cluster as it is now."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import generate_latest

from vdi.kube.clock import Clock
from vdi.kube.lease import Elector
from vdi.operator.caches import Caches
from vdi.operator.metrics import Metrics

STALE = 150.0
"""Seconds without a word from the API server (a silent watch is opened anew after 90) until a cache is not believed."""


class Health:
    """Answers probes and Prometheus."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._caches: Caches | None = None
        self._elector: Elector | None = None

    def look_at(self, caches: Caches, elector: Elector) -> None:
        """Tell of these from now on."""
        self._caches, self._elector = caches, elector

    def troubles(self) -> Iterator[str]:
        """Why the operator is not ready, one line each; none when it is, be it to work or to take over at once."""
        if self._caches is None or self._elector is None:
            yield "the operator has not begun yet"
            return
        yield from self._caches.troubles()
        for reflector in self._caches.reflectors:
            contact = reflector.last_contact
            if contact is not None and (silence := self._clock.monotonic() - contact) > STALE:
                yield f"{reflector.resource.plural}: nothing heard from the API server for {silence:.0f} s"
        if self._elector.last_error is not None:
            yield f"leases: {self._elector.last_error}"

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[int]:
        """Serve while the context lasts, on a free port when `port` is 0; gives the port. Raises OSError."""
        app = web.Application()
        app.add_routes(
            [web.get("/healthz", self._alive), web.get("/readyz", self._ready), web.get("/metrics", self._scrape)]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            await site.start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    async def _alive(self, _request: web.Request) -> web.Response:
        """This answer proves that the event loop turns; a task that dies takes the process with it."""
        return web.Response(text="ok\n")

    async def _ready(self, _request: web.Request) -> web.Response:
        troubles = list(self.troubles())
        return web.Response(status=503 if troubles else 200, text="\n".join(troubles or ["ok"]) + "\n")

    async def _scrape(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
