"""The gateway's wiring: its components, the ASGI app of each listener, and background work."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from vdi.api.session import VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.addresses import client_address
from vdi.gateway.api.component import Api
from vdi.gateway.api.services import ApiServices
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.component import Component
from vdi.gateway.context import GatewayContext
from vdi.gateway.desktop_agent import DesktopAgent
from vdi.gateway.diagnosis import Diagnosis
from vdi.gateway.doctor_runs import DoctorRunner
from vdi.gateway.edge.component import Edge
from vdi.gateway.gpu_slots import GpuSlots
from vdi.gateway.health import Health
from vdi.gateway.history.component import History
from vdi.gateway.homes_ahead import HomesAhead
from vdi.gateway.limits import Limits, LimitsError, read_limits
from vdi.gateway.login.component import Login
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.login.passwords import Passwords
from vdi.gateway.login.sign_out import SignOut
from vdi.gateway.metrics import Metrics
from vdi.gateway.portal.component import Portal
from vdi.gateway.portal.services import PortalServices
from vdi.gateway.portal.subscriptions import Subscriptions
from vdi.gateway.probing import Prober
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import open_shared_state
from vdi.gateway.starting import QuotaGuard
from vdi.gateway.startup_scripts import StartupScripts
from vdi.gateway.store.audit import Audit, came_from
from vdi.gateway.store.base import Database, DatabaseUnavailableError
from vdi.gateway.store.migrations import upgrade
from vdi.gateway.thumbnails import Thumbnails
from vdi.gateway.web.errors import ErrorPages
from vdi.gateway.web.middleware import INTERNAL_BODY, PUBLIC_BODY, BodyLimit, HostRouter, RequestMetrics
from vdi.gateway.web.security_headers import SecurityHeaders
from vdi.kube.config import ClusterConfig
from vdi.kube.transport import Client
from vdi.version import user_agent

log = logging.getLogger(__name__)

FIELD_MANAGER = "vdi-gateway"
_AGAIN = 2.0
"""Seconds between two tries to reach the database at start."""


def now() -> datetime:
    """The machine's own clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The components of one gateway process."""

    context: GatewayContext
    audit: Audit
    actions: Actions
    login: Login
    edge: Edge
    api: Api
    history: History
    portal: Portal
    components: Sequence[Component]
    """All of them, in the order in which their routes are matched."""
    health: Health

    def stop(self) -> None:
        """Have open streams end, and no new request served."""
        self.context.stopping.set()
        self.context.cluster.end_changes()


