"""The secret key of the host labels: one for all replicas, in a Secret of the first of the sessions' namespaces."""

import base64
import binascii
import logging
import secrets

import msgspec

from vdi.kube.errors import AlreadyExists, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

SECRET = "vdi-host-key"  # noqa: S105 -- the name of a Secret
_ENTRY = "key"
_LENGTH = 32


class _KeySecret(msgspec.Struct):
    data: dict[str, str] = {}


class HostKey:
    """Read, or made, before the first session is reconciled. Without it no session may get a host."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.problem = ""
        """Why it could not be read; empty while nothing is wrong."""
        self._client = client
        self._namespace = namespace
        self._value = b""

    @property
    def value(self) -> bytes:
        """The key. Raises RuntimeError before it was read."""
        if not self._value:
            raise RuntimeError("the key of the host labels has not been read yet")
        return self._value

    async def load(self) -> bool:
        """Read the key, or make it if the Secret does not exist. False: `problem` and the log say why that failed."""
        problem = ""
        try:
            self._value = _decode(await self._read_or_create())
        except KubeError as error:
            problem = f"the Secret {self._namespace}/{SECRET} cannot be read: {error}"
        except ValueError as error:
            problem = (
                f"the Secret {self._namespace}/{SECRET} {error}. Restore it from a backup, or give all desktops "
                f"without spec.hostname new addresses: kubectl --namespace {self._namespace} delete secret {SECRET}"
            )
        if problem and problem != self.problem:
            log.error("no session is worked on: %s", problem)
        self.problem = problem
        return not problem

    async def _read_or_create(self) -> _KeySecret:
        try:
            return await self._read()
        except NotFound:
            pass
        key = base64.b64encode(secrets.token_bytes(_LENGTH)).decode()
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": self._namespace},
            "type": "Opaque",
            "immutable": True,
            "data": {_ENTRY: key},
        }
        try:
            made = await self._client.create(SECRETS, body, namespace=self._namespace, into=_KeySecret)
        except AlreadyExists:  # another replica was faster, or the answer to our first try was lost
            return await self._read()
        log.info("made the Secret %s/%s: keep it in your backups", self._namespace, SECRET)
        return made

    async def _read(self) -> _KeySecret:
        return await self._client.get(SECRETS, SECRET, namespace=self._namespace, into=_KeySecret)


def _decode(secret: _KeySecret) -> bytes:
    """Raises ValueError."""
    try:
        key = base64.b64decode(secret.data[_ENTRY], validate=True)
    except (KeyError, binascii.Error):
        key = b""
    if len(key) < _LENGTH:
        raise ValueError(f"has no entry {_ENTRY!r} with at least {_LENGTH} bytes")
    return key
