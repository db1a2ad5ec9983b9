"""The gateway put together: its parts, the ASGI app of each listener, and what runs beside them."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from vdi.api.session import VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.addresses import client_address
from vdi.gateway.api.part import Api
from vdi.gateway.diagnosis import Diagnosis
from vdi.gateway.door import INTERNAL_BODY, PUBLIC_BODY, BodyLimit, Counted, HostDoor
from vdi.gateway.edge.part import Edge
from vdi.gateway.errors import HANDLERS
from vdi.gateway.health import Health
from vdi.gateway.history.part import History
from vdi.gateway.limits import Limits, LimitsError, read_limits
from vdi.gateway.login.part import Login
from vdi.gateway.login.security import SecurityHeaders
from vdi.gateway.metrics import Metrics
from vdi.gateway.parts import Gateway
from vdi.gateway.portal.part import Portal
from vdi.gateway.probing import Prober
from vdi.gateway.settings import Settings
from vdi.gateway.shared import Shared, open_shared
from vdi.gateway.store.audit import Audit, came_from
from vdi.gateway.store.base import Database, DatabaseUnavailableError
from vdi.gateway.world import World
from vdi.kube.config import ClusterConfig
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

FIELD_MANAGER = "vdi-gateway"
_AGAIN = 2.0
"""Seconds between two tries to reach the database at start."""


def now() -> datetime:
    """The machine's own clock, in UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def open_gateway(
    config: ClusterConfig,
    settings: Settings,
    *,
    clock: Callable[[], datetime] = now,
    address: Callable[[VDISession], str] | None = None,
) -> AsyncIterator[tuple[Gateway, Health]]:
    """A gateway that watches and works while the context lasts, whether the cluster and the database answer or not.

    `address`: where a session's desktop is reached; None: its Service.

    Raises LimitsError, DatabaseUrlError or KubeError for what can never work, and what a part failed with. To be
    entered and left by the same task.
    """
    limits = read_limits_file(settings)
    metrics = Metrics()
    database = Database(settings.database_url)
    shared = open_shared(settings.redis_url)
    client = Client(config, field_manager=FIELD_MANAGER, on_request=metrics.count_kube_request)
    try:
        async with client, World(client, settings) as world:
            gateway = assemble(
                settings=settings,
                client=client,
                world=world,
                database=database,
                shared=shared,
                limits=limits,
                metrics=metrics,
                clock=clock,
                address=address,
            )
            health = Health(gateway)
            async with asyncio.TaskGroup() as group:
                work = group.create_task(_work(gateway, health), name="gateway's work")
                try:
                    yield gateway, health
                finally:
                    gateway.stopping.set()
                    world.end_changes()
                    work.cancel()
    finally:
        await shared.close()
        await database.close()


def assemble(
    *,
    settings: Settings,
    client: Client,
    world: World,
    database: Database,
    shared: Shared,
    limits: Limits,
    metrics: Metrics,
    clock: Callable[[], datetime],
    address: Callable[[VDISession], str] | None,
) -> Gateway:
    """All parts, on what they stand on. Nothing of theirs runs yet."""
    of_all: dict[str, Any] = {"settings": settings, "client": client, "metrics": metrics, "clock": clock}
    audit = Audit(database, clock)
    history = History(database=database, world=world, **of_all)
    login = Login(settings, client, database, shared, clock)
    edge = Edge(**of_all, world=world, shared=shared, database=database, logins=login.logins, address=address)
    login.on_ended = lambda login_id: edge.end_grants(login_id=login_id)
    return Gateway(
        **of_all,
        world=world,
        shared=shared,
        limits=limits,
        actions=Actions(**of_all, world=world, shared=shared, limits=limits, usage=history, audit=audit),
        database=database,
        audit=audit,
        history=history,
        login=login,
        edge=edge,
        portal=Portal(world),
        api=Api(settings),
        diagnosis=Diagnosis(settings, client, metrics.registry),
        prober=Prober(client=client, world=world, shared=shared, tickets=edge, metrics=metrics, clock=clock),
    )


def read_limits_file(settings: Settings) -> Limits:
    """The limits; none without a file. Raises LimitsError."""
    if settings.limits_file is None:
        return Limits()
    try:
        text = settings.limits_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise LimitsError(f"VDI_LIMITS_FILE={str(settings.limits_file)!r}: {why}") from error
    return read_limits(text, str(settings.limits_file))


async def _work(gateway: Gateway, health: Health) -> None:
    """Wait for what everybody stands on, then let people in and run the parts."""
    await _upgrade(gateway.database)
    await gateway.world.wait_synced()
    health.begun = True
    log.info(
        "serving %s, %d sessions in %s",
        gateway.settings.portal_url,
        len(gateway.world.sessions),
        gateway.settings.namespace,
    )
    async with asyncio.TaskGroup() as group:
        for part in (health, *gateway.parts):
            group.create_task(part.run(), name=type(part).__name__)


async def _upgrade(database: Database) -> None:
    said = ""
    while True:
        try:
            await database.upgrade()
            return
        except DatabaseUnavailableError as error:
            if str(error) != said:
                said = str(error)
                log.warning("waiting for the database: %s", said)
            await asyncio.sleep(_AGAIN)


def build_public(gateway: Gateway, health: Health) -> ASGIApp:
    """What Traefik speaks to: the portal and the desktops' hosts."""
    settings = gateway.settings
    portal = _app(gateway, [route for part in gateway.parts for route in part.portal_routes()])
    desktops = _app(gateway, [route for part in gateway.parts for route in part.desktop_routes()])
    by_host = HostDoor(settings, portal=portal, desktops=desktops, ready=lambda: health.begun)
    app = SecurityHeaders(BodyLimit(by_host, PUBLIC_BODY), settings)
    return Counted(_FromWhere(app, settings), gateway.metrics, "public")


def build_internal(gateway: Gateway, health: Health) -> ASGIApp:
    """What Traefik's forwardAuth, the operator, the kubelet and Prometheus speak to."""
    routes = [route for part in (health, *gateway.parts) for route in part.internal_routes()]
    return Counted(
        _FromWhere(BodyLimit(_app(gateway, routes), INTERNAL_BODY), gateway.settings), gateway.metrics, "internal"
    )


def _app(gateway: Gateway, routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    app.router.redirect_slashes = False  # what is not there is not looked for elsewhere
    app.state.gateway = gateway
    return app


class _FromWhere:
    """Tells the audit the browser's address."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._trusted = settings.trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; each has a context of its own."""
        came_from.set(client_address(HTTPConnection(scope), self._trusted))
        await self._app(scope, receive, send)
