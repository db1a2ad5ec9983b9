"""The gateway process: wiring of its components, the ASGI app of each listener, and serving until a
stop signal.

`run_process` is the program; tests and benchmarks enter `open_gateway` and build the apps
themselves. There are two listeners: the public one behind Traefik, and the internal one for
forwardAuth, the operator, the kubelet and Prometheus.
"""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from vdi.api.session import VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.api.component import Api
from vdi.gateway.cluster_cache import ClusterCache, Subscriptions
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.current_use import GpuSlots
from vdi.gateway.desktop.active_grants import ActiveGrants
from vdi.gateway.desktop.agent import DesktopAgent, DesktopKey
from vdi.gateway.desktop.agent_requests import AgentRequests
from vdi.gateway.desktop.computer import Computer
from vdi.gateway.desktop.recordings import Recordings
from vdi.gateway.desktop.transfers import TransferCollector
from vdi.gateway.doctor import DoctorMetrics, DoctorRunner
from vdi.gateway.edge.component import Edge
from vdi.gateway.edge.revocation import Revocations, Revoker
from vdi.gateway.edge.ticket_handoff import issue_ticket
from vdi.gateway.edge.token_tables import TokenTablePublisher
from vdi.gateway.health import Health
from vdi.gateway.history.component import History
from vdi.gateway.history.memory_kills import MemoryKills
from vdi.gateway.limits import Limits, LimitsError, read_limits
from vdi.gateway.login.component import Login
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.local_users import LocalUsers, Passwords
from vdi.gateway.login.logins import Logins, SignOut
from vdi.gateway.login.oidc import OIDCProvider
from vdi.gateway.login.pages import LoginServices
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.metrics import Metrics
from vdi.gateway.notices import Notices
from vdi.gateway.portal.component import Portal
from vdi.gateway.services import Services
from vdi.gateway.session_actions import SessionActions
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import open_shared_state
from vdi.gateway.starting import HomesAhead, QuotaGuard, Starter
from vdi.gateway.store.audit import Audit, came_from
from vdi.gateway.store.database import Database, DatabaseUnavailableError
from vdi.gateway.store.logins import GrantStore
from vdi.gateway.store.migrations import upgrade
from vdi.gateway.web.connection import ByteBudget, Connection
from vdi.gateway.web.middleware import (
    INTERNAL_BODY,
    PUBLIC_BODY,
    BodyLimit,
    HostRouter,
    RequestMetrics,
    SecurityHeaders,
    client_address,
)
from vdi.gateway.web.render import ErrorPages
from vdi.kube.config import ClusterConfig
from vdi.kube.transport import Client
from vdi.version import user_agent

log = logging.getLogger(__name__)

FIELD_MANAGER = "vdi-gateway"
# Seconds between two tries to reach the database at start.
_RETRY_SECONDS = 2.0
# Seconds that answers under way may take after SIGTERM. Streams of events end themselves at once.
_GRACE_SECONDS = 2
# Longer than Traefik keeps an idle connection (90 s): so it never uses one that is just being
# closed.
_KEEP_ALIVE_SECONDS = 120
# Connections at a time; each is a browser that waits, or one of Traefik's. On the internal listener
# every request is answered in milliseconds.
PUBLIC_CONNECTIONS, INTERNAL_CONNECTIONS = 4096, 1024
# Bytes of all requests that are being received or answered, beside the free ones of each
# connection; and again of all responses that are not read yet. Two reports of a session's end at a
# time; the operator sends the next ones again.
PUBLIC_BYTES, INTERNAL_BYTES = 32 << 20, 2 * INTERNAL_BODY


def now() -> datetime:
    """The machine's own clock, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The components of one gateway process."""

    context: GatewayContext
    # What API and portal call.
    services: Services
    login: Login
    edge: Edge
    api: Api
    health: Health
    # All of them, in the order in which their routes are matched.
    components: Sequence[Component]

    def stop(self) -> None:
        """Have open streams end, and no new request served."""
        self.context.stopping.set()


