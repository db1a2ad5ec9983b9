"""/healthz, /readyz and /metrics, which tell the truth: ready means that the operator sees the cluster as it is now."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager

from prometheus_client import generate_latest

from vdi.kube.clock import Clock
from vdi.kube.lease import Elector
from vdi.operator.caches import Caches
from vdi.operator.http_server import TEXT, serve_pages
from vdi.operator.metrics import Metrics
from vdi.operator.metrics_token import MetricsToken
from vdi.operator.release_keys import ReleaseKey

STALE = 150.0
"""Seconds without data from the API server after which a cache counts as stale; a silent watch is reopened after 90."""


class Health:
    """Answers probes and Prometheus."""

    def __init__(self, metrics: Metrics, clock: Clock, token: MetricsToken) -> None:
        self._metrics = metrics
        self._token = token
        self._clock = clock
        self._caches: Caches | None = None
        self._elector: Elector | None = None
        self._keys: Sequence[ReleaseKey] = ()

    def watch(self, caches: Caches, elector: Elector, keys: Sequence[ReleaseKey]) -> None:
        """Tell of these from now on."""
        self._caches, self._elector, self._keys = caches, elector, keys

    def troubles(self) -> Iterator[str]:
        """Why the operator is not ready, one line each; none when it is, be it to work or to take over at once."""
        if self._caches is None or self._elector is None:
            yield "the operator has not started yet"
            return
        yield from self._caches.troubles()
        for reflector in self._caches.reflectors:
            contact = reflector.last_contact
            if contact is not None and (silence := self._clock.monotonic() - contact) > STALE:
                yield f"{reflector.resource.plural}: no message from the API server for {silence:.0f} s"
        if self._elector.last_error is not None:
            yield f"leases: {self._elector.last_error}"
        yield from (key.problem for key in self._keys if key.problem)

    def serve(self, host: str, port: int) -> AbstractAsyncContextManager[int]:
        """Serve while the context lasts, on a free port when `port` is 0; gives the port. Raises OSError."""
        pages = {"/healthz": self._alive, "/readyz": self._ready, "/metrics": self._scrape}
        return serve_pages(pages, host, port)

    def _alive(self, _authorization: str) -> tuple[int, str, bytes]:
        """This answer proves that the event loop turns; a task that dies takes the process with it."""
        return 200, TEXT, b"ok\n"

    def _ready(self, _authorization: str) -> tuple[int, str, bytes]:
        troubles = list(self.troubles())
        return 503 if troubles else 200, TEXT, ("\n".join(troubles or ["ok"]) + "\n").encode()

    def _scrape(self, authorization: str) -> tuple[int, str, bytes]:
        if refused := self._token.refusal(authorization):
            status, sentence = refused
            return status, TEXT, f"{sentence}\n".encode()
        return 200, "text/plain; version=0.0.4; charset=utf-8", generate_latest(self._metrics.registry)
