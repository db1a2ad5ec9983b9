"""Our cookies. `__Host-` means: only this host, only HTTPS, every path; no desktop's page can plant one."""

from starlette.requests import HTTPConnection
from starlette.responses import Response

OURS = "__Host-vdi-"
"""How the names of all our cookies begin; no desktop gets to see one."""
LOGIN = "__Host-vdi-login"
"""The login's secret, for as long as the login lasts at most."""
PRE_LOGIN = "__Host-vdi-before"
"""A secret of a browser that has not logged in yet: what the login page's form is bound to."""
TERMS = "__Host-vdi-terms"
"""A digest of the terms that this browser has accepted for its next login."""
FLOW = "__Host-vdi-flow"
"""A secret of a browser that is on its way to an identity provider and back."""


def cookies_in(header: str) -> dict[str, str]:
    """Our cookies of a Cookie header. One that comes twice with two values is left out: one of them is planted.

    A name is what the browser says, byte for byte: `\\xa0__Host-...` is not held to what `__Host-` promises, so any
    desktop may plant it for the whole domain. `str.strip()` would make it ours.
    """
    found: dict[str, str] = {}
    twice = set()
    for part in header.split(";"):
        name, _, value = part.strip(" \t").partition("=")
        if name.startswith(OURS):
            if found.get(name, value) != value:
                twice.add(name)
            found[name] = value
    return {name: value for name, value in found.items() if name not in twice} if twice else found


def cookie_of(request: HTTPConnection, name: str) -> str:
    """The value of one of our cookies; empty without it. Starlette's own reading of names is too kind."""
    return cookies_in("; ".join(request.headers.getlist("cookie"))).get(name, "")


def set_cookie(response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """Send a cookie; without `seconds` it lasts as long as the browser runs."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def drop_cookie(response: Response, name: str) -> None:
    """Make the browser forget it."""
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")
