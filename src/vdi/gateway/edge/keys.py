"""The keys that sign desktops' tokens: Ed25519, in one Secret that all replicas share, renewed every day.

    made        +LEAD: signs              a day later: the next one is made    its successor signs, +KEPT: removed
    |-- published --|------------------------------|------- LEAD -------|------------ KEPT -----------|

Every replica knows a key (it reads the Secret every minute) long before one of them signs with it. The rules are pure;
`KeyRing` does the I/O.
"""

import base64
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from joserfc.jwk import OKPKey

from vdi.gateway.settings import Settings
from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

ALGORITHM = "Ed25519"
"""RFC 9864's name of it; `EdDSA`, which says less, is deprecated there."""
LIFE = timedelta(days=1)
LEAD = timedelta(minutes=10)
KEPT = timedelta(hours=1)
"""Longer than any token lives."""
SECRET_KEY = "keys.json"  # noqa: S105 -- the name of the entry
_TRIES = 5


class StoredKey(msgspec.Struct, frozen=True):
    """One key as it lies in the Secret."""

    kid: str
    made: datetime
    private: str
    """The private JWK's `d`."""
    public: str
    """The `x`."""

    def jwk(self) -> OKPKey:
        """For signing and verifying."""
        return OKPKey.import_key({**self.public_jwk(), "d": self.private})

    def public_jwk(self) -> dict[str, str]:
        """For the JWKS."""
        return {"kty": "OKP", "crv": "Ed25519", "x": self.public, "kid": self.kid, "use": "sig", "alg": ALGORITHM}


def make_key(now: datetime) -> StoredKey:
    """A new key."""
    made = OKPKey.generate_key("Ed25519", private=True).as_dict(private=True)
    return StoredKey(secrets.token_hex(8), now, str(made["d"]), str(made["x"]))


def signing_key(keys: Sequence[StoredKey], now: datetime) -> StoredKey:
    """The newest one that everybody knows; before there is one, the oldest. `keys` is sorted and not empty."""
    known = [key for key in keys if key.made + LEAD <= now]
    return known[-1] if known else keys[0]


def renewed(keys: Sequence[StoredKey], now: datetime, make: Callable[[datetime], StoredKey]) -> list[StoredKey]:
    """The keys as they should be now: without those that no token needs, with the next one when it is time."""
    kept = sorted(keys, key=lambda key: key.made)
    while len(kept) > 1 and kept[1].made + LEAD + KEPT <= now:
        kept.pop(0)
    if not kept or kept[-1].made + LIFE <= now:
        kept.append(make(now))
    return kept


class _Secret(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any]
    data: dict[str, str] = {}


class KeyRing:
    """The keys of now. `refresh` is called at the start, every minute, and when a token names an unknown key."""

    def __init__(self, client: Client, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._name = settings.keys_secret
        self._namespace = settings.gateway_namespace
        self._clock = clock
        self._keys: list[StoredKey] = []
        self._jwks: dict[str, OKPKey] = {}
        self.generation = 0
        """Another one whenever the keys have changed: what was verified with those of before is verified again."""
        self.trouble = "not read yet"
        """Why the keys are not as they should be; empty: they are."""

    @property
    def ready(self) -> bool:
        """Whether there is a key to sign with."""
        return bool(self._keys)

    def signer(self) -> tuple[str, OKPKey]:
        """Id and key to sign with now. Only when `ready`."""
        key = signing_key(self._keys, self._clock())
        return key.kid, self._jwks[key.kid]

    def verifier(self, kid: str) -> OKPKey | None:
        """The key of this id, if it is one of ours."""
        return self._jwks.get(kid)

    def jwks(self) -> dict[str, Any]:
        """The public halves, for everybody."""
        return {"keys": [key.public_jwk() for key in self._keys]}

    async def refresh(self) -> None:
        """Read the Secret, and write the next key into it when it is time. What goes wrong is in `trouble`."""
        before = self.trouble
        try:
            await self._refresh()
        except KubeError as error:
            self.trouble = f"the Secret {self._namespace}/{self._name}: {error}"
        except (msgspec.MsgspecError, ValueError) as error:
            # Not the content itself: it is secret.
            self.trouble = (
                f"the Secret {self._namespace}/{self._name} has a {SECRET_KEY} that cannot be read "
                f"({type(error).__name__}); delete that entry to have new keys generated"
            )
        if self.trouble and self.trouble != before:
            log.warning("signing keys: %s", self.trouble)

    async def _refresh(self) -> None:
        for _ in range(_TRIES):
            try:
                secret = await self._client.get(SECRETS, self._name, namespace=self._namespace, into=_Secret)
            except NotFound:
                self.trouble = f"the Secret {self._namespace}/{self._name} does not exist; the chart creates it, empty"
                return
            there = _decode(secret.data.get(SECRET_KEY, ""))
            desired = renewed(there, self._clock(), make_key)
            if desired == there or await self._write(secret, desired):
                self._take(desired)
                return
        self.trouble = f"the Secret {self._namespace}/{self._name} keeps being changed by others"

    async def _write(self, secret: _Secret, keys: list[StoredKey]) -> bool:
        """False: another replica was faster, and its keys are to be read."""
        data = {SECRET_KEY: base64.b64encode(msgspec.json.encode(keys)).decode()}
        patch = {"metadata": {"resourceVersion": secret.metadata["resourceVersion"]}, "data": data}
        try:
            await self._client.patch(SECRETS, self._name, patch, namespace=self._namespace, into=msgspec.Raw)
        except Conflict:
            return False
        return True

    def _take(self, keys: list[StoredKey]) -> None:
        if keys != self._keys:
            self._jwks = {key.kid: key.jwk() for key in keys}
            self._keys = keys
            self.generation += 1
        self.trouble = ""


def _decode(data: str) -> list[StoredKey]:
    return msgspec.json.decode(base64.b64decode(data), type=list[StoredKey]) if data else []
