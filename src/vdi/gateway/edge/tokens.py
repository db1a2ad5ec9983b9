"""Desktop tokens and the keys that sign them.

A token is a signed JWT that says for some minutes who may enter which desktop:

    iss  the portal's URL          aud  the session's uid         sub  the user        role
    gid  the id of its grant       lid  the login of that grant   iat, nbf, exp        jti

One algorithm, whatever a header says. Reading checks signature and shape and caches the result.
Whether the token holds now and for this host is checked each time. The keys (Ed25519) are in one
Secret that all replicas share, and a new one is made every day:

    made        +LEAD: signs              a day later: the next one is made    its successor signs, +KEPT: removed
    |-- published --|------------------------------|------- LEAD -------|------------ KEPT -----------|

Every replica reads the Secret each minute, so it knows a key long before another replica signs with
it.
"""

import base64
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from vdi.api.session import Role
from vdi.gateway.settings import Settings
from vdi.gateway.store.logins import Grant
from vdi.kube.errors import Conflict, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

# The name of RFC 9864, which deprecates `EdDSA`: that name leaves the curve open.
ALGORITHM = "Ed25519"
KEY_LIFE = timedelta(days=1)
KEY_LEAD = timedelta(minutes=10)
# Longer than any token lives.
KEY_KEPT = timedelta(hours=1)
SECRET_KEY = "keys.json"  # noqa: S105 -- the name of the entry
_TRIES = 5
REMEMBERED = 8192
# Seconds that a token may come from the future: the clocks of two replicas differ.
LEEWAY = 30.0
_COMPACT = re.compile(r"[A-Za-z0-9_-]{10,300}\.[A-Za-z0-9_-]{10,1500}\.[A-Za-z0-9_-]{86}")


class StoredKey(msgspec.Struct, frozen=True):
    """One key in the Secret: `private` is the JWK's `d`, `public` its `x`."""

    kid: str
    made: datetime
    private: str
    public: str

    def jwk(self) -> OKPKey:
        return OKPKey.import_key({**self.public_jwk(), "d": self.private})

    def public_jwk(self) -> dict[str, str]:
        return {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": self.public,
            "kid": self.kid,
            "use": "sig",
            "alg": ALGORITHM,
        }


def make_key(now: datetime) -> StoredKey:
    """A new key, made now."""
    made = OKPKey.generate_key("Ed25519", private=True).as_dict(private=True)
    return StoredKey(secrets.token_hex(8), now, str(made["d"]), str(made["x"]))


def signing_key(keys: Sequence[StoredKey], now: datetime) -> StoredKey:
    """The newest key that every replica knows; before there is one, the oldest. `keys` is sorted
    and not empty.
    """
    known = [key for key in keys if key.made + KEY_LEAD <= now]
    return known[-1] if known else keys[0]


def renewed(
    keys: Sequence[StoredKey], now: datetime, make: Callable[[datetime], StoredKey]
) -> list[StoredKey]:
    """The desired keys: without those that no token needs any longer, with a new one when it is
    time.
    """
    kept = sorted(keys, key=lambda key: key.made)
    while len(kept) > 1 and kept[1].made + KEY_LEAD + KEY_KEPT <= now:
        kept.pop(0)
    if not kept or kept[-1].made + KEY_LIFE <= now:
        kept.append(make(now))
    return kept


class _Secret(msgspec.Struct, rename="camel"):
    metadata: dict[str, Any]
    data: dict[str, str] = {}


