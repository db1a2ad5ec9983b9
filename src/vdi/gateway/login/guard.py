"""Authentication of requests, and the check that a change comes from a page of the portal: called
first by every route.

    user = await guard.require(request)          # pages and API: a login, or 303 to the login page, or 401
    user = await guard.require_admin(request)    # the same, and 403 for everyone else
    await guard.check_csrf(request)              # first line of every handler that changes something

A refusal is a starlette HTTPException with a sentence for people. Only this module reads the
login's cookie and the Authorization header.
"""

from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from vdi.gateway.denied import CrossSiteError
from vdi.gateway.login.logins import Logins
from vdi.gateway.rights import Actor, User
from vdi.gateway.settings import Settings
from vdi.gateway.web import credentials
from vdi.gateway.web.credentials import LOGIN_COOKIE, bearer, cookie_of
from vdi.gateway.web.middleware import AUTHENTICATED

# Key of the request's scope under which the user is kept: they are looked up once per request.
_USER = "vdi.user"

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_LOGGED_OUT = "You are not signed in, or your sign-in has ended."


class Guard:
    """Authenticates requests and checks that changes come from pages of the portal."""

    def __init__(self, logins: Logins, settings: Settings) -> None:
        self._logins = logins
        self._settings = settings

    async def user_of(self, request: HTTPConnection) -> User | None:
        """The user of `Authorization: Bearer vdi_...`, without that header of the login's cookie;
        None: no one.

        Raises DatabaseUnavailableError.
        """
        if _USER not in request.scope:
            request.scope[_USER] = await self.authenticate(request)
        user: User | None = request.scope[_USER]
        request.scope[AUTHENTICATED] = user is not None
        return user

    async def authenticate(self, request: HTTPConnection) -> User | None:
        """`user_of` without a cache: for streams, whose login may end while they are open."""
        if request.headers.get("authorization") is not None:
            return await self._logins.person_by_token(bearer(request))
        return await self._logins.person_by_cookie(cookie_of(request, LOGIN_COOKIE))

    async def actor_of(self, request: HTTPConnection) -> Actor | None:
        """`user_of` to drive a desktop, with a token of one session too."""
        if request.headers.get("authorization") is None:
            user = await self.user_of(request)
            return user.actor if user else None
        actor = await self._logins.actor_by_token(bearer(request))
        request.scope[AUTHENTICATED] = actor is not None
        return actor

    async def require(self, request: HTTPConnection) -> User:
        """The user. Without a login raises HTTPException: for a page 303 to the login and back,
        else 401.
        """
        user = await self.user_of(request)
        if user is not None:
            return user
        if request.headers.get("hx-request") == "true":
            where = urlsplit(request.headers.get("hx-current-url", ""))
            page = where.path + (f"?{where.query}" if where.query else "")
            raise HTTPException(401, _LOGGED_OUT, {"HX-Redirect": login_url(page)})
        if _is_page(request):
            page = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            raise HTTPException(303, _LOGGED_OUT, {"Location": login_url(page)})
        raise HTTPException(401, _LOGGED_OUT, {"WWW-Authenticate": 'Bearer realm="vdi"'})

    async def require_unattended(self, request: HTTPConnection) -> User:
        """The user with a browser's login, for requests that an open page repeats by itself; else
        401.
        """
        # Not a use of the login: a page that no one looks at must not keep it alive.
        user = await self._logins.person_by_cookie(cookie_of(request, LOGIN_COOKIE), in_use=False)
        if user is None:
            raise HTTPException(401, _LOGGED_OUT)
        return user

    async def require_admin(self, request: HTTPConnection) -> User:
        """The user, if an administrator; else 403."""
        user = await self.require(request)
        if not user.admin:
            raise HTTPException(
                403, f"Only administrators can do this; {user.email} is not an administrator."
            )
        return user

    async def require_browser(self, request: HTTPConnection) -> User:
        """The user with a browser's login; 403 for an API token, which must not make or end logins
        and tokens.
        """
        user = await self.require(request)
        if request.headers.get("authorization") is not None:
            raise HTTPException(
                403, "This requires a login in the browser. An API token is not enough."
            )
        return user

    def check_origin(self, request: Request) -> None:
        """Refuse (403) what another host's page has a browser send, also a GET that leaves a row in
        the audit.
        """
        # A bearer token is proof enough: no browser adds one by itself, as it may add a password
        # (`Basic`).
        why = credentials.find_foreign_origin(request.headers, self._settings.portal_url)
        if why and not bearer(request):
            # The answer to a GET, which a cache may see, repeats nothing of its headers.
            more = "" if request.method in SAFE else f": {why}"
            raise CrossSiteError(
                f"This request did not come from a page of {self._settings.portal_url}{more}."
            )

    async def check_csrf(self, request: Request) -> None:
        """Refuse (403) a change that no page of the portal has sent."""
        if request.method in SAFE or bearer(request):
            return
        self.check_origin(request)
        token = request.headers.get(credentials.CSRF_HEADER, "")
        if not token and _is_form(request):
            field = (await request.form(max_files=0, max_fields=100)).get(
                credentials.CSRF_FIELD, ""
            )
            token = field if isinstance(field, str) else ""
        if not credentials.is_csrf_token_valid(request, token):
            raise CrossSiteError(
                "This form is older than your last login or logout. Go back, reload the page and"
                " try again."
            )


def login_url(page: str) -> str:
    """The address of the login page that leads back to this page."""
    if page not in ("", "/"):
        return f"/login?next={quote(page, safe='/')}"
    return "/login"


def _is_page(request: HTTPConnection) -> bool:
    accepts = request.headers.get("accept", "")
    method = request.scope.get("method", "GET")
    return "text/html" in accepts and method in SAFE and not request.url.path.startswith("/api/")


def _is_form(request: HTTPConnection) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")
