"""The gateway's copy of the release's desktop key, from which it derives the tokens of every desktop.

The gateway may read no Secret of the sessions' namespaces. The operator draws the key, and writes the same tokens into
the Secrets that desktops start with.
"""

import asyncio

import msgspec

from vdi.api.session import VDISession
from vdi.kube.errors import KubeError
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.desktop_tokens import KEY_SECRET, DesktopTokens, decode_key, derive_tokens


class DesktopKeyError(Exception):
    """Raised when the key cannot be had now; says why, and shows nothing of it."""


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


class DesktopKey:
    """Read once, and again after a desktop has refused a token.

    Meanwhile the last one counts: neither that desktop nor a slow API server may hold up the others.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._value = b""
        self._problem = ""
        self._reading: asyncio.Task[None] | None = None

    def reread(self) -> "asyncio.Task[None]":
        """Read the key, unless that is under way: a desktop has refused a token."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="desktop key")
        return self._reading

    async def tokens(self, session: VDISession) -> DesktopTokens:
        """The tokens of the session's desktop. Raises DesktopKeyError."""
        if not self._value:
            await asyncio.shield(self.reread())
        if not self._value:
            raise DesktopKeyError(self._problem)
        meta = session.metadata
        pod = session.status.pod_name
        return derive_tokens(self._value, namespace=meta.namespace, name=meta.name, uid=meta.uid, pod=pod)

    async def _read(self) -> None:
        try:
            secret = await self._client.get(SECRETS, KEY_SECRET, namespace=self._namespace, into=_Secret)
            self._value = decode_key(secret.data)
        except KubeError as error:
            self._problem = f"the Secret {self._namespace}/{KEY_SECRET} cannot be read: {error}"
        except ValueError as error:
            self._problem = f"the Secret {self._namespace}/{KEY_SECRET} {error}"
