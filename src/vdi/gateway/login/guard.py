"""Who sends this request, and whether it may: what every route of the gateway asks first.

    person = await require(request)          # pages and API: a login, or 303 to the login page, or 401
    person = await require_admin(request)    # the same, and 403 for everybody else
    await check_csrf(request)                # first line of every handler that changes something

A refusal is a starlette HTTPException with a sentence for people.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from vdi.gateway.denied import CrossSiteError
from vdi.gateway.login import csrf
from vdi.gateway.login.cookies import LOGIN, PRE_LOGIN, cookie_of
from vdi.gateway.login.logins import TOKEN_ID
from vdi.gateway.people import Person
from vdi.gateway.store.logins import ApiToken

if TYPE_CHECKING:
    from vdi.gateway.parts import Gateway

_PERSON = "vdi.person"
_SECRET = "vdi.csrf_secret"  # noqa: S105 -- a key of the scope
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def gateway_of(request: HTTPConnection) -> "Gateway":
    """The gateway that answers this request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def person_of(request: HTTPConnection) -> Person | None:
    """Who is logged in: by `Authorization: Bearer vdi_...`, else by the login's cookie. Looked up once per request.

    A request with an Authorization header never falls back to the cookie. Raises DatabaseUnavailableError.
    """
    if _PERSON not in request.scope:
        logins = gateway_of(request).login.logins
        given = request.headers.get("authorization")
        if given is not None:
            request.scope[_PERSON] = await logins.person_by_token(bearer(request))
        else:
            request.scope[_PERSON] = await logins.person_by_cookie(cookie_of(request, LOGIN))
    person: Person | None = request.scope[_PERSON]
    return person


async def require(request: HTTPConnection) -> Person:
    """Who is logged in. Otherwise raises HTTPException: a page 303 to the login and back, anything else 401."""
    person = await person_of(request)
    if person is not None:
        return person
    if request.headers.get("hx-request") == "true":
        where = urlsplit(request.headers.get("hx-current-url", ""))
        page = where.path + (f"?{where.query}" if where.query else "")
        raise HTTPException(401, _LOGGED_OUT, {"HX-Redirect": login_url(page)})
    if _is_page(request):
        page = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        raise HTTPException(303, _LOGGED_OUT, {"Location": login_url(page)})
    raise HTTPException(401, _LOGGED_OUT, {"WWW-Authenticate": 'Bearer realm="vdi"'})


async def require_admin(request: HTTPConnection) -> Person:
    """An administrator who is logged in; 403 for everybody else."""
    person = await require(request)
    if not person.admin:
        raise HTTPException(403, f"This is for administrators; {person.user} is none.")
    return person


async def require_browser(request: HTTPConnection) -> Person:
    """Somebody who has logged in here with a browser: an API token must not make or end logins and other tokens."""
    person = await require(request)
    if request.headers.get("authorization") is not None:
        raise HTTPException(403, "This needs a login in the browser; an API token is not enough.")
    return person


def csrf_token(request: HTTPConnection) -> str:
    """For the field `csrf` of a form, or the header X-CSRF-Token of a script. Empty where no cookie of ours is."""
    secret = next(_secrets(request), "")
    return csrf.make_token(secret) if secret else ""


def csrf_field(request: HTTPConnection) -> Markup:
    """The hidden field of a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(csrf.FIELD, csrf_token(request))


async def check_csrf(request: Request) -> None:
    """Refuse (403) a change that no page of ours has sent. A request with a bearer token needs no proof: no browser
    adds one by itself, as it may a password (`Basic`).
    """
    if request.method in SAFE or bearer(request):
        return
    settings = gateway_of(request).settings
    why = csrf.foreign(request.headers, settings.portal_url)
    if why:
        raise CrossSiteError(f"This was not sent by a page of {settings.portal_url}: {why}.")
    token = request.headers.get(csrf.HEADER, "")
    if not token and _is_form(request):
        field = (await request.form(max_files=0, max_fields=100)).get(csrf.FIELD, "")
        token = field if isinstance(field, str) else ""
    if not any(csrf.matches(secret, token) for secret in _secrets(request)):
        raise CrossSiteError("This form is from before you logged in or out. Go back, reload the page and try again.")


def use_csrf_secret(request: HTTPConnection, secret: str) -> None:
    """What this request's forms are bound to, where the cookie with it goes out with the answer only."""
    request.scope[_SECRET] = secret


def bearer(request: HTTPConnection) -> str:
    """The token of the Authorization header; empty where it has none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def end_login(gateway: "Gateway", login_id: str) -> None:
    """End one login and every way into a desktop that was made with it; running pictures stop."""
    await gateway.login.logins.end(login_id)
    await gateway.edge.end_grants(login_id=login_id)


async def end_everything(gateway: "Gateway", user: str, *, tokens: bool) -> None:
    """End all logins of a user and every way into a desktop that was made with them; with `tokens` API tokens too."""
    await gateway.login.logins.end_all(user)
    if tokens:
        await gateway.login.logins.end_tokens(user)
    await gateway.edge.end_grants(user=user)


async def end_token(gateway: "Gateway", user: str, token_id: str) -> ApiToken | None:
    """Revoke an API token of a user, and what was opened with it; None where they have none of this id."""
    ended: ApiToken | None = await gateway.login.logins.end_token(user, token_id)
    if ended is not None:
        await gateway.edge.end_grants(login_id=f"{TOKEN_ID}{token_id}")
    return ended


_LOGGED_OUT = "You are not logged in, or your login has ended."


def login_url(page: str) -> str:
    """The login page that leads back to this page."""
    return f"/login?next={quote(page, safe='/')}" if page not in ("", "/") else "/login"


def _is_page(request: HTTPConnection) -> bool:
    accepts = request.headers.get("accept", "")
    method = request.scope.get("method", "GET")
    return "text/html" in accepts and method in SAFE and not request.url.path.startswith("/api/")


def _is_form(request: HTTPConnection) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")


def _secrets(request: HTTPConnection) -> Iterator[str]:
    """What this browser's forms can be bound to. A login that has ended may still be in a cookie beside the other."""
    given = (request.scope.get(_SECRET, ""), cookie_of(request, LOGIN), cookie_of(request, PRE_LOGIN))
    return filter(None, given)
