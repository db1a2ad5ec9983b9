"""My account: where I am signed in, signing out everywhere, and API tokens."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.login.agents import browser
from vdi.gateway.login.cookies import LOGIN, drop_cookie
from vdi.gateway.login.guard import (
    check_csrf,
    end_everything,
    end_login,
    end_token,
    gateway_of,
    require_admin,
    require_browser,
)
from vdi.gateway.login.pages import logged_out
from vdi.gateway.people import Person, check_address
from vdi.gateway.portal.render import render
from vdi.gateway.store.audit import Act

if TYPE_CHECKING:
    from vdi.gateway.parts import Gateway

LIFETIMES = (1, 7, 30, 90, 365)
"""Days that a token made here may last."""
MOST_TOKENS = 50
"""API tokens of one person."""
_DONE = {
    "ended": "That browser is signed out.",
    "revoked": "The token is revoked.",
    "person": "All that they had open has ended: logins, API tokens, the pictures of desktops.",
}


async def show_account(request: Request) -> Response:
    """GET /account"""
    person = await require_browser(request)
    return await _page(request, person, done=_DONE.get(request.query_params.get("done", ""), ""))


async def end_one(request: Request) -> Response:
    """POST /account/logins/{id}/end: sign one of my browsers out."""
    person = await require_browser(request)
    await check_csrf(request)
    gateway = gateway_of(request)
    login_id = request.path_params["id"]
    if login_id in {login.id for login in await gateway.login.logins.of(person.user)}:
        await end_login(gateway, login_id)
        await _audit(gateway, person, "login.end", {"which": "another browser"})
    return RedirectResponse("/account?done=ended", 303)


async def end_everywhere(request: Request) -> Response:
    """POST /account/logout-everywhere: all my browsers, all my desktops' pictures, and on request my API tokens."""
    person = await require_browser(request)
    await check_csrf(request)
    gateway = gateway_of(request)
    tokens = (await request.form()).get("tokens") == "yes"
    await end_everything(gateway, person.user, tokens=tokens)
    await _audit(gateway, person, "login.end_all", {"tokens": str(tokens).lower()})
    answer = logged_out(request, None)
    drop_cookie(answer, LOGIN)
    return answer


async def end_person(request: Request) -> Response:
    """POST /account/sign-out-person: an administrator ends all that somebody has open, API tokens too."""
    person = await require_browser(request)
    await require_admin(request)
    await check_csrf(request)
    gateway = gateway_of(request)
    try:
        user = check_address(str((await request.form()).get("user", "")))
    except ValueError as why:
        return await _page(request, person, status=422, error=f"{why}.")
    async with gateway.audit.act(Act(actor=person.user, action="login.end_all", target=user, owner=user), closed=True):
        await end_everything(gateway, user, tokens=True)
    return RedirectResponse("/account?done=person", 303)


async def make_token(request: Request) -> Response:
    """POST /account/tokens: a new API token, shown in this answer only."""
    person = await require_browser(request)
    await check_csrf(request)
    gateway = gateway_of(request)
    form = await request.form()
    label, days = str(form.get("label", "")).strip(), str(form.get("days", ""))
    try:
        label = checked_label(label)
        if days not in {str(one) for one in LIFETIMES}:
            allowed = ", ".join(map(str, LIFETIMES))
            raise ValueError(f"The token's days are {days[:20]!r}; allowed are {allowed}.")
        if len(await gateway.login.logins.tokens(person.user)) >= MOST_TOKENS:
            raise ValueError(f"You have {MOST_TOKENS} tokens already. Revoke one that you do not need.")
    except ValueError as why:
        return await _page(request, person, status=422, error=str(why))
    secret, _ = await gateway.login.logins.new_token(person, label, timedelta(days=int(days)))
    await _audit(gateway, person, "token.create", {"label": label, "days": days})
    return await _page(request, person, new_token=secret, new_label=label)


async def revoke_token(request: Request) -> Response:
    """POST /account/tokens/{id}/revoke"""
    person = await require_browser(request)
    await check_csrf(request)
    gateway = gateway_of(request)
    ended = await end_token(gateway, person.user, request.path_params["id"])
    if ended is None:
        raise HTTPException(404, "You have no such token; perhaps it has ended.")
    await _audit(gateway, person, "token.revoke", {"label": ended.label})
    return RedirectResponse("/account?done=revoked", 303)


def checked_label(label: str) -> str:
    """A name that people can read. Raises ValueError."""
    if not 0 < len(label) <= 60 or not label.isprintable():
        raise ValueError(f"The token's name is {label[:70]!r}; allowed are 1 to 60 letters, digits and signs.")
    return label


ROUTES = [
    Route("/account", show_account, methods=["GET"]),
    Route("/account/logins/{id}/end", end_one, methods=["POST"]),
    Route("/account/logout-everywhere", end_everywhere, methods=["POST"]),
    Route("/account/sign-out-person", end_person, methods=["POST"]),
    Route("/account/tokens", make_token, methods=["POST"]),
    Route("/account/tokens/{id}/revoke", revoke_token, methods=["POST"]),
]


async def _page(request: Request, person: Person, *, status: int = 200, **more: Any) -> Response:
    gateway = gateway_of(request)
    logins = gateway.login.logins
    context = {"error": "", "done": "", "new_token": "", "new_label": ""} | more
    return render(
        request,
        "account.html",
        status=status,
        person=person,
        logins=[(login, browser(login.agent)) for login in await logins.of(person.user)],
        tokens=await logins.tokens(person.user),
        lifetimes=LIFETIMES,
        now=gateway.clock(),
        **context,
    )


async def _audit(gateway: "Gateway", person: Person, action: str, detail: dict[str, str]) -> None:
    await gateway.audit.record(
        actor=person.user, action=action, target=person.user, outcome="done", detail=detail, at=gateway.clock()
    )
