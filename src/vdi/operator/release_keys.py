"""Secret keys of a release: of host labels and of desktops' tokens, each in a Secret of the
operator's namespace.

The chart creates the Secrets, empty, and the first leader draws the keys. The operator may not
create Secrets there: a Secret of another type would give it the token of any service account.
"""

import base64
import logging
import secrets

import msgspec

from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.credentials import KEY_BYTES, KEY_ENTRY, KEY_SECRET, decode_key

log = logging.getLogger(__name__)

HOST_KEY = "vdi-host-key"
DESKTOP_KEY = KEY_SECRET
# Effect of losing a key, by the name of its Secret.
_LOSSES = {
    HOST_KEY: "all desktops without spec.hostname then get new addresses",
    DESKTOP_KEY: "all running desktops then have to be restarted",
}


class _Metadata(msgspec.Struct, rename="camel"):
    resource_version: str


class _KeySecret(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}


class ReleaseKey:
    """One key; `load` it before the first reconcile."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self.problem = ""  # why it could not be read
        self._client = client
        self._namespace = namespace
        self._name = name
        self._value = b""

    @property
    def known(self) -> bool:
        """Whether it has been read."""
        return bool(self._value)

    @property
    def value(self) -> bytes:
        """The key. Raises RuntimeError before it is read."""
        if not self._value:
            raise RuntimeError(f"the key in the Secret {self._name} has not been read yet")
        return self._value

    async def load(self) -> bool:
        """Read the key, or draw it if the Secret is empty. False on failure: see `problem` and the
        log.
        """
        problem = ""
        secret, loss = f"the Secret {self._namespace}/{self._name}", _LOSSES[self._name]
        try:
            self._value = decode_key((await self._read_or_draw()).data)
        except NotFound:
            problem = (
                f"{secret} does not exist. Restore it from a backup, or have an empty one made with"
                f" the next vdi install: {loss}"
            )
        except KubeError as error:
            problem = f"{secret} cannot be read: {error}"
        except ValueError as error:
            problem = (
                f"{secret} {error}. Restore it from a backup, or delete it and have an empty one"
                f" made with the next vdi install: {loss}: kubectl --namespace {self._namespace}"
                f" delete secret {self._name}"
            )
        if problem and problem != self.problem:
            log.error("no session is worked on: %s", problem)
        self.problem = problem
        return not problem

    async def _read_or_draw(self) -> _KeySecret:
        while True:
            secret = await self._client.get(
                SECRETS, self._name, namespace=self._namespace, into=_KeySecret
            )
            if secret.data:
                return secret
            key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
            patch = {
                "metadata": {"resourceVersion": secret.metadata.resource_version},
                "immutable": True,
                "data": {KEY_ENTRY: key},
            }
            try:
                made = await self._client.patch(
                    SECRETS, self._name, patch, namespace=self._namespace, into=_KeySecret
                )
            except Conflict:
                continue  # another replica was faster, and its key counts
            log.info(
                "drew the key in the Secret %s/%s: keep it in your backups",
                self._namespace,
                self._name,
            )
            return made
