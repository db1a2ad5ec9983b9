"""The login as a component of the gateway: what it is made of, its routes, and what it does in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.routing import BaseRoute

from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.local import LocalUsers, UsersUnavailableError
from vdi.gateway.login.local_users import Passwords
from vdi.gateway.login.logins import Logins, SignOut
from vdi.gateway.login.oidc import Provider
from vdi.gateway.login.pages import AccountPages, LoginPages, LoginServices
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.login.token_endpoints import CliLoginPages, ProbeTokens
from vdi.gateway.store.audit import Audit
from vdi.gateway.store.database import DatabaseUnavailableError

log = logging.getLogger(__name__)

# How soon a local user who was removed, or has a new password, is logged out everywhere.
FOLLOW_SECONDS = 30.0


class Login(Component):
    """Logging in and out. Which user sends a request is `Guard`'s business."""

    def __init__(
        self,
        context: GatewayContext,
        *,
        logins: Logins,
        guard: Guard,
        sign_out: SignOut,
        audit: Audit,
        passwords: Passwords | None = None,
        throttle: Throttle | None = None,
        provider: Provider | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        settings = context.settings
        self.services = LoginServices(
            context=context,
            logins=logins,
            guard=guard,
            sign_out=sign_out,
            audit=audit,
            local=LocalUsers(context.client, settings, passwords or Passwords()),
            throttle=throttle or Throttle(context.shared),
            provider=provider or (Provider(settings.oidc, settings) if settings.oidc else None),
            sleep=sleep,
        )

    def portal_routes(self) -> Sequence[BaseRoute]:
        """Login, logout, account, and the command line's way in."""
        pages = LoginPages(self.services), AccountPages(self.services), CliLoginPages(self.services)
        return [route for group in pages for route in group.routes()]

    def internal_routes(self) -> Sequence[BaseRoute]:
        """The probe CronJob's way in."""
        return ProbeTokens(self.services.context, self.services.logins).routes()

    async def follow(self) -> None:
        """Once: end the logins whose time is over, and what removed users have open.

        Raises UsersUnavailableError and DatabaseUnavailableError.
        """
        logins, sign_out = self.services.logins, self.services.sign_out
        await sign_out.end_grants_of(await logins.end_over())
        await logins.forget_old()
        gone = await logins.follow_users(await self.services.local.identities())
        if gone:
            log.info("%d logins have ended: their users were removed, or have another password", len(gone))
        await sign_out.end_grants_of(gone)

    async def run(self) -> None:
        """Follow the local users, and forget what has been over for long."""
        try:
            while True:
                try:
                    await self.follow()
                except (UsersUnavailableError, DatabaseUnavailableError) as error:
                    log.warning("local users are not followed now: %s", error)
                await asyncio.sleep(FOLLOW_SECONDS)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections to the identity provider."""
        if self.services.provider is not None:
            await self.services.provider.close()

    async def external_problems(self) -> Sequence[str]:
        """Whether the identity provider answers."""
        provider = self.services.provider
        problem = await provider.trouble() if provider else ""
        return [f"single sign-on: {problem}"] if problem else []
