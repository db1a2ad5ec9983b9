"""Logging in and out, as pages: the form, the way to an identity provider and back, the end."""

import logging
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.addresses import client_address
from vdi.gateway.login import oidc_flow
from vdi.gateway.login.cookies import FLOW, LOGIN, PRE_LOGIN, cookie_of, drop_cookie, set_cookie
from vdi.gateway.login.guard import check_csrf, end_login, gateway_of, login_url, person_of, use_csrf_secret
from vdi.gateway.login.local import UsersUnavailableError
from vdi.gateway.login.logins import LOCAL, OIDC, Device, Identity
from vdi.gateway.login.next_url import safe_next
from vdi.gateway.login.oidc import ProviderDownError
from vdi.gateway.login.oidc_claims import ClaimsError, RefusedError
from vdi.gateway.login.passwords import BusyError
from vdi.gateway.login.throttle import TooManyError
from vdi.gateway.people import check_address, normal_user
from vdi.gateway.portal.render import render

if TYPE_CHECKING:
    from vdi.gateway.login.part import Login
    from vdi.gateway.parts import Gateway

log = logging.getLogger(__name__)

_WRONG = "This address and password do not belong together. Check both, and whether Caps Lock is on."
_UNAVAILABLE = "Nobody can log in at this moment. Try again in a minute; desktops that are open go on."


async def show_login(request: Request) -> Response:
    """GET /login"""
    next_page = safe_next(request.query_params.get("next"), gateway_of(request).settings)
    if await person_of(request) is not None:
        return RedirectResponse(next_page, 303)
    return await _form(request, next_page)


async def do_login(request: Request) -> Response:
    """POST /login: address and password."""
    gateway = gateway_of(request)
    form = await request.form(max_files=0, max_fields=20)
    given = {name: value for name, value in form.items() if isinstance(value, str)}
    next_page = safe_next(given.get("next"), gateway.settings)
    try:
        await check_csrf(request)
    except HTTPException as refusal:
        log.info("a login was not looked at: %s", refusal.detail)
        return await _form(request, next_page, 403, "This page was open for too long. Please try again.")
    user, password = normal_user(given.get("user", "")), given.get("password", "")
    login = _login(request)
    try:
        await login.sleep(await login.throttle.seconds_to_wait(user, _address(request)))
        who = await login.local.identity_of(user, password)
    except TooManyError as refusal:
        log.warning("too many attempts to log in from %s", _address(request))
        gateway.metrics.logins.labels(LOCAL, "throttled").inc()
        answer = await _form(request, next_page, 429, str(refusal), user)
        answer.headers["Retry-After"] = str(refusal.seconds)
        return answer
    except (BusyError, UsersUnavailableError) as error:
        log.error("nobody can log in with a password now: %s", error)
        return await _form(request, next_page, 503, _UNAVAILABLE, user)
    if who is None:
        await _tried(gateway, _if_address(user), LOCAL, "refused")
        return await _form(request, next_page, 403, _WRONG, user)
    return await _begin(request, who, next_page)


async def start_oidc(request: Request) -> Response:
    """GET /login/oidc: to the identity provider."""
    gateway, login = gateway_of(request), _login(request)
    if login.provider is None:
        raise HTTPException(404, "Single sign-on is not set up here.")
    next_page = safe_next(request.query_params.get("next"), gateway.settings)
    secret = cookie_of(request, FLOW)
    if not oidc_flow.is_secret(secret):
        secret = secrets.token_urlsafe(32)
    state = oidc_flow.make_state(secret, next_page, gateway.clock().timestamp(), secrets.token_bytes(16))
    try:
        url = await login.provider.login_url(secret, state)
    except ProviderDownError as error:
        return _provider_down(request, error, next_page)
    answer = RedirectResponse(url, 303)
    set_cookie(answer, FLOW, secret, oidc_flow.SECONDS)
    return answer


async def finish_oidc(request: Request) -> Response:
    """GET /login/oidc/back: from the identity provider, with a code, or with its refusal."""
    gateway, login = gateway_of(request), _login(request)
    if login.provider is None:
        raise HTTPException(404, "Single sign-on is not set up here.")
    query = request.query_params
    state, secret, name = query.get("state", ""), cookie_of(request, FLOW), login.provider.config.name
    try:
        next_page = safe_next(oidc_flow.read_state(secret, state, gateway.clock().timestamp()), gateway.settings)
    except oidc_flow.StateError as why:
        return _problem(request, 403, f"Not logged in: {why}.", "/")
    kept = oidc_flow.SECONDS + oidc_flow.LEEWAY
    if not await gateway.shared.take_once(f"login/state/{state.rpartition('.')[2]}", kept):
        return _problem(request, 403, "Not logged in: this way back was taken before.", next_page)
    if "error" in query:
        said = " ".join(query.get(one, "")[:200] for one in ("error", "error_description")).strip()
        return _problem(request, 403, f"{name} did not log you in: {said}", next_page)
    try:
        who = await login.provider.identity_of(query.get("code", ""), secret, state, query.get("iss"))
    except ProviderDownError as error:
        return _provider_down(request, error, next_page)
    except ClaimsError as error:
        log.error("an answer of %s is not believed: %s", login.provider.config.issuer, error)
        await _tried(gateway, "", OIDC, "refused")
        return _problem(
            request, 403, f"The answer of {name} could not be verified, so you are not logged in. Try again.", next_page
        )
    except RefusedError as why:
        await _tried(gateway, "", OIDC, "refused")
        return _problem(request, 403, str(why), next_page)
    return await _begin(request, who, next_page)


