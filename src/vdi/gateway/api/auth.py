"""Who may come in: called by `operation` before anything of a request is read. No route of the API goes around it."""

from starlette.requests import HTTPConnection, Request

from vdi.gateway.api.problems import ProblemError
from vdi.gateway.api.services import ApiServices
from vdi.gateway.users import User

WINDOW = 60
"""Seconds over which requests are counted."""
MOST = 600
"""Requests of one person in a window, over all replicas and all of the person's tokens."""


async def admit(request: Request, api: ApiServices, *, admin: bool) -> User:
    """Who asks, if they may. Raises ProblemError, or what the guard raises."""
    user = await api.guard.user_of(request)
    if user is None:
        raise unknown_person(request)
    await _slow_down(api, user)
    await api.guard.check_csrf(request)
    if admin and not user.admin:
        raise ProblemError("forbidden", f"Only administrators can do this; {user.email} is not an administrator.")
    return user


def unknown_person(request: HTTPConnection) -> ProblemError:
    """401, with what is missing or wrong."""
    if request.headers.get("authorization") is None:
        detail = "Send an API token (Authorization: Bearer vdi_...) or the login cookie."
    else:
        detail = "The API token in the Authorization header is not valid: it is misspelled, expired or revoked."
    return ProblemError("unauthenticated", detail, headers={"WWW-Authenticate": 'Bearer realm="vdi"'})


async def _slow_down(api: ApiServices, user: User) -> None:
    now = int(api.context.clock().timestamp())
    window, passed = divmod(now, WINDOW)
    if await api.context.shared.count(f"api/{user.email}/{window}", WINDOW) <= MOST:
        return
    wait = WINDOW - passed
    detail = f"{user.email} has sent more than {MOST} requests in {WINDOW} s. Try again in {wait} s."
    raise ProblemError("too-many-requests", detail, headers={"Retry-After": str(wait)})
