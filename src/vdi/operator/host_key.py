"""The secret key of the host labels: one for all replicas, in a Secret of the operator's own namespace.

The chart makes the Secret, empty. The operator draws the key: it may not create Secrets there, since a Secret of
another type would hold the token of any account.
"""

import base64
import binascii
import logging
import secrets

import msgspec

from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

SECRET = "vdi-host-key"  # noqa: S105 -- the name of a Secret
_ENTRY = "key"
_LENGTH = 32


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _KeySecret(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}


class HostKey:
    """Read, or drawn, before the first session is reconciled. Without it no session may get a host."""

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
        """Read the key, or draw it if the Secret is empty. False: `problem` and the log say why that failed."""
        problem = ""
        try:
            self._value = _decode(await self._read_or_draw())
        except NotFound:
            problem = (
                f"the Secret {self._namespace}/{SECRET} does not exist. Restore it from a backup, or have an empty one "
                "made with the next vdi install: all desktops without spec.hostname then get new addresses"
            )
        except KubeError as error:
            problem = f"the Secret {self._namespace}/{SECRET} cannot be read: {error}"
        except ValueError as error:
            problem = (
                f"the Secret {self._namespace}/{SECRET} {error}. Restore it from a backup, or delete it and have an "
                "empty one made with the next vdi install: all desktops without spec.hostname then get new addresses: "
                f"kubectl --namespace {self._namespace} delete secret {SECRET}"
            )
        if problem and problem != self.problem:
            log.error("no session is worked on: %s", problem)
        self.problem = problem
        return not problem

    async def _read_or_draw(self) -> _KeySecret:
        while True:
            secret = await self._client.get(SECRETS, SECRET, namespace=self._namespace, into=_KeySecret)
            if secret.data:
                return secret
            key = base64.b64encode(secrets.token_bytes(_LENGTH)).decode()
            patch = {
                "metadata": {"resourceVersion": secret.metadata.resource_version},
                "immutable": True,
                "data": {_ENTRY: key},
            }
            try:
                made = await self._client.patch(SECRETS, SECRET, patch, namespace=self._namespace, into=_KeySecret)
            except Conflict:
                continue  # another replica was faster: its key counts
            log.info("drew the key in the Secret %s/%s: keep it in your backups", self._namespace, SECRET)
            return made


def _decode(secret: _KeySecret) -> bytes:
    """Raises ValueError."""
    try:
        key = base64.b64decode(secret.data[_ENTRY], validate=True)
    except (KeyError, binascii.Error):
        key = b""
    if len(key) < _LENGTH:
        raise ValueError(f"has no entry {_ENTRY!r} with at least {_LENGTH} bytes")
    return key