async def do_logout(request: Request) -> Response:
    """POST /logout: ends this login and the desktops' pictures in this browser; then the provider's own page."""
    await check_csrf(request)
    gateway, login = gateway_of(request), _login(request)
    person = await person_of(request)
    url = None
    if person is not None:
        source = await login.logins.source_of(person.login_id)
        await end_login(gateway, person.login_id)
        await gateway.audit.record(
            actor=person.user, action="login.end", target=person.user, outcome="done", detail={}, at=gateway.clock()
        )
        if source == OIDC and login.provider is not None:
            url = await login.provider.logout_url(person.user)
    answer = logged_out(request, url)
    drop_cookie(answer, LOGIN)
    return answer


def logged_out(request: Request, provider_url: str | None) -> Response:
    """The page after the end. It goes to the provider by itself: a redirect would break `form-action` of the page
    before, which does not name the provider.
    """
    provider = _login(request).provider
    name = provider.config.name if provider is not None else ""
    answer = render(request, "logged_out.html", provider_url=provider_url, provider=name)
    if provider_url is not None:
        answer.headers["Refresh"] = f"1; url={provider_url}"
    return answer


ROUTES = [
    Route("/login", show_login, methods=["GET"]),
    Route("/login", do_login, methods=["POST"]),
    Route("/login/oidc", start_oidc, methods=["GET"]),
    Route("/login/oidc/back", finish_oidc, methods=["GET"]),
    Route("/logout", do_logout, methods=["POST"]),
]


async def _form(request: Request, next_page: str, status: int = 200, notice: str = "", user: str = "") -> Response:
    login = _login(request)
    secret = cookie_of(request, PRE_LOGIN)
    fresh = not oidc_flow.is_secret(secret)
    if fresh:
        secret = secrets.token_urlsafe(32)
    use_csrf_secret(request, secret)
    answer = render(
        request,
        "login.html",
        status=status,
        notice=notice,
        user=user,
        next_page=next_page,
        provider=login.provider.config.name if login.provider else "",
        provider_url=f"/login/oidc?next={quote(next_page, safe='/')}",
        with_password=login.provider is None or await login.local.are_there(),
    )
    if fresh:
        set_cookie(answer, PRE_LOGIN, secret)
    return answer


async def _begin(request: Request, who: Identity, next_page: str) -> Response:
    """A new login with a new cookie. What this browser was before has ended: nobody can have planted it."""
    gateway, login = gateway_of(request), _login(request)
    before = await person_of(request)
    if before is not None:
        await end_login(gateway, before.login_id)
    device = Device(_address(request), request.headers.get("user-agent", ""))
    secret, _ = await login.logins.begin(who, device)
    await _tried(gateway, who.user, who.source, "in")
    answer = RedirectResponse(next_page, 303)
    set_cookie(answer, LOGIN, secret, int(gateway.settings.login_max.total_seconds()))
    drop_cookie(answer, PRE_LOGIN)
    return answer


async def _tried(gateway: "Gateway", user: str, source: str, outcome: str) -> None:
    """Count an attempt and write it down. `user` is empty where nobody knows who it was."""
    gateway.metrics.logins.labels(source, outcome).inc()
    await gateway.audit.record(
        actor=user,
        action="login.begin",
        target=user,
        outcome="done" if outcome == "in" else outcome,
        detail={"source": source},
        at=gateway.clock(),
    )


def _if_address(user: str) -> str:
    """What was typed, unless it may be a password in the wrong field."""
    try:
        return check_address(user)
    except ValueError:
        return ""


def _provider_down(request: Request, error: Exception, next_page: str) -> Response:
    provider = _login(request).provider
    assert provider is not None  # noqa: S101 -- both callers have looked
    log.error("%s: %s", provider.config.issuer, error)
    words = f"{provider.config.name} does not answer now, so nobody can log in with it. Try again in a minute."
    return _problem(request, 503, words, next_page)


def _problem(request: Request, status: int, words: str, next_page: str) -> Response:
    return render(request, "login_problem.html", status=status, words=words, again=login_url(next_page))


def _login(request: Request) -> "Login":
    login: Login = gateway_of(request).login
    return login


def _address(request: Request) -> str:
    return client_address(request, gateway_of(request).settings.trusted_proxies)
