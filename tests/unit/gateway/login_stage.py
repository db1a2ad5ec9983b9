"""A gateway that is nothing but its login: real database in a file, real pages, a Secret in memory, a clock to set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, cast

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from support.clock import FakeClock
from support.database import sqlite_with_tables
from support.passwords import HASHER
from unit.gateway.component_stage import PASSWORD, PORTAL, Browser, ComponentStage, FakeEdge, FakeSecrets, RecordedAudit
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.gateway.login.component import Login
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.local_users import USERS_KEY, LocalUser, Passwords, write_users
from vdi.gateway.login.logins import SignOut
from vdi.gateway.login.oidc import Provider
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.settings import Settings
from vdi.gateway.store.audit import Audit
from vdi.gateway.store.database import Database
from vdi.gateway.web import credentials
from vdi.gateway.web.middleware import SecurityHeaders

SETTINGS = Settings(admin_groups=frozenset({"admins"}))


def user(password: str = PASSWORD, **rest: Any) -> LocalUser:
    """A local user with this password."""
    return LocalUser(password=HASHER.hash(password), **rest)


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
                "csrf": credentials.csrf_token_of(request),
            }
        )

    async def admin(self, request: Request) -> Response:
        return PlainTextResponse((await self._guard.require_admin(request)).email)

    async def change(self, request: Request) -> Response:
        await self._guard.check_csrf(request)
        return PlainTextResponse((await self._guard.require(request)).email)


class LoginStage(ComponentStage):
    """The login alone, with the users alice (a password) and root (an administrator)."""

    def __init__(
        self,
        folder: Path,
        settings: Settings = SETTINGS,
        *,
        throttle: Throttle | None = None,
        provider: Callable[[FakeClock], Provider] | None = None,
    ) -> None:
        self.secrets, self.edge, self.audit = (
            FakeSecrets(RELEASE_NAMESPACE),
            FakeEdge(),
            RecordedAudit(closed_only=True),
        )
        self.waits: list[float] = []
        super().__init__(self.secrets, settings=settings, database=Database(sqlite_with_tables(folder / "vdi.db")))
        self.login = Login(
            self.context,
            logins=self.logins,
            guard=self.guard,
            sign_out=SignOut(self.logins, self.edge.end_grants),
            audit=cast(Audit, self.audit),
            passwords=Passwords(HASHER),
            throttle=throttle,
            provider=provider(self.clock) if provider else None,
            sleep=self._sleep,
        )
        probe = _Probe(self.guard)
        routes = [
            *self.login.portal_routes(),
            Route("/", probe.whoami),
            Route("/api/v1/me", probe.whoami),
            Route("/admin", probe.admin),
            Route("/change", probe.change, methods=["POST"]),
        ]
        self.app = SecurityHeaders(Starlette(routes=routes), settings)
        self.set_users(alice=user(name="Alice", groups=("engineering",)), root=user(admin=True))

    async def __aenter__(self) -> Self:
        await self.login.services.local.read()
        return self

    async def __aexit__(self, *why: object) -> None:
        await self.login.close()
        await super().__aexit__(*why)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def set_users(self, **users: LocalUser) -> None:
        """Write the Secret of users."""
        self.users = {f"{name}@example.com": entry for name, entry in users.items()}
        self.write_users(write_users(self.users))

    def write_users(self, text: str) -> None:
        """Write the Secret of users with this file in it."""
        self.secrets.put("vdi-gateway-users", **{USERS_KEY: text})

    def counted(self, source: str, outcome: str) -> float:
        """What the metric says of login attempts."""
        labels = {"source": source, "outcome": outcome}
        return self.context.metrics.registry.get_sample_value("vdi_gateway_logins_total", labels) or 0.0

    def browser(self, address: str = "203.0.113.7", **headers: str) -> Browser:
        """A new browser without cookies, behind Traefik."""
        transport = httpx.ASGITransport(self.app, client=("10.0.0.5", 1))
        given = {"X-Forwarded-For": address, "Accept": "text/html", **headers}
        browser = Browser(transport=transport, base_url=PORTAL, headers=given)
        self.clients.append(browser)
        return browser
