"""A gateway that is nothing but its login: real database in a file, real pages, a Secret in memory, a clock to set."""

import base64
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from support.clock import FakeClock
from support.database import sqlite_with_tables
from support.passwords import HASHER
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.context import GatewayContext
from vdi.gateway.login.component import Login
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.login.oidc.provider import Provider
from vdi.gateway.login.passwords import Passwords
from vdi.gateway.login.sign_out import SignOut
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.login.users_file import KEY, LocalUser, write_users
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import MemorySharedState
from vdi.gateway.store.audit import Act
from vdi.gateway.store.base import Database
from vdi.gateway.web import csrf
from vdi.gateway.web.security_headers import SecurityHeaders
from vdi.kube.errors import KubeError, NotFound

PASSWORD = "correct horse battery"
PORTAL = "https://portal.vdi.localhost"
SETTINGS = Settings(admin_groups=frozenset({"admins"}))


def user(password: str = PASSWORD, **rest: Any) -> LocalUser:
    """A local user with this password."""
    return LocalUser(password=HASHER.hash(password), **rest)


@dataclass
class FakeSecrets:
    """The part of kube.Client that the login uses: one Secret."""

    users: dict[str, LocalUser] | None = None
    text: str | None = None
    version: int = 1
    broken: KubeError | None = None

    def set(self, **users: LocalUser) -> None:
        self.users = {f"{name}@example.com": entry for name, entry in users.items()}
        self.version += 1

    async def get(self, resource: Any, name: str, *, namespace: str, into: Any) -> dict[str, Any]:
        assert (namespace, name) == (RELEASE_NAMESPACE, "vdi-gateway-users")
        if self.broken is not None:
            raise self.broken
        if self.users is None and self.text is None:
            raise NotFound(404, "NotFound", "no such Secret")
        text = self.text if self.text is not None else write_users(self.users or {})
        data = {KEY: base64.b64encode(text.encode()).decode()}
        return {"metadata": {"resourceVersion": str(self.version)}, "data": data}


@dataclass
class FakeEdge:
    """Remembers whose grants were ended."""

    ended: list[dict[str, Any]] = field(default_factory=list)

    async def end_grants(self, **which: Any) -> None:
        self.ended.append(which)


@dataclass
class FakeAudit:
    """Remembers what was recorded: (actor, action, outcome)."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)

    @asynccontextmanager
    async def act(self, act: Act, *, closed: bool) -> AsyncIterator[None]:
        assert closed, "an administrator's"
        yield
        self.rows.append((act.actor, act.action, act.target))

    async def record(self, *, actor: str, action: str, outcome: str, **rest: Any) -> None:
        assert PASSWORD not in str(rest)
        self.rows.append((actor, action, outcome))


class Browser(httpx.AsyncClient):
    """A browser at the portal: keeps cookies, follows nothing by itself, says where its requests come from."""

    async def submit(self, path: str, page: str = "", **fields: str) -> httpx.Response:
        """Send a form of ours as the browser would: with the token that is in this page (default: /login)."""
        shown = page or (await self.get("/login")).text
        token = csrf_in(shown)
        return await self.post(path, data={"csrf": token, **fields}, headers={"Origin": PORTAL})

    async def log_in(self, name: str = "alice", password: str = PASSWORD, **fields: str) -> httpx.Response:
        """Fill in the login form."""
        return await self.submit("/login", user=f"{name}@example.com", password=password, **fields)

    def copy_cookies(self) -> dict[str, str]:
        """What a thief would have."""
        return dict(self.cookies)


def csrf_in(page: str) -> str:
    """The token in a page's first form."""
    found = re.search(r'name="csrf" value="([^"]*)"', page)
    assert found is not None, page
    return found[1]


@dataclass
class Stage:
    """Everything a test of the login touches."""

    app: ASGIApp
    metrics: Metrics
    login: Login
    secrets: FakeSecrets
    clock: FakeClock
    edge: FakeEdge
    audit: FakeAudit
    waits: list[float]
    browsers: list[Browser] = field(default_factory=list)

    def counted(self, source: str, outcome: str) -> float:
        """What the metric says of attempts to log in."""
        return (
            self.metrics.registry.get_sample_value("vdi_gateway_logins_total", {"source": source, "outcome": outcome})
            or 0.0
        )

    def browser(self, address: str = "203.0.113.7", **headers: str) -> Browser:
        """A new browser without cookies, behind Traefik."""
        transport = httpx.ASGITransport(self.app, client=("10.0.0.5", 1))
        given = {"X-Forwarded-For": address, "Accept": "text/html", **headers}
        browser = Browser(transport=transport, base_url=PORTAL, headers=given)
        self.browsers.append(browser)
        return browser


class _Probe:
    """Routes that show what the guard says."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def whoami(self, request: Request) -> Response:
        person = await self._guard.require(request)
        return JSONResponse(
            {
                "user": person.email,
                "groups": sorted(person.groups),
                "admin": person.admin,
                "login_id": person.login_id,
                "csrf": csrf.token_of(request),
            }
        )

    async def admin(self, request: Request) -> Response:
        return PlainTextResponse((await self._guard.require_admin(request)).email)

    async def change(self, request: Request) -> Response:
        await self._guard.check_csrf(request)
        return PlainTextResponse((await self._guard.require(request)).email)


@asynccontextmanager
async def open_stage(
    folder: Path,
    settings: Settings = SETTINGS,
    *,
    throttle: Throttle | None = None,
    provider: Callable[[FakeClock], Provider] | None = None,
) -> AsyncIterator[Stage]:
    """A gateway with the users alice (a password) and root (an administrator)."""
    database = Database(sqlite_with_tables(folder / "vdi.db"))
    secrets, clock, edge, audit, waits = FakeSecrets(), FakeClock(), FakeEdge(), FakeAudit(), []
    secrets.set(alice=user(name="Alice", groups=("engineering",)), root=user(admin=True))
    shared = MemorySharedState(lambda: clock.now().timestamp())
    client: Any = secrets

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    context = GatewayContext(
        settings=settings,
        client=client,
        cluster=ClusterCache(client, settings),
        database=database,
        shared=shared,
        metrics=Metrics(),
        clock=clock.now,
    )
    logins = Logins(context)
    guard = Guard(logins, settings)
    login = Login(
        context,
        logins=logins,
        guard=guard,
        sign_out=SignOut(logins, edge.end_grants),
        audit=cast(Any, audit),
        passwords=Passwords(HASHER),
        throttle=throttle,
        provider=provider(clock) if provider else None,
        sleep=sleep,
    )
    probe = _Probe(guard)
    routes = [
        *login.portal_routes(),
        Route("/", probe.whoami),
        Route("/api/v1/me", probe.whoami),
        Route("/admin", probe.admin),
        Route("/change", probe.change, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    stage = Stage(SecurityHeaders(app, settings), context.metrics, login, secrets, clock, edge, audit, waits)
    await login.services.local.read()
    try:
        yield stage
    finally:
        for browser in stage.browsers:
            await browser.aclose()
        await login.close()
        await database.close()
