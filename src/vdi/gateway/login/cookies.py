"""The login's cookies. `__Host-` means: only this host, only HTTPS, every path; no desktop's page can plant one."""

from starlette.requests import HTTPConnection
from starlette.responses import Response

from vdi.gateway.edge.headers import cookies_in

LOGIN = "__Host-vdi-login"
"""The login's secret, for as long as the login lasts at most."""
PRE_LOGIN = "__Host-vdi-before"
"""A secret of a browser that has not logged in yet: what the login page's form is bound to."""
FLOW = "__Host-vdi-flow"
"""A secret of a browser that is on its way to an identity provider and back."""


def cookie_of(request: HTTPConnection, name: str) -> str:
    """The value of one of our cookies; empty where there is none. Starlette's own reading of names is too kind."""
    return cookies_in("; ".join(request.headers.getlist("cookie"))).get(name, "")


def set_cookie(response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """Send a cookie; without `seconds` it lasts as long as the browser runs."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def drop_cookie(response: Response, name: str) -> None:
    """Make the browser forget it."""
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")
