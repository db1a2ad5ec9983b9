"""Credentials of a request: our cookies, the Authorization header, and the CSRF token of forms.

A desktop's page is same-site with the portal and belongs to somebody else, so SameSite cookies
prove nothing here: a form needs a token made of the browser's secret cookie, and the portal's own
origin.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping

from markupsafe import Markup
from starlette.requests import HTTPConnection
from starlette.responses import Response

# Prefix of all our cookies. The edge removes them from requests to desktops.
COOKIE_PREFIX = "__Host-vdi-"
# Secret of the login, for the longest time that a login lasts.
LOGIN_COOKIE = "__Host-vdi-login"
# Secret of a browser that has not logged in yet: the login page's form is bound to it.
PRE_LOGIN_COOKIE = "__Host-vdi-before"
# A digest of the terms that this browser has accepted for its next login.
TERMS_COOKIE = "__Host-vdi-terms"
# Secret of a browser that is on its way to an identity provider and back.
FLOW_COOKIE = "__Host-vdi-flow"
# The ID token of a sign-on, which the provider's sign-out asks for. Browsers send it to `/logout`
# alone, so it is no `__Host-` cookie: 4 KiB in each request are too much.
HINT_COOKIE, HINT_PATH = "__Secure-vdi-hint", "/logout"
# Name of the hidden field.
CSRF_FIELD = "csrf"
# The same for requests that scripts send.
CSRF_HEADER = "x-csrf-token"
_SALT_BYTES = 16
_SCOPE_SECRET = "vdi.csrf_secret"  # noqa: S105 -- a key of the scope


def bearer(request: HTTPConnection) -> str:
    """The bearer token of the Authorization header; empty without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    return ""


def cookies_in(header: str) -> dict[str, str]:
    """Our cookies of a Cookie header. A name with two different values is left out: one of them is
    planted.

    Names are compared byte for byte. Browsers do not apply the rules of `__Host-` to
    `\\xa0__Host-...`, so any desktop may plant that for the whole domain; `str.strip()` would turn
    it into ours.
    """
    cookies: dict[str, str] = {}
    twice = set()
    for part in header.split(";"):
        name, _, value = part.strip(" \t").partition("=")
        if name.startswith(COOKIE_PREFIX) or name == HINT_COOKIE:
            if cookies.get(name, value) != value:
                twice.add(name)
            cookies[name] = value
    if twice:
        return {name: value for name, value in cookies.items() if name not in twice}
    return cookies


def cookie_of(request: HTTPConnection, name: str) -> str:
    """The value of one of our cookies; empty without it. Starlette's parser strips names, see
    `cookies_in`.
    """
    return cookies_in("; ".join(request.headers.getlist("cookie"))).get(name, "")


def set_cookie(
    response: Response, name: str, value: str, seconds: int | None = None, path: str = "/"
) -> None:
    """Send a cookie; without `seconds` it lasts as long as the browser runs."""
    response.set_cookie(
        name, value, max_age=seconds, path=path, secure=True, httponly=True, samesite="lax"
    )


def drop_cookie(response: Response, name: str, path: str = "/") -> None:
    """Make the browser forget it."""
    response.delete_cookie(name, path=path, secure=True, httponly=True, samesite="lax")


def make_csrf_token(secret: str) -> str:
    """A token that only who has the cookie's value can make. Each is another, so packed pages tell
    nothing.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    return base64.urlsafe_b64encode(salt + _sign(secret, salt)).decode()


def matches_csrf_token(secret: str, token: str) -> bool:
    """Whether the token was made of this secret."""
    try:
        raw = base64.urlsafe_b64decode(token.encode())
    except (binascii.Error, ValueError):
        return False
    salt, mark = raw[:_SALT_BYTES], raw[_SALT_BYTES:]
    return bool(secret) and hmac.compare_digest(mark, _sign(secret, salt))


def _sign(secret: str, salt: bytes) -> bytes:
    return hmac.digest(secret.encode(), b"csrf/" + salt, hashlib.sha256)


def find_foreign_origin(headers: Mapping[str, str], origin: str) -> str:
    """The reason to refuse a change that no page of `origin` has sent; empty if one has.

    Every current browser sends at least one of Sec-Fetch-Site and Origin; a request with neither is
    refused.
    """
    site = headers.get("sec-fetch-site", "")
    if site and site != "same-origin":
        return f"Sec-Fetch-Site is {site[:20]!r}; allowed: 'same-origin'"
    given = headers.get("origin", "")
    if given and given != origin:
        return f"Origin is {given[:100]!r}; allowed: {origin!r}"
    if site or given:
        return ""
    return "it has neither Sec-Fetch-Site nor Origin"


def bind_csrf_secret(request: HTTPConnection, secret: str) -> None:
    """Bind this request's forms to a secret whose cookie is sent with the response only."""
    request.scope[_SCOPE_SECRET] = secret


def csrf_token_of(request: HTTPConnection) -> str:
    """For the field `csrf` of a form, or the header X-CSRF-Token of a script. Empty where no cookie
    of ours is.
    """
    secret = next(_secrets(request), "")
    return make_csrf_token(secret) if secret else ""


def csrf_field_of(request: HTTPConnection) -> Markup:
    """The hidden field of a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(
        CSRF_FIELD, csrf_token_of(request)
    )


def is_csrf_token_valid(request: HTTPConnection, token: str) -> bool:
    """Whether the token was made for this browser."""
    return any(matches_csrf_token(secret, token) for secret in _secrets(request))


def _secrets(request: HTTPConnection) -> Iterator[str]:
    """Secrets that this browser's forms can be bound to: a login that has ended may still be in its
    cookie.
    """
    given = (
        request.scope.get(_SCOPE_SECRET, ""),
        cookie_of(request, LOGIN_COOKIE),
        cookie_of(request, PRE_LOGIN_COOKIE),
    )
    return filter(None, given)