@asynccontextmanager
async def open_gateway(
    config: ClusterConfig,
    settings: Settings,
    *,
    clock: Callable[[], datetime] = now,
    address: Callable[[VDISession], str] | None = None,
    passwords: Passwords | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway that watches and works while the context lasts, whether the cluster and the
    database answer or not.

    `address`: where a session's desktop is reached; None: its Service. `passwords`: None for the
    usual cost of a hash.

    Raises LimitsError, DatabaseUrlError or KubeError for what can never work, and what a component
    failed with. To be entered and left by the same task.
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
    agent: DesktopAgent | None = None,
) -> Gateway:
    """All components. Nothing of theirs runs yet."""
    logins = Logins(context)
    guard = Guard(logins, context.settings)
    audit = Audit(context.database, context.clock)
    history = History(context)
    starter = Starter(context, QuotaGuard(context, limits, history))
    actions = Actions(context, starter, audit)
    subscriptions = Subscriptions(context.cluster)
    notices = Notices(context)
    homes_ahead = HomesAhead(context, starter)

    # What is done with running desktops.
    key = DesktopKey(context.client, context.settings.gateway_namespace)
    agent = agent or DesktopAgent(key)
    recordings = Recordings(context, agent, audit)
    computer = Computer(context=context, agent=agent, audit=audit, logins=logins, notices=notices)
    session_actions = SessionActions(context, actions, computer, recordings)

    # Who gets into a desktop, and who is logged in.
    tables, revoker = _build_grants(context, key, address)
    edge = Edge(
        context,
        tables=tables,
        revoker=revoker,
        logins=logins,
        guard=guard,
        actions=actions,
        subscriptions=subscriptions,
        history=history,
        agent=agent,
        session_actions=session_actions,
    )
    sign_out = SignOut(logins, audit, revoker.end)
    login = _build_login(context, logins, guard, sign_out, audit, passwords or Passwords())

    services = Services(
        context=context,
        guard=guard,
        logins=logins,
        sign_out=sign_out,
        local=login.services.local,
        limits=limits,
        actions=actions,
        session_actions=session_actions,
        history=history,
        homes_ahead=homes_ahead,
        audit=audit,
        agents=AgentRequests(
            context=context, agent=agent, issue_ticket=partial(issue_ticket, context.shared)
        ),
        computer=computer,
        doctor=DoctorRunner(context),
        recordings=recordings,
        gpu_slots=GpuSlots(context),
        subscriptions=subscriptions,
        problems=edge.problems,
    )
    transfers = TransferCollector(context=context, agent=agent, active=revoker.active, audit=audit)
    return _assemble(services, login, edge, notices, transfers)


def _assemble(
    services: Services,
    login: Login,
    edge: Edge,
    notices: Notices,
    transfers: TransferCollector,
) -> Gateway:
    """The gateway of these parts, with what only reports on it."""
    context, recordings = services.context, services.recordings
    external_problems = (
        login.external_problems,
        edge.external_problems,
        recordings.external_problems,
        notices.external_problems,
    )
    health = Health(context, edge.problems, external_problems)
    api = Api(services)
    components = (
        health,
        login,
        edge,
        api,
        services.history,
        Portal(services),
        services.homes_ahead,
        DoctorMetrics(context.settings, context.client, context.metrics.registry),
        notices,
        recordings,
        transfers,
        MemoryKills(context=context, audit=services.audit),
    )
    return Gateway(
        context=context,
        services=services,
        login=login,
        edge=edge,
        api=api,
        health=health,
        components=components,
    )


def _build_grants(
    context: GatewayContext, key: DesktopKey, address: Callable[[VDISession], str] | None
) -> tuple[TokenTablePublisher, Revoker]:
    """Publisher of token tables, and the end of grants: both know the same grants."""
    store, active = GrantStore(context.database), ActiveGrants()
    revocations = Revocations(context.settings.token_seconds, context.clock)
    tables = TokenTablePublisher(
        context=context,
        store=store,
        key=key,
        active=active,
        revocations=revocations,
        address=address,
    )
    revoker = Revoker(
        context=context,
        store=store,
        active=active,
        revocations=revocations,
        touch=tables.touch,
    )
    return tables, revoker


def _build_login(
    context: GatewayContext,
    logins: Logins,
    guard: Guard,
    sign_out: SignOut,
    audit: Audit,
    passwords: Passwords,
) -> Login:
    settings = context.settings
    services = LoginServices(
        context=context,
        logins=logins,
        guard=guard,
        sign_out=sign_out,
        audit=audit,
        local=LocalUsers(context.client, settings, passwords),
        throttle=Throttle(context.shared),
        provider=OIDCProvider(settings.oidc, settings) if settings.oidc else None,
    )
    return Login(services)


def read_limits_file(settings: Settings) -> Limits:
    """The limits; none without a file. Raises LimitsError."""
    if settings.limits_file is None:
        return Limits()
    try:
        text = settings.limits_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LimitsError(
            f"VDI_LIMITS_FILE={str(settings.limits_file)!r}: {_why_unread(error)}"
        ) from error
    return read_limits(text, str(settings.limits_file))


