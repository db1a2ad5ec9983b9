"""A gateway that is nothing but its login: real database in a file, real pages, a Secret in memory, a clock to set."""

import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from vdi.gateway.login.guard import check_csrf, csrf_token, require, require_admin
from vdi.gateway.login.local import LocalUsers
from vdi.gateway.login.part import Login
from vdi.gateway.login.passwords import Passwords
from vdi.gateway.login.security import SecurityHeaders
from vdi.gateway.login.users_file import KEY, LocalUser, write_users
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared import MemoryShared
from vdi.gateway.store.audit import Act
from vdi.gateway.store.base import Database, metadata
from vdi.kube.errors import KubeError, NotFound

HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""As weak as argon2 goes: these tests make hundreds."""
PASSWORD = "correct horse battery"
PORTAL = "https://portal.vdi.localhost"
SETTINGS = Settings(admin_groups=frozenset({"admins"}))


def user(password: str = PASSWORD, **rest: Any) -> LocalUser:
    """A local user with this password."""
    return LocalUser(password=HASHER.hash(password), **rest)


@dataclass
class FakeClock:
    """Time that stands still until it is moved."""

    now: datetime = datetime(2026, 11, 20, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **span: float) -> None:
        self.now += timedelta(**span)


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
        assert (namespace, name) == ("kasm", "vdi-gateway-users")
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


async def _whoami(request: Request) -> Response:
    person = await require(request)
    return JSONResponse(
        {
            "user": person.user,
            "groups": sorted(person.groups),
            "admin": person.admin,
            "login_id": person.login_id,
            "csrf": csrf_token(request),
        }
    )


async def _admin(request: Request) -> Response:
    return PlainTextResponse((await require_admin(request)).user)


async def _change(request: Request) -> Response:
    await check_csrf(request)
    return PlainTextResponse((await require(request)).user)


@asynccontextmanager
async def open_stage(folder: Path, settings: Settings = SETTINGS) -> AsyncIterator[Stage]:
    """A gateway with the users alice (a password) and root (an administrator)."""
    database = Database(f"sqlite+aiosqlite:///{folder}/vdi.db")
    async with database.begin() as connection:
        await connection.run_sync(metadata.create_all)
    secrets, clock, edge, audit, waits = FakeSecrets(), FakeClock(), FakeEdge(), FakeAudit(), []
    secrets.set(alice=user(name="Alice", groups=("engineering",)), root=user(admin=True))
    shared = MemoryShared(lambda: clock.now.timestamp())
    client: Any = secrets
    login = Login(settings, client, database, shared, clock)
    login.local = LocalUsers(client, settings, Passwords(HASHER))

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    login.sleep = sleep
    routes = [
        *login.portal_routes(),
        Route("/", _whoami),
        Route("/api/v1/me", _whoami),
        Route("/admin", _admin),
        Route("/change", _change, methods=["POST"]),
    ]
    app = Starlette(routes=routes)
    metrics = Metrics()
    app.state.gateway = SimpleNamespace(
        settings=settings,
        login=login,
        edge=edge,
        audit=audit,
        metrics=metrics,
        shared=shared,
        clock=clock,
        client=client,
    )
    stage = Stage(SecurityHeaders(app, settings), metrics, login, secrets, clock, edge, audit, waits)
    await login.local.read()
    try:
        yield stage
    finally:
        for browser in stage.browsers:
            await browser.aclose()
        if login.provider is not None:
            await login.provider.close()
        await database.close()
