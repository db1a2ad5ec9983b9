"""The login as a part of the gateway: what it is made of, its routes, and what it does in the background."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from starlette.routing import BaseRoute

from vdi.gateway.login import account, cli_login, pages
from vdi.gateway.login.local import LocalUsers, UsersUnavailableError
from vdi.gateway.login.logins import Logins
from vdi.gateway.login.oidc import Provider
from vdi.gateway.login.passwords import Passwords
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.parts import Part
from vdi.gateway.settings import Settings
from vdi.gateway.shared import Shared
from vdi.gateway.store.base import Database, DatabaseUnavailableError
from vdi.gateway.store.logins import LoginStore
from vdi.kube import Client

log = logging.getLogger(__name__)

FOLLOW_SECONDS = 30.0
"""How soon a local user who was removed, or has a new password, is logged out everywhere."""


class Login(Part):
    """Who people are. `guard` is what the other parts ask; it finds this one as `gateway.login`.

    `on_ended` hears of logins that ended without a request, so that their ways into desktops end too.
    """

    def __init__(
        self, settings: Settings, client: Client, database: Database, shared: Shared, clock: Callable[[], datetime]
    ) -> None:
        self.logins = Logins(LoginStore(database), idle=settings.login_idle, longest=settings.login_max, clock=clock)
        self.local = LocalUsers(client, settings, Passwords())
        self.throttle = Throttle(shared)
        self.provider = Provider(settings.oidc, settings) if settings.oidc else None
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self.on_ended: Callable[[str], Awaitable[object]] | None = None

    def portal_routes(self) -> Sequence[BaseRoute]:
        """Login, logout, account, and the command line's way in."""
        return (*pages.ROUTES, *account.ROUTES, *cli_login.ROUTES)

    async def follow(self) -> None:
        """Once: end the logins whose time is over, and what removed users have open.

        Raises UsersUnavailableError and DatabaseUnavailableError.
        """
        await self._tell(await self.logins.end_over())
        await self.logins.forget_old()
        gone = await self.logins.follow_users(await self.local.identities())
        if gone:
            log.info("%d logins have ended: their users were removed, or have another password", len(gone))
        await self._tell(gone)

    async def _tell(self, ended: list[str]) -> None:
        for login_id in ended:
            if self.on_ended is not None:
                await self.on_ended(login_id)

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
            if self.provider is not None:
                await self.provider.close()