@asynccontextmanager
async def open_gateway(
    config: ClusterConfig,
    settings: Settings,
    *,
    clock: Callable[[], datetime] = now,
    address: Callable[[VDISession], str] | None = None,
    passwords: Passwords | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway that watches and works while the context lasts, whether the cluster and the database answer or not.

    `address`: where a session's desktop is reached; None: its Service. `passwords`: None for the usual cost of a hash.

    Raises LimitsError, PricesError, DatabaseUrlError or KubeError for what can never work, and what a component failed
    with. To be entered and left by the same task.
    """
    limits = read_limits_file(settings)
    metrics = Metrics()
    database = Database(settings.database_url)
    shared = open_shared_state(settings.redis_url)
    client = Client(
        config,
        field_manager=FIELD_MANAGER,
        user_agent=user_agent(FIELD_MANAGER),
        on_request=metrics.count_kube_request,
    )
    try:
        async with client, ClusterCache(client, settings) as cluster:
            context = GatewayContext(
                settings=settings,
                client=client,
                cluster=cluster,
                database=database,
                shared=shared,
                metrics=metrics,
                clock=clock,
            )
            gateway = build_gateway(context, limits, address, passwords)
            async with asyncio.TaskGroup() as group:
                work = group.create_task(_work(gateway), name="gateway's work")
                try:
                    yield gateway
                finally:
                    gateway.stop()
                    work.cancel()
    finally:
        await shared.close()
        await database.close()


def build_gateway(
    context: GatewayContext,
    limits: Limits,
    address: Callable[[VDISession], str] | None = None,
    passwords: Passwords | None = None,
) -> Gateway:
    """All components. Nothing of theirs runs yet."""
    logins = Logins(context)
    guard = Guard(logins, context.settings)
    audit = Audit(context.database, context.clock)
    history = History(context)
    actions = Actions(context, limits=limits, history=history, audit=audit)
    edge = Edge(context, logins=logins, guard=guard, actions=actions, address=address)
    sign_out = SignOut(logins, edge.end_grants)
    login = Login(context, logins=logins, guard=guard, sign_out=sign_out, audit=audit, passwords=passwords)
    homes_ahead = HomesAhead(context, QuotaGuard(context, limits, history))
    doctor, gpu_slots = DoctorRunner(context), GpuSlots(context)
    agent = DesktopAgent(edge.desktop_key)
    startup_scripts = StartupScripts(context=context, agent=agent)
    api = Api(
        ApiServices(
            context=context,
            guard=guard,
            logins=logins,
            sign_out=sign_out,
            limits=limits,
            actions=actions,
            history=history,
            audit=audit,
            prober=Prober(context=context, issue_ticket=edge.issue_ticket, agent=agent),
            startup_scripts=startup_scripts,
            doctor=doctor,
            gpu_slots=gpu_slots,
        )
    )
    portal = Portal(
        PortalServices(
            context=context,
            guard=guard,
            logins=logins,
            limits=limits,
            actions=actions,
            history=history,
            homes_ahead=homes_ahead,
            audit=audit,
            doctor=doctor,
            gpu_slots=gpu_slots,
            subscriptions=Subscriptions(context.cluster),
            problems=edge.problems,
            thumbnails=Thumbnails(context=context, agent=agent),
            startup_scripts=startup_scripts,
        )
    )
    diagnosis = Diagnosis(context.settings, context.client, context.metrics.registry)
    components = (login, edge, api, history, portal, homes_ahead, diagnosis)
    return Gateway(
        context=context,
        audit=audit,
        actions=actions,
        login=login,
        edge=edge,
        api=api,
        history=history,
        portal=portal,
        components=components,
        health=Health(context, components),
    )


def read_limits_file(settings: Settings) -> Limits:
    """The limits; none without a file. Raises LimitsError."""
    if settings.limits_file is None:
        return Limits()
    try:
        text = settings.limits_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LimitsError(f"VDI_LIMITS_FILE={str(settings.limits_file)!r}: {_why_unread(error)}") from error
    return read_limits(text, str(settings.limits_file))


def _why_unread(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "not UTF-8"


async def _work(gateway: Gateway) -> None:
    """Wait for the database and the watches, then let users in and run the components."""
    context, health = gateway.context, gateway.health
    await _upgrade(context.database)
    await context.cluster.wait_synced()
    health.begun = True
    settings, sessions = context.settings, len(context.cluster.sessions)
    log.info("serving %s, %d sessions in %s", settings.portal_url, sessions, ", ".join(settings.namespaces))
    async with asyncio.TaskGroup() as group:
        for component in (health, *gateway.components):
            group.create_task(component.run(), name=type(component).__name__)


async def _upgrade(database: Database) -> None:
    said = ""
    while True:
        try:
            await upgrade(database)
            return
        except DatabaseUnavailableError as error:
            if str(error) != said:
                said = str(error)
                log.warning("waiting for the database: %s", said)
            await asyncio.sleep(_AGAIN)


def build_public(context: GatewayContext, components: Sequence[Component], health: Health) -> ASGIApp:
    """What Traefik speaks to: the portal and the hosts of desktops."""
    settings = context.settings
    portal = _app(settings, [route for component in components for route in component.portal_routes()])
    desktops = _app(settings, [route for component in components for route in component.desktop_routes()])
    by_host = HostRouter(settings, portal=portal, desktops=desktops, ready=lambda: health.begun)
    app = SecurityHeaders(BodyLimit(by_host, PUBLIC_BODY), settings)
    return RequestMetrics(ClientAddress(app, context), context.metrics, "public")


def build_internal(context: GatewayContext, components: Sequence[Component], health: Health) -> ASGIApp:
    """What Traefik's forwardAuth, the operator, the kubelet and Prometheus speak to."""
    settings = context.settings
    routes = [route for component in (health, *components) for route in component.internal_routes()]
    app = ClientAddress(BodyLimit(_app(settings, routes), INTERNAL_BODY), context)
    return RequestMetrics(app, context.metrics, "internal")


def _app(settings: Settings, routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=ErrorPages(settings).handlers())
    app.router.redirect_slashes = False  # a path that is not there is not looked for elsewhere
    return app


class ClientAddress:
    """Middleware: passes the browser's address to the audit."""

    def __init__(self, app: ASGIApp, context: GatewayContext) -> None:
        self._app = app
        self._trusted = context.settings.trusted_proxies
        self._cluster = context.cluster

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; each has a context of its own."""
        came_from.set(client_address(HTTPConnection(scope), self._trusted, self._cluster))
        await self._app(scope, receive, send)
