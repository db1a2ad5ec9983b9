"""Desktops' tokens: signed claims that say who may enter which desktop, for minutes.

    iss  the portal's URL          aud  the session's uid         sub  the user        role
    gid  the grant it stands on    lid  the login of that grant   iat, nbf, exp        jti

One algorithm, whatever a header says. Reading checks signature and shape and remembers the answer; whether the token
holds *now*, *here*, is checked each time.
"""

import base64
import re
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Literal

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError

from vdi.api.session import Role
from vdi.gateway.edge.keys import ALGORITHM, KeyRing
from vdi.gateway.store.grants import Grant

REMEMBERED = 8192
LEEWAY = 30.0
"""Seconds that a token may come from the future: the clocks of two replicas differ."""
_COMPACT = re.compile(r"[A-Za-z0-9_-]{10,300}\.[A-Za-z0-9_-]{10,1500}\.[A-Za-z0-9_-]{86}")


class Claims(msgspec.Struct, frozen=True):
    """What a token says. Times are Unix seconds."""

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
    """Raised when a text is no token of ours; the sentence says why and shows nothing of it."""


class UnknownKeyError(TokenError):
    """Raised when a token names a key that we do not know: another replica may have made it just now."""


class Tokens:
    """Makes and reads tokens."""

    def __init__(self, ring: KeyRing, issuer: str, seconds: int, clock: Callable[[], datetime]) -> None:
        self._ring = ring
        self._issuer = issuer
        self._seconds = seconds
        self._clock = clock
        # Errors are not remembered, so a flood of forgeries pushes no good token out. The keys' generation is part of
        # what is remembered: a token of a stolen key may hold for years, and must end when the key is removed.
        self._remembered = lru_cache(REMEMBERED)(self._read)

    def mint(self, grant: Grant) -> str:
        """A new token, which ends with its grant at the latest. Only while the ring is ready."""
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
        """What a token of ours says, in time or not. Raises TokenError."""
        return self._remembered(token, self._ring.generation)

    def holds(self, claims: Claims, now: float) -> bool:
        """Whether it is its time."""
        return claims.nbf - LEEWAY <= now < claims.exp

    def is_half_over(self, claims: Claims, now: float) -> bool:
        """Whether it is time for the next one."""
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
    """No header may bring its own key, algorithm, address of a key, or anything that must be understood."""

    alg: Literal["Ed25519"]
    kid: str
    typ: Literal["JWT"]


_HEADER = msgspec.json.Decoder(_Header)


def _unpack(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
