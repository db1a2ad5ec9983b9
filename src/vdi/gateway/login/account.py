"""My account: where I am signed in, signing out everywhere, and API tokens."""

from datetime import timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.logins import browser
from vdi.gateway.login.pages import logged_out
from vdi.gateway.login.services import LoginServices
from vdi.gateway.store.audit import Act
from vdi.gateway.users import User, check_address
from vdi.gateway.web.cookies import LOGIN, drop_cookie
from vdi.gateway.web.render import Renderer

LIFETIMES = (1, 7, 30, 90, 365)
"""Days that a token made here may last."""
_DONE = {
    "ended": "That browser is signed out.",
    "revoked": "The token is revoked.",
    "person": "The user is signed out everywhere: browsers, API tokens and open desktops.",
}


def checked_label(label: str) -> str:
    """A name that people can read. Raises ValueError."""
    if not 0 < len(label) <= 60 or not label.isprintable():
        raise ValueError(f"The token's name is {label[:70]!r}; allowed: 1 to 60 letters, digits and symbols.")
    return label


class AccountPages:
    """Pages under `/account`."""

    def __init__(self, login: LoginServices) -> None:
        self._login = login
        self._renderer = Renderer(login.context.settings)

    def routes(self) -> list[Route]:
        """All of them."""
        return [
            Route("/account", self.show_account, methods=["GET"]),
            Route("/account/logins/{id}/end", self.end_one, methods=["POST"]),
            Route("/account/logout-everywhere", self.end_everywhere, methods=["POST"]),
            Route("/account/sign-out-person", self.end_person, methods=["POST"]),
            Route("/account/tokens", self.make_token, methods=["POST"]),
            Route("/account/tokens/{id}/revoke", self.revoke_token, methods=["POST"]),
        ]

    async def show_account(self, request: Request) -> Response:
        """GET /account"""
        user = await self._login.guard.require_browser(request)
        return await self._page(request, user, done=_DONE.get(request.query_params.get("done", ""), ""))

    async def end_one(self, request: Request) -> Response:
        """POST /account/logins/{id}/end: sign one of my browsers out."""
        user = await self._login.guard.require_browser(request)
        await self._login.guard.check_csrf(request)
        login_id = request.path_params["id"]
        if login_id in {login.id for login in await self._login.logins.of(user.email)}:
            await self._login.sign_out.end_login(login_id)
            await self._audit(user, "login.end", {"which": "another browser"})
        return RedirectResponse("/account?done=ended", 303)

    async def end_everywhere(self, request: Request) -> Response:
        """POST /account/logout-everywhere: all my browsers, all my desktops' pictures, and on request my API tokens."""
        user = await self._login.guard.require_browser(request)
        await self._login.guard.check_csrf(request)
        tokens = (await request.form()).get("tokens") == "yes"
        await self._login.sign_out.end_everything(user.email, tokens=tokens)
        await self._audit(user, "login.end_all", {"tokens": str(tokens).lower()})
        answer = logged_out(self._renderer, request, self._login.provider)
        drop_cookie(answer, LOGIN)
        return answer

    async def end_person(self, request: Request) -> Response:
        """POST /account/sign-out-person: an administrator ends all that somebody has open, API tokens too."""
        user = await self._login.guard.require_browser(request)
        await self._login.guard.require_admin(request)
        await self._login.guard.check_csrf(request)
        try:
            email = check_address(str((await request.form()).get("user", "")))
        except ValueError as why:
            return await self._page(request, user, status=422, error=f"{why}.")
        async with self._login.audit.act(
            Act(actor=user.email, action="login.end_all", target=email, owner=email), closed=True
        ):
            await self._login.sign_out.end_everything(email, tokens=True)
        return RedirectResponse("/account?done=person", 303)

    async def make_token(self, request: Request) -> Response:
        """POST /account/tokens: a new API token, shown in this answer only."""
        user = await self._login.guard.require_browser(request)
        await self._login.guard.check_csrf(request)
        form = await request.form()
        label, days = str(form.get("label", "")).strip(), str(form.get("days", ""))
        try:
            label = checked_label(label)
            if days not in {str(lifetime) for lifetime in LIFETIMES}:
                allowed = ", ".join(map(str, LIFETIMES))
                raise ValueError(f"The token's days are {days[:20]!r}; allowed: {allowed}.")
            secret, _ = await self._login.logins.new_token(user, label, timedelta(days=int(days)))
        except (ValueError, ActionDenied) as why:
            return await self._page(request, user, status=422, error=str(why))
        await self._audit(user, "token.create", {"label": label, "days": days})
        return await self._page(request, user, new_token=secret, new_label=label)

    async def revoke_token(self, request: Request) -> Response:
        """POST /account/tokens/{id}/revoke"""
        user = await self._login.guard.require_browser(request)
        await self._login.guard.check_csrf(request)
        ended = await self._login.sign_out.end_token(user.email, request.path_params["id"])
        if ended is None:
            raise HTTPException(404, "You have no such token. It may have expired.")
        await self._audit(user, "token.revoke", {"label": ended.label})
        return RedirectResponse("/account?done=revoked", 303)

    async def _page(self, request: Request, user: User, *, status: int = 200, **more: Any) -> Response:
        logins = self._login.logins
        context = {"error": "", "done": "", "new_token": "", "new_label": ""} | more
        return self._renderer.render(
            request,
            "account.html",
            status=status,
            user=user,
            logins=[(login, browser(login.agent)) for login in await logins.of(user.email)],
            tokens=await logins.tokens(user.email),
            lifetimes=LIFETIMES,
            now=self._login.context.clock(),
            **context,
        )

    async def _audit(self, user: User, action: str, detail: dict[str, str]) -> None:
        await self._login.audit.record(
            actor=user.email,
            action=action,
            target=user.email,
            outcome="done",
            detail=detail,
            at=self._login.context.clock(),
        )