def _why_unread(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "not UTF-8"


async def _work(gateway: Gateway) -> None:
    """Wait for the database and the watches, then let users in and run the components."""
    context = gateway.context
    await _upgrade(context)
    await context.cluster.wait_synced()
    gateway.health.begun = True
    settings, sessions = context.settings, len(context.cluster.sessions)
    log.info(
        "serving %s, %d sessions in %s",
        settings.portal_url,
        sessions,
        ", ".join(settings.namespaces),
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(gateway.services.audit.run(), name="audit")
        for component in gateway.components:
            group.create_task(component.run(), name=type(component).__name__)


async def _upgrade(context: GatewayContext) -> None:
    logged, wait = "", context.database_wait
    while True:
        try:
            await upgrade(context.database)
            wait.end()
            return
        except DatabaseUnavailableError as error:
            if str(error) != logged:
                logged = str(error)
                log.warning("waiting for the database: %s", logged)
            wait.since = wait.since or context.clock()
            context.metrics.dependency_up.labels("database").set(0)
            await wait.look(context.settings.internal_url)
            await asyncio.sleep(_RETRY_SECONDS)


def build_public(gateway: Gateway) -> ASGIApp:
    """The ASGI app behind Traefik: the portal and the hosts of desktops."""
    context, settings = gateway.context, gateway.context.settings
    # Two route tables: a path of the portal is never answered on the host of a desktop, whose page
    # is untrusted.
    portal = _app(
        settings, [route for component in gateway.components for route in component.portal_routes()]
    )
    desktops = _app(settings, gateway.edge.desktop_routes())
    by_host = HostRouter(
        settings,
        portal=portal,
        desktops=desktops,
        ready=lambda: gateway.health.begun,
        starting=context.database_wait,
    )
    app = SecurityHeaders(BodyLimit(by_host, PUBLIC_BODY), settings)
    return RequestMetrics(_with_client_address(app, context), context.metrics, "public")


def build_internal(gateway: Gateway) -> ASGIApp:
    """The ASGI app for Traefik's forwardAuth, the operator, the kubelet and Prometheus."""
    context = gateway.context
    routes = [route for component in gateway.components for route in component.internal_routes()]
    app = _with_client_address(BodyLimit(_app(context.settings, routes), INTERNAL_BODY), context)
    return RequestMetrics(app, context.metrics, "internal")


def _app(settings: Settings, routes: Sequence[BaseRoute]) -> Starlette:
    app = Starlette(routes=routes, exception_handlers=ErrorPages(settings).handlers())
    app.router.redirect_slashes = False  # a path that is not there is not looked for elsewhere
    return app


def _with_client_address(app: ASGIApp, context: GatewayContext) -> ASGIApp:
    """Middleware: passes the browser's address to the audit."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # uvicorn runs each request in a task of its own, so the address of one is never seen by
        # another.
        came_from.set(
            client_address(HTTPConnection(scope), context.settings.trusted_proxies, context.cluster)
        )
        await app(scope, receive, send)

    return serve


# Called with the public and the internal port, once both are open.
OnListening = Callable[[int, int], None]


async def run_gateway(
    config: ClusterConfig,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_listening: OnListening | None = None,
) -> None:
    """Serve until `stop` is set.

    Raises OSError when a port is taken, LimitsError, DatabaseUrlError or KubeError for what can
    never work. A cluster or a database that is out of reach is waited for, and /readyz says so.
    """
    with (
        listen(settings.public_addr, "VDI_PUBLIC_ADDR") as public,
        listen(settings.internal_addr, "VDI_INTERNAL_ADDR") as internal,
    ):
        async with open_gateway(config, settings) as gateway:
            # A desktop's programs have no business here; a NetworkPolicy says so only where it is
            # enforced.
            is_refused = gateway.context.cluster.is_desktop
            outside = _uvicorn_config(build_public(gateway), is_refused)
            inside = _uvicorn_config(
                build_internal(gateway), is_refused, INTERNAL_CONNECTIONS, INTERNAL_BYTES
            )
            servers = {_Server(outside): public, _Server(inside): internal}
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

    from vdi.process import stop_on_signals

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


def _uvicorn_config(
    app: object,
    is_refused: Callable[[str], bool] = lambda _: False,
    connections: int = PUBLIC_CONNECTIONS,
    most: int = PUBLIC_BYTES,
) -> uvicorn.Config:
    received, unread = ByteBudget(most), ByteBudget(most)
    protocol = partial(Connection, received=received, unread=unread, is_refused=is_refused)
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=connections,
    )


@contextlib.contextmanager
def listen(address: tuple[str, int], variable: str) -> Iterator[socket.socket]:
    """A socket on which connections can queue already. Raises OSError, which names the setting."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        one = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as why:
        raise OSError(
            f"{variable}={host}:{port}: cannot listen there: {why.strerror or why}"
        ) from why
    with one:
        one.setblocking(False)
        yield one
