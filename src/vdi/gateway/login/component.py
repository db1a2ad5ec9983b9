"""The login as a component of the gateway: its objects, routes and background work. `app` builds
one per process.
"""

import asyncio
import logging
from collections.abc import Sequence

from starlette.routing import BaseRoute

from vdi.gateway.component import Component
from vdi.gateway.login.local_users import UsersUnavailableError
from vdi.gateway.login.logins import local_identity
from vdi.gateway.login.pages import AccountPages, LoginPages, LoginServices
from vdi.gateway.login.token_endpoints import CliLoginPages, ProbeTokens
from vdi.gateway.store.database import DatabaseUnavailableError

log = logging.getLogger(__name__)

# A local user who was removed, or has a new password, is logged out everywhere within this time.
FOLLOW_SECONDS = 30.0


class Login(Component):
    """Logging in and out, and API tokens for programs. `Guard` authenticates requests."""

    def __init__(self, services: LoginServices) -> None:
        self.services = services

    def portal_routes(self) -> Sequence[BaseRoute]:
        pages = LoginPages(self.services), AccountPages(self.services), CliLoginPages(self.services)
        return [route for group in pages for route in group.routes()]

    def internal_routes(self) -> Sequence[BaseRoute]:
        return ProbeTokens(self.services.context, self.services.logins).routes()

    async def follow(self) -> None:
        """End logins whose time is over, and those of removed users, with the desktop access they
        gave.

        Raises UsersUnavailableError and DatabaseUnavailableError.
        """
        logins, sign_out = self.services.logins, self.services.sign_out
        await sign_out.end_grants_of(await logins.end_over())
        await logins.forget_old()
        users = await self.services.local.read()
        settings = self.services.context.settings
        gone = await logins.follow_users(
            {user: local_identity(user, entry, settings) for user, entry in users.items()}
        )
        if gone:
            log.info(
                "%d logins have ended: their users were removed, or have another password",
                len(gone),
            )
        await sign_out.end_grants_of(gone)

    async def run(self) -> None:
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
        """One line while the identity provider does not respond."""
        provider = self.services.provider
        problem = await provider.trouble() if provider else ""
        if problem:
            return [f"single sign-on: {problem}"]
        return []
