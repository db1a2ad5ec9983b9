"""The gateway as tests of the login have it: local users in a Secret, routes that show what the
guard says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from support.clock import FakeClock
from support.passwords import HASHER, users_file
from unit.gateway.gateway_stage import PASSWORD, Browser, GatewayStage
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.local_users import USERS_KEY, LocalUser
from vdi.gateway.login.logins import SignOut
from vdi.gateway.login.oidc import OIDCProvider
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.settings import Settings
from vdi.gateway.store.audit import audit
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
        shown = {"user": person.email, "groups": sorted(person.groups), "admin": person.admin}
        token = credentials.csrf_token_of(request)
        return JSONResponse(shown | {"login_id": person.login_id, "csrf": token})

    async def change(self, request: Request) -> Response:
        await self._guard.check_csrf(request)
        return PlainTextResponse((await self._guard.require(request)).email)


@dataclass
class EndedGrants:
    """In the edge's place: whose grants were ended."""

    ended: list[dict[str, Any]] = field(default_factory=list)

    async def end_grants(self, **which: Any) -> None:
        self.ended.append(which)


class LoginStage(GatewayStage):
    """The gateway with the users alice (a password) and root (an administrator), and routes that
    show what the guard says in place of the portal's and the API's.
    """

    def __init__(
        self,
        settings: Settings = SETTINGS,
        *,
        throttle: Throttle | None = None,
        provider: Callable[[FakeClock], OIDCProvider] | None = None,
    ) -> None:
        super().__init__(settings=settings)
        self.grants, self.waits = EndedGrants(), list[float]()
        services = self.login.services
        self.login.services = replace(
            services,
            sign_out=SignOut(self.logins, self.audit, self.grants.end_grants),
            throttle=throttle or services.throttle,
            provider=provider(self.clock) if provider else services.provider,
            sleep=self._sleep,
        )
        probe = _Probe(self.guard)
        routes = [
            *self.login.portal_routes(),
            Route("/", probe.whoami),
            Route("/api/v1/me", probe.whoami),
            Route("/change", probe.change, methods=["POST"]),
        ]
        self.app = SecurityHeaders(Starlette(routes=routes), settings)
        self.set_users(alice=user(name="Alice", groups=("engineering",)), root=user(admin=True))

    async def __aenter__(self) -> Self:
        await self.login.services.local.read()
        return self

    async def __aexit__(self, *why: object) -> None:
        assert PASSWORD not in f"{self.rows.rows(audit)}"
        await super().__aexit__(*why)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def set_users(self, **users: LocalUser) -> None:
        """Write the Secret of users."""
        self.users = {f"{name}@example.com": entry for name, entry in users.items()}
        self.write_users(users_file(self.users))

    def write_users(self, text: str) -> None:
        """Write the Secret of users with this file in it."""
        self.cluster.put_secret("vdi-gateway-users", **{USERS_KEY: text})

    def counted(self, source: str, outcome: str) -> float:
        """What the metric says of login attempts."""
        labels = {"source": source, "outcome": outcome}
        return (
            self.context.metrics.registry.get_sample_value("vdi_gateway_logins_total", labels)
            or 0.0
        )

    def browser(self, address: str = "203.0.113.7", **headers: str) -> Browser:
        """A new browser without cookies, behind Traefik."""
        return self.new_browser(address=address, **headers)

    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.ASGITransport(self.app, client=("10.0.0.5", 1))
