"""Local users: who they are is in a Secret, read through the API at each login."""

import asyncio
import base64
import binascii
import hashlib
import logging
from contextlib import suppress
from typing import Any

from vdi.gateway.login.local_users import USERS_KEY, LocalUser, Passwords, UserFileError, read_users
from vdi.gateway.login.logins import LOCAL, Identity
from vdi.gateway.rights import normal_groups
from vdi.gateway.settings import Settings
from vdi.kube import SECRETS, Client
from vdi.kube.errors import KubeError, NotFound
from vdi.session.users import check_address

log = logging.getLogger(__name__)


class UsersUnavailableError(Exception):
    """Raised when the local users cannot be read now."""


class LocalUsers:
    """The users of the Secret. What was read last is kept with its version: an unchanged Secret is not parsed again."""

    def __init__(self, client: Client, settings: Settings, passwords: Passwords) -> None:
        self._client = client
        self._settings = settings
        self._passwords = passwords
        self._version: str | None = None
        self._users: dict[str, LocalUser] = {}

    async def are_there(self) -> bool:
        """Whether there were any when last read, which is not for each page: if not, no one has a password."""
        if self._version is None:
            with suppress(UsersUnavailableError):
                await self.read()
        return bool(self._users)

    async def identity_of(self, user: str, password: str) -> Identity | None:
        """Who this is, with the right password. Unknown users take as long as wrong passwords.

        Raises UsersUnavailableError and passwords.BusyError.
        """
        users = await self.read()
        try:
            known = users.get(check_address(user))
        except ValueError:
            known = None
        if not await self._passwords.check(known.password if known else None, password) or known is None:
            return None
        return self._identity(check_address(user), known)

    async def identities(self) -> dict[str, Identity]:
        """All of them, for what they have open. Raises UsersUnavailableError."""
        return {user: self._identity(user, known) for user, known in (await self.read()).items()}

    async def read(self) -> dict[str, LocalUser]:
        """All users. No Secret: none. Raises UsersUnavailableError."""
        where = f"Secret {self._settings.gateway_namespace}/{self._settings.users_secret}"
        try:
            secret = await self._client.get(
                SECRETS, self._settings.users_secret, namespace=self._settings.gateway_namespace, into=dict[str, Any]
            )
        except NotFound:
            self._version, self._users = "", {}
            return self._users
        except KubeError as error:
            raise UsersUnavailableError(f"{where} cannot be read: {error}") from error
        version = secret["metadata"]["resourceVersion"]
        if version != self._version:
            try:
                text = base64.b64decode((secret.get("data") or {}).get(USERS_KEY, "")).decode()
                users, problems = await asyncio.to_thread(read_users, text)
            except (UserFileError, binascii.Error, UnicodeDecodeError) as error:
                raise UsersUnavailableError(f"{where}: {error}") from error
            for problem in problems:
                log.error("%s: %s; this user cannot log in", where, problem)
            self._version, self._users = version, users
        return self._users

    def _identity(self, user: str, known: LocalUser) -> Identity:
        groups = normal_groups(known.groups)
        settings = self._settings
        return Identity(
            user=user,
            name=known.name,
            groups=groups,
            admin=known.admin or user in settings.admin_users or not groups.isdisjoint(settings.admin_groups),
            source=LOCAL,
            credential=hashlib.sha256(known.password.encode()).hexdigest()[:32],
        )