class KeyRing:
    """The current keys. `refresh` runs at the start, every minute, and when a token names an
    unknown key.
    """

    def __init__(self, client: Client, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._client = client
        self._name = settings.keys_secret
        self._namespace = settings.gateway_namespace
        self._clock = clock
        self._keys: list[StoredKey] = []
        self._jwks: dict[str, OKPKey] = {}
        # Another one whenever the keys have changed: what was verified with those of before is
        # verified again.
        self.generation = 0
        # Why the keys are not as they should be; empty: they are.
        self.trouble = "not read yet"

    @property
    def ready(self) -> bool:
        return bool(self._keys)

    def signer(self) -> tuple[str, OKPKey]:
        """Id and key to sign with now; only when `ready`."""
        key = signing_key(self._keys, self._clock())
        return key.kid, self._jwks[key.kid]

    def verifier(self, kid: str) -> OKPKey | None:
        return self._jwks.get(kid)

    def jwks(self) -> dict[str, Any]:
        return {"keys": [key.public_jwk() for key in self._keys]}

    async def refresh(self) -> None:
        """Read the Secret, and write the next key into it when it is time. `trouble` has the reason
        of a failure.
        """
        before = self.trouble
        try:
            await self._refresh()
        except KubeError as error:
            self.trouble = f"the Secret {self._namespace}/{self._name}: {error}"
        except (msgspec.MsgspecError, ValueError) as error:
            # The error's own text may quote the content, which is secret.
            self.trouble = (
                f"the Secret {self._namespace}/{self._name} has a {SECRET_KEY} that cannot be read "
                f"({type(error).__name__}); delete that entry to have new keys generated"
            )
        if self.trouble and self.trouble != before:
            log.warning("signing keys: %s", self.trouble)

    async def _refresh(self) -> None:
        for _ in range(_TRIES):
            try:
                secret = await self._client.get(
                    SECRETS, self._name, namespace=self._namespace, into=_Secret
                )
            except NotFound:
                self.trouble = (
                    f"the Secret {self._namespace}/{self._name} does not exist; the chart creates"
                    " it, empty"
                )
                return
            there = _decode(secret.data.get(SECRET_KEY, ""))
            desired = renewed(there, self._clock(), make_key)
            if desired == there or await self._write(secret, desired):
                self._take(desired)
                return
        self.trouble = f"the Secret {self._namespace}/{self._name} keeps being changed by others"

    async def _write(self, secret: _Secret, keys: list[StoredKey]) -> bool:
        """False: another replica has written first, and its keys count."""
        data = {SECRET_KEY: base64.b64encode(msgspec.json.encode(keys)).decode()}
        patch = {"metadata": {"resourceVersion": secret.metadata["resourceVersion"]}, "data": data}
        try:
            await self._client.patch(
                SECRETS, self._name, patch, namespace=self._namespace, into=msgspec.Raw
            )
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
    if data:
        return msgspec.json.decode(base64.b64decode(data), type=list[StoredKey])
    return []


class Claims(msgspec.Struct, frozen=True):
    """The claims of a token. Times are Unix seconds."""

    iss: str
    aud: str
    sub: str
    role: Role
    gid: str
    lid: str
    iat: int
    nbf: int
    exp: int
    jti: str


class TokenError(Exception):
    """Raised for a text that is no token of this gateway; the sentence shows nothing of the
    text.
    """


class UnknownKeyError(TokenError):
    """Raised when a token names an unknown key: another replica may have made it just now."""


class Tokens:
    """Makes and reads desktop tokens."""

    def __init__(
        self, ring: KeyRing, issuer: str, seconds: int, clock: Callable[[], datetime]
    ) -> None:
        self._ring = ring
        self._issuer = issuer
        self._seconds = seconds
        self._clock = clock
        # Errors are not cached, so a flood of forgeries evicts no good token. The generation of the
        # keys is part of the cache's key: a token signed with a stolen key may last for years, and
        # must end when that key is removed.
        self._remembered = lru_cache(REMEMBERED)(self._read)

    def mint(self, grant: Grant) -> str:
        """A new token, which ends with its grant at the latest; only while the ring is ready."""
        kid, key = self._ring.signer()
        now = int(self._clock().timestamp())
        claims = Claims(
            iss=self._issuer,
            aud=grant.session_uid,
            sub=grant.user,
            role=grant.role,
            gid=grant.id,
            lid=grant.login_id,
            iat=now,
            nbf=now,
            exp=min(now + self._seconds, int(grant.expires.timestamp())),
            jti=secrets.token_urlsafe(12),
        )
        header = {"typ": "JWT", "alg": ALGORITHM, "kid": kid}
        return jwt.encode(header, msgspec.to_builtins(claims), key, algorithms=[ALGORITHM])

    def read(self, token: str) -> Claims:
        """The claims of a token of this gateway, whether its time is over or not. Raises
        TokenError.
        """
        return self._remembered(token, self._ring.generation)

    def holds(self, claims: Claims, now: float) -> bool:
        return claims.nbf - LEEWAY <= now < claims.exp

    def is_half_over(self, claims: Claims, now: float) -> bool:
        return now > (claims.iat + claims.exp) / 2

    def _read(self, token: str, _generation: int) -> Claims:
        if not _COMPACT.fullmatch(token):
            raise TokenError("it does not have the form of a token")
        try:
            header = _HEADER.decode(_unpack(token.partition(".")[0]))
        except (ValueError, msgspec.MsgspecError):
            raise TokenError("its header is not one of this gateway's") from None
        key = self._ring.verifier(header.kid)
        if key is None:
            raise UnknownKeyError("it names an unknown key")
        try:
            claims = msgspec.convert(jwt.decode(token, key, algorithms=[ALGORITHM]).claims, Claims)
        except JoseError as error:
            raise TokenError(f"its signature is not valid: {error.error}") from None
        except (ValueError, msgspec.ValidationError) as error:
            raise TokenError(f"its content is not valid ({type(error).__name__})") from None
        if claims.iss != self._issuer:
            raise TokenError("it was issued by another issuer")
        return claims


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """The one header that is accepted: none may bring its own key, algorithm, key address or
    critical extension.
    """

    alg: Literal["Ed25519"]
    kid: str
    typ: Literal["JWT"]


_HEADER = msgspec.json.Decoder(_Header)


def _unpack(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
