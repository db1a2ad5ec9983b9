"""Proof that a form was sent by a page of ours: a token made of the browser's secret cookie, and its origin.

A desktop's page is same-site with the portal and belongs to somebody else, so SameSite cookies are no proof here.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping

from markupsafe import Markup
from starlette.requests import HTTPConnection

from vdi.gateway.web.cookies import LOGIN, PRE_LOGIN, cookie_of

FIELD = "csrf"
"""Name of the hidden field."""
HEADER = "x-csrf-token"
"""The same for requests that scripts send."""
_SALT = 16
_SECRET = "vdi.csrf_secret"  # noqa: S105 -- a key of the scope


def make_token(secret: str) -> str:
    """A token that only who has the cookie's value can make. Each is another, so packed pages tell nothing."""
    salt = secrets.token_bytes(_SALT)
    return base64.urlsafe_b64encode(salt + _sign(secret, salt)).decode()


def matches(secret: str, token: str) -> bool:
    """Whether the token was made of this secret."""
    try:
        raw = base64.urlsafe_b64decode(token.encode())
    except (binascii.Error, ValueError):
        return False
    salt, mark = raw[:_SALT], raw[_SALT:]
    return bool(secret) and hmac.compare_digest(mark, _sign(secret, salt))


def _sign(secret: str, salt: bytes) -> bytes:
    return hmac.digest(secret.encode(), b"csrf/" + salt, hashlib.sha256)


def foreign(headers: Mapping[str, str], origin: str) -> str:
    """Why a request that changes something was not sent by a page of `origin`; empty when it was.

    Every browser of today says at least one of the two; one that says neither is refused.
    """
    site = headers.get("sec-fetch-site", "")
    if site and site != "same-origin":
        return f"Sec-Fetch-Site is {site[:20]!r}; allowed: 'same-origin'"
    given = headers.get("origin", "")
    if given and given != origin:
        return f"Origin is {given[:100]!r}; allowed: {origin!r}"
    return "" if site or given else "it has neither Sec-Fetch-Site nor Origin"


def use_secret(request: HTTPConnection, secret: str) -> None:
    """Bind this request's forms to a secret whose cookie is sent with the response only."""
    request.scope[_SECRET] = secret


def token_of(request: HTTPConnection) -> str:
    """For the field `csrf` of a form, or the header X-CSRF-Token of a script. Empty where no cookie of ours is."""
    secret = next(_secrets(request), "")
    return make_token(secret) if secret else ""


def field_of(request: HTTPConnection) -> Markup:
    """The hidden field of a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, token_of(request))


def is_proven(request: HTTPConnection, token: str) -> bool:
    """Whether the token was made for this browser."""
    return any(matches(secret, token) for secret in _secrets(request))


def _secrets(request: HTTPConnection) -> Iterator[str]:
    """What this browser's forms can be bound to. A login that has ended may still be in a cookie beside the other."""
    given = (request.scope.get(_SECRET, ""), cookie_of(request, LOGIN), cookie_of(request, PRE_LOGIN))
    return filter(None, given)
