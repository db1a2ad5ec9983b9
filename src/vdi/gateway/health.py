"""/healthz, /readyz and /metrics, for the kubelet and Prometheus on the internal listener.

Ready means that this process can serve. Until it has begun, everything that is missing makes it
unready; without any replica that has begun, the page of `database_wait` is served. Later, what all
replicas lack alike (database, Redis, API server) is reported but takes no replica out of service:
open desktops need none of the three, and without any replica Traefik could let no one in at all.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from http import HTTPStatus

from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.database_wait import WAITING
from vdi.gateway.edge.tokens import LEEWAY
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.process import CHALLENGE, MetricsToken, TroubleLog

# Seconds that database and Redis have to respond: less than the kubelet waits for our response.
_PATIENCE = 2.0

# Characters of a server's message in a trouble.
_LONGEST = 300
# Dependencies by the name of their trouble, as the metric names them.
_DEPENDENCIES = {"database": "database", "shared state": "redis", "single sign-on": "oidc"}

log = logging.getLogger(__name__)


class Health(Component):
    """Answers probes and Prometheus, on the internal listener."""

    def __init__(
        self,
        context: GatewayContext,
        problems: Callable[[], Iterable[str]],
        external: Sequence[Callable[[], Awaitable[Sequence[str]]]],
    ) -> None:
        """`problems`: lines that make the process unready; `external`: problems elsewhere, which
        are only logged.
        """
        self._context = context
        self._problems = problems
        self._external = external
        self._token = MetricsToken(context.settings.metrics_token_file)
        # Whether everything was up once: until then no one is let in.
        self.begun = False

    def internal_routes(self) -> Sequence[Route]:
        return (
            Route("/healthz", self._alive),
            Route("/readyz", self._ready),
            Route("/metrics", self._scrape),
        )

    async def all_troubles(self) -> list[str]:
        """Everything that is missing, one line each: in this process, and of what it depends on."""
        troubles = [*self._own(), *[line async for line in self._external_lines()]]
        for problems in self._external:
            troubles.extend(await problems())
        return troubles

    async def run(self) -> None:
        """Log what is missing, repeatedly, and once that it is back."""
        lasting = TroubleLog(log)
        while True:
            troubles = await self.all_troubles()
            names = {trouble.partition(":")[0] for trouble in troubles}
            for name, label in _DEPENDENCIES.items():
                self._context.metrics.dependency_up.labels(label).set(name not in names)
            lasting.note(troubles)
            await asyncio.sleep(TroubleLog.LOOK_SECONDS)

    def _own(self) -> Iterator[str]:
        if self._context.stopping.is_set():
            yield "the gateway is stopping"
        elif not self.begun:
            yield "the gateway has not started yet"
        yield from self._context.cluster.stuck()
        yield from self._problems()

    def _clock(self) -> Iterator[str]:
        # Never makes the process unready: if the API server's clock is the wrong one, all replicas
        # would be.
        there = self._context.client.server_time()
        if there is None:
            ahead = 0.0
        else:
            ahead = (self._context.clock() - there).total_seconds()
        if abs(ahead) > LEEWAY:
            yield (
                f"clock: it is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the API"
                " server's clock. Logins and desktop tokens need clocks that differ by at most"
                f" {LEEWAY:.0f} s. Synchronise the clocks of the nodes (NTP)"
            )

    async def _external_lines(self) -> AsyncIterator[str]:
        for trouble in self._clock():
            yield trouble
        for trouble in self._context.cluster.troubles():
            yield trouble
        checks: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            ("database", self._context.database.check),
            ("shared state", self._context.shared.check),
        )
        for name, check in checks:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await check()
            except TimeoutError:
                yield f"{name}: no response within {_PATIENCE:g} s"
            except (OSError, DatabaseUnavailableError) as error:
                # Each trouble is one line, also of a server that sends a page of text.
                yield f"{name}: {' '.join(str(error).split())[:_LONGEST]}"

    async def _alive(self, _request: Request) -> Response:
        # A response proves that the event loop runs; a task that fails ends the process anyway.
        return PlainTextResponse("ok\n")

    async def _ready(self, _request: Request) -> Response:
        own = list(self._own())
        leant_on = [line async for line in self._external_lines()]
        unready = bool(own) or (bool(leant_on) and not self.begun)
        if unready:
            lines = [*own, *leant_on]
        else:
            lines = ["ok", *(f"but {line}" for line in leant_on)]
        if self._context.database_wait.shows_page and not self._context.stopping.is_set():
            unready, lines = False, [WAITING, *lines]
        return PlainTextResponse("\n".join(lines) + "\n", 503 if unready else 200)

    async def _scrape(self, request: Request) -> Response:
        if refused := self._token.refusal(request.headers.get("authorization", "")):
            status, sentence = refused
            headers = None
            if status == HTTPStatus.UNAUTHORIZED:
                headers = {"WWW-Authenticate": CHALLENGE}
            return PlainTextResponse(f"{sentence}\n", status, headers)
        return Response(
            generate_latest(self._context.metrics.registry), media_type="text/plain; version=0.0.4"
        )
