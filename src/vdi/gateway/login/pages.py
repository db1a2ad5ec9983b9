"""Pages for people: `/login` (form, identity provider, terms), `/logout`, and `/account` with
logins and API tokens.
"""

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login import oidc
from vdi.gateway.login.guard import Guard, login_url
from vdi.gateway.login.local_users import LocalUsers, LoginsBusyError, UsersUnavailableError
from vdi.gateway.login.logins import (
    SOURCE_LOCAL,
    SOURCE_OIDC,
    AnotherAccountError,
    Device,
    Identity,
    Logins,
    SignOut,
    browser,
    local_identity,
)
from vdi.gateway.login.oidc import ClaimsError, OIDCProvider, ProviderDownError, RefusedError
from vdi.gateway.login.throttle import Throttle, TooManyError
from vdi.gateway.notices import KINDS, can_mail
from vdi.gateway.rights import User, enables_agents, refuse_to_drive
from vdi.gateway.settings import Settings
from vdi.gateway.store.audit import Act, Audit
from vdi.gateway.store.notices import NoticeSubscriptions
from vdi.gateway.web import credentials
from vdi.gateway.web.credentials import (
    FLOW_COOKIE,
    HINT_COOKIE,
    HINT_PATH,
    LOGIN_COOKIE,
    PRE_LOGIN_COOKIE,
    TERMS_COOKIE,
    cookie_of,
    drop_cookie,
    set_cookie,
)
from vdi.gateway.web.middleware import client_address
from vdi.gateway.web.render import Renderer
from vdi.printable import escape
from vdi.session.users import check_address, normal_user

log = logging.getLogger(__name__)

# Days that a token made on the account page may last.
LIFETIMES = (1, 7, 30, 90, 365)
_WRONG = "The e-mail address or the password is wrong. Check both, and whether Caps Lock is on."
_UNAVAILABLE = (
    "Signing in is not possible right now. Try again in a minute. Open desktops are not affected."
)
_DONE = {
    "ended": "That browser is signed out.",
    "revoked": "The token is revoked.",
    "notices": "Your e-mail notices are saved.",
}
_LONGEST_NEXT = 1024  # it is in the login's form, three bytes for each character that is escaped
# Attempts that are held up at a time: each takes one of the listener's connections.
_MOST_DELAYED = 256
# Characters of a text in the audit that a provider chose.
_LONGEST_REASON = 255
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VISIBLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginServices:
    """Collaborators of the login's pages. `provider`: None without single sign-on; `sleep` delays
    guesses.
    """

    context: GatewayContext
    logins: Logins
    guard: Guard
    sign_out: SignOut
    audit: Audit
    local: LocalUsers
    throttle: Throttle
    provider: OIDCProvider | None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def record(
        self,
        actor: str,
        action: str,
        *,
        target: str | None = None,
        outcome: str = "done",
        **detail: str,
    ) -> None:
        """Write to the audit log. `target`: None is the actor."""
        target = actor if target is None else target
        await self.audit.record(
            Act(actor=actor, action=action, target=target, detail=detail), outcome
        )


def safe_next(text: str | None, settings: Settings) -> str:
    """The text itself where it is a path of this host, or an address of one of our hosts; `/`
    otherwise.

    Browsers read `//host`, `/\\host` and addresses with tabs or line ends in them as another host:
    none of these pass.
    """
    if not text or len(text) > _LONGEST_NEXT or not _VISIBLE.fullmatch(text) or "\\" in text:
        return "/"
    if text.startswith("/"):
        return "/" if text.startswith("//") else text
    return text if _is_ours(text, settings) else "/"


def _is_ours(text: str, settings: Settings) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port or 443
    except ValueError:
        return False
    if (
        parts.scheme != "https"
        or "@" in parts.netloc
        or port != settings.url_port
        or parts.hostname is None
    ):
        return False
    label, _, domain = parts.hostname.partition(".")
    return domain == settings.domain and _LABEL.fullmatch(label) is not None


def checked_label(label: str) -> str:
    """The name of a token, if people can read it. Raises ValueError."""
    if not 0 < len(label) <= 60 or not label.isprintable():
        raise ValueError(
            f"The token's name is {label[:70]!r}; allowed: 1 to 60 letters, digits and symbols."
        )
    return label


class Pages:
    """Base of the login's pages."""

    def __init__(self, login: LoginServices) -> None:
        self._login = login
        self._settings = login.context.settings
        self._renderer = Renderer(self._settings)

    async def _user_of_form(self, request: Request) -> User:
        """The user with a browser's login who has sent a form of ours. Raises HTTPException."""
        user = await self._login.guard.require_browser(request)
        await self._login.guard.check_csrf(request)
        return user

    def _logged_out(self, request: Request, provider_url: str | None = None) -> Response:
        """The page after a logout; it goes on to the identity provider's own page, if there is
        one.
        """
        if self._login.provider is not None:
            name = self._login.provider.config.name
        else:
            name = ""
        answer = self._renderer.render(
            request, "logged_out.html", provider_url=provider_url, provider=name
        )
        if provider_url is not None:
            # Not a redirect: Chrome holds redirects after a form against `form-action` of the page
            # with the form, and that does not name the provider.
            answer.headers["Refresh"] = f"1; url={provider_url}"
        drop_cookie(answer, LOGIN_COOKIE)
        drop_cookie(answer, HINT_COOKIE, HINT_PATH)
        return answer


class LoginPages(Pages):
    """`/login`: form, terms and identity provider; `/logout`."""

    def __init__(self, login: LoginServices) -> None:
        super().__init__(login)
        terms = self._settings.brand.terms
        if terms:
            self._terms_mark = hashlib.sha256(terms.encode()).hexdigest()[:16]
        else:
            self._terms_mark = ""
        self._delayed = 0

    def routes(self) -> list[Route]:
        return [
            Route("/login", self.show_login, methods=["GET"]),
            Route("/login", self.do_login, methods=["POST"]),
            Route("/login/terms", self.accept_terms, methods=["POST"]),
            Route("/login/oidc", self.start_oidc, methods=["GET"]),
            Route("/login/oidc/back", self.finish_oidc, methods=["GET"]),
            Route("/logout", self.do_logout, methods=["POST"]),
            Route("/logged-out", self.show_logged_out, methods=["GET"]),
        ]

    async def show_login(self, request: Request) -> Response:
        next_page = safe_next(request.query_params.get("next"), self._settings)
        if await self._login.guard.user_of(request) is not None:
            return RedirectResponse(next_page, 303)
        if not self._accepted(request):
            return self._with_form(request, "terms.html", next_page=next_page)
        return await self._form(request, next_page)

    async def accept_terms(self, request: Request) -> Response:
        """The button below the terms: they are accepted for one login in this browser."""
        next_page = safe_next(str((await request.form()).get("next", "")), self._settings)
        await self._login.guard.check_csrf(request)
        answer = RedirectResponse(login_url(next_page), 303)
        set_cookie(answer, TERMS_COOKIE, self._terms_mark)
        return answer

    async def do_login(self, request: Request) -> Response:
        form = await request.form(max_files=0, max_fields=20)
        given = {name: value for name, value in form.items() if isinstance(value, str)}
        next_page = safe_next(given.get("next"), self._settings)
        try:
            await self._login.guard.check_csrf(request)
        except HTTPException as refusal:
            log.info("a login was not checked: %s", refusal.detail)
            return await self._form(
                request, next_page, 403, "This page was open for too long. Please try again."
            )
        if not self._accepted(request):
            return RedirectResponse(login_url(next_page), 303)
        user, password = normal_user(given.get("user", "")), given.get("password", "")
        try:
            seconds = await self._login.throttle.seconds_to_wait(user, self._address(request))
            await self._delay(seconds)
            account = await self._login.local.authenticate(user, password)
        except TooManyError as refusal:
            return await self._throttled(request, SOURCE_LOCAL, refusal, next_page, user)
        except (LoginsBusyError, UsersUnavailableError) as error:
            log.error("a password was not checked: %s", error)
            return await self._form(request, next_page, 503, _UNAVAILABLE, user)
        if account is None:
            # The text is written down only if it is an address: it may be a password in the wrong
            # field.
            try:
                typed = check_address(user)
            except ValueError:
                typed = ""
            await self._tried(typed, SOURCE_LOCAL, "refused")
            return await self._form(request, next_page, 403, _WRONG, user)
        await self._login.throttle.forgive(user, self._address(request))
        return await self._begin(request, local_identity(*account, self._settings), next_page)

    async def _delay(self, seconds: float) -> None:
        """Hold up an attempt that follows many. Raises LoginsBusyError."""
        if seconds and self._delayed >= _MOST_DELAYED:
            raise LoginsBusyError(f"{_MOST_DELAYED} attempts are held up already")
        self._delayed += 1
        try:
            await self._login.sleep(seconds)
        finally:
            self._delayed -= 1

    async def start_oidc(self, request: Request) -> Response:
        """Send the browser to the identity provider."""
        provider = self._provider()
        next_page = safe_next(request.query_params.get("next"), self._settings)
        if not self._accepted(request):
            return RedirectResponse(login_url(next_page), 303)
        secret = cookie_of(request, FLOW_COOKIE)
        if not oidc.is_secret(secret):
            secret = secrets.token_urlsafe(32)
        state = oidc.make_state(secret, next_page, self._login.context.clock().timestamp())
        try:
            url = await provider.login_url(secret, state)
        except ProviderDownError as error:
            return self._provider_down(request, provider, error, next_page)
        answer = RedirectResponse(url, 303)
        set_cookie(answer, FLOW_COOKIE, secret, oidc.STATE_SECONDS)
        return answer

    async def finish_oidc(self, request: Request) -> Response:
        """Back from the identity provider, with a code or with its refusal."""
        provider, query = self._provider(), request.query_params
        state = query.get("state", "")
        secret = cookie_of(request, FLOW_COOKIE)
        name = provider.config.name
        next_page, problem = "/", None
        try:
            page = oidc.read_state(secret, state, self._login.context.clock().timestamp())
            next_page = safe_next(page, self._settings)
        except oidc.StateError as why:
            problem = why
        if problem is None and not self._accepted(request):
            return RedirectResponse(login_url(next_page), 303)
        try:
            # Whatever fails in here counts: each refusal leaves a row in the audit.
            async with self._login.throttle.sign_on(self._address(request)):
                if problem is not None:
                    raise problem
                await self._use_state(state)
                if "error" in query:
                    said = " ".join(
                        query.get(field, "")[:200] for field in ("error", "error_description")
                    ).strip()
                    raise RefusedError("provider", f"{name} did not sign you in: {said}")
                who, id_token = await provider.identity_of(
                    query.get("code", ""), secret, state, query.get("iss")
                )
            # Outside of the count: the provider has vouched for the account, even if its address is
            # taken.
            return await self._begin(request, who, next_page, id_token)
        except TooManyError as refusal:
            return await self._throttled(request, SOURCE_OIDC, refusal, next_page)
        except ProviderDownError as error:
            return self._provider_down(request, provider, error, next_page)
        except oidc.StateError as why:
            await self._refused_sign_on(provider, why.reason)
            return self._problem(request, 403, f"Not signed in: {why}.", next_page)
        except ClaimsError as error:
            log.error("a response of %s cannot be verified: %s", provider.config.issuer, error)
            await self._refused_sign_on(provider, str(error), error.subject)
            return self._problem(
                request,
                403,
                f"The response of {name} could not be verified, so you are not signed in. Try"
                " again.",
                next_page,
            )
        except RefusedError as why:
            await self._refused_sign_on(provider, why.reason, why.subject, why.email)
            return self._problem(request, 403, str(why), next_page)
        except AnotherAccountError as why:
            log.warning("the account %s signs in as %s: %s", why.who.subject, why.who.user, why)
            await self._refused_sign_on(
                provider, "another-account", why.who.subject, why.who.user, taken=why.taken
            )
            return self._problem(request, 403, f"{why}.", next_page)

    async def do_logout(self, request: Request) -> Response:
        """End this login with its desktops' pictures; then show the identity provider's page, if it
        has one.
        """
        await self._login.guard.check_csrf(request)
        user = await self._login.guard.user_of(request)
        url = None
        if user is not None:
            source = await self._login.logins.source_of(user.login_id)
            await self._login.sign_out.end_login(user.login_id)
            await self._login.record(user.email, "login.end")
            if source == SOURCE_OIDC and self._login.provider is not None:
                hint = oidc.read_hint(
                    cookie_of(request, LOGIN_COOKIE), cookie_of(request, HINT_COOKIE)
                )
                url = await self._login.provider.logout_url(user.email, hint)
        return self._logged_out(request, url)

    async def show_logged_out(self, request: Request) -> Response:
        """The way back from the provider's sign-out."""
        if await self._login.guard.user_of(request) is not None:
            return RedirectResponse("/", 303)
        return self._logged_out(request)

    def _provider(self) -> OIDCProvider:
        if self._login.provider is None:
            raise HTTPException(404, "Single sign-on is not configured.")
        return self._login.provider

    async def _form(
        self, request: Request, next_page: str, status: int = 200, notice: str = "", user: str = ""
    ) -> Response:
        return self._with_form(
            request,
            "login.html",
            status=status,
            notice=notice,
            email=user,
            next_page=next_page,
            provider=self._login.provider.config.name if self._login.provider else "",
            provider_url=f"/login/oidc?next={quote(next_page, safe='/')}",
            with_password=self._login.provider is None or await self._login.local.exist(),
        )

    async def _throttled(
        self, request: Request, source: str, refusal: TooManyError, next_page: str, user: str = ""
    ) -> Response:
        log.warning("too many attempts to log in from %s", self._address(request))
        self._login.context.metrics.logins.labels(source, "throttled").inc()
        answer = await self._form(request, next_page, 429, str(refusal), user)
        answer.headers["Retry-After"] = str(refusal.seconds)
        return answer

    def _with_form(self, request: Request, template: str, **context: Any) -> Response:
        """A page with a form for a browser without a login: its CSRF token is bound to a cookie of
        this browser.
        """
        secret = cookie_of(request, PRE_LOGIN_COOKIE)
        fresh = not oidc.is_secret(secret)
        if fresh:
            secret = secrets.token_urlsafe(32)
        credentials.bind_csrf_secret(request, secret)
        answer = self._renderer.render(request, template, **context)
        if fresh:
            set_cookie(answer, PRE_LOGIN_COOKIE, secret)
        return answer

    async def _begin(
        self, request: Request, who: Identity, next_page: str, id_token: str = ""
    ) -> Response:
        """Begin a login with a new cookie, and end the browser's former one, which somebody may
        have planted.
        """
        device = Device(self._address(request), request.headers.get("user-agent", ""))
        secret, _ = await self._login.logins.begin(who, device)
        before = await self._login.guard.user_of(request)
        if before is not None:
            await self._login.sign_out.end_login(before.login_id)
        await self._tried(who.user, who.source, "in")
        answer = RedirectResponse(next_page, 303)
        seconds = int(self._settings.login_max.total_seconds())
        set_cookie(answer, LOGIN_COOKIE, secret, seconds)
        if id_token and (hint := oidc.make_hint(secret, id_token)):
            set_cookie(answer, HINT_COOKIE, hint, seconds, HINT_PATH)
        drop_cookie(answer, PRE_LOGIN_COOKIE)
        drop_cookie(answer, TERMS_COOKIE)
        return answer

    def _accepted(self, request: Request) -> bool:
        """Whether this browser has accepted the current terms, or there are none."""
        return not self._terms_mark or cookie_of(request, TERMS_COOKIE) == self._terms_mark

    async def _tried(
        self, user: str, source: str, outcome: str, *, actor: str = "", **more: str
    ) -> None:
        """Count an attempt to log in, and write it to the audit log. `user`: empty if unknown."""
        self._login.context.metrics.logins.labels(source, outcome).inc()
        if self._terms_mark:
            more["terms"] = self._terms_mark
        result = "done" if outcome == "in" else outcome
        await self._login.record(
            actor or user, "login.begin", target=user, outcome=result, source=source, **more
        )

    async def _use_state(self, state: str) -> None:
        """Each state brings one browser back once. Raises StateError."""
        kept = oidc.STATE_SECONDS + oidc.STATE_LEEWAY_SECONDS
        if not await self._login.context.shared.take_once(
            f"login/state/{state.rpartition('.')[2]}", kept
        ):
            raise oidc.StateError("replayed", "this sign-in link was already used")

    async def _refused_sign_on(
        self, provider: OIDCProvider, reason: str, subject: str = "", email: Any = "", **more: str
    ) -> None:
        """Count and audit it. `email`: what the provider said, whatever that is."""
        try:
            user = check_address(email) if isinstance(email, str) else ""
        except ValueError:
            user = ""
        # The actor is the account, not the address: that is the address of the person whom it may
        # want to be.
        subject = escape(subject[:_LONGEST_REASON])
        actor = f"{provider.config.issuer}#{subject}" if subject else ""
        more |= {"reason": escape(reason[:_LONGEST_REASON]), "subject": subject}
        await self._tried(user, SOURCE_OIDC, "refused", actor=actor, **more)

    def _provider_down(
        self, request: Request, provider: OIDCProvider, error: Exception, next_page: str
    ) -> Response:
        log.error("%s: %s", provider.config.issuer, error)
        message = (
            f"{provider.config.name} does not respond, so you cannot sign in with it. Try again in"
            " a minute."
        )
        return self._problem(request, 503, message, next_page)

    def _problem(self, request: Request, status: int, message: str, next_page: str) -> Response:
        return self._renderer.render(
            request,
            "login_problem.html",
            status=status,
            message=message,
            again=login_url(next_page),
        )

    def _address(self, request: Request) -> str:
        return client_address(request, self._settings.trusted_proxies, self._login.context.cluster)


class AccountPages(Pages):
    """`/account`: the user's logins, sign-out everywhere, and API tokens."""

    def __init__(self, login: LoginServices) -> None:
        super().__init__(login)
        self._subscriptions = NoticeSubscriptions(login.context.database)

    def routes(self) -> list[Route]:
        return [
            Route("/account/notices", self.subscribe, methods=["POST"]),
            Route("/account", self.show_account, methods=["GET"]),
            Route("/account/logins/{id}/end", self.end_one, methods=["POST"]),
            Route("/account/logout-everywhere", self.end_everywhere, methods=["POST"]),
            Route("/account/tokens", self.make_token, methods=["POST"]),
            Route("/account/tokens/{id}/revoke", self.revoke_token, methods=["POST"]),
        ]

    async def show_account(self, request: Request) -> Response:
        user = await self._login.guard.require_browser(request)
        return await self._page(
            request, user, done=_DONE.get(request.query_params.get("done", ""), "")
        )

    async def end_one(self, request: Request) -> Response:
        """Sign out one of the user's browsers."""
        user = await self._user_of_form(request)
        await self._login.sign_out.end_own_login(user, request.path_params["id"])
        return RedirectResponse("/account?done=ended", 303)

    async def end_everywhere(self, request: Request) -> Response:
        """End all logins and desktop pictures of the user, and on request their API tokens."""
        user = await self._user_of_form(request)
        tokens = (await request.form()).get("tokens") == "yes"
        await self._login.sign_out.end_own_logins(user, tokens=tokens)
        return self._logged_out(request)

    async def subscribe(self, request: Request) -> Response:
        """Choose the notices that are sent by e-mail."""
        user = await self._user_of_form(request)
        given = (await request.form()).getlist("notice")
        await self._subscriptions.save(
            user.email, frozenset(kind for kind in KINDS if kind in given)
        )
        return RedirectResponse("/account?done=notices", 303)

    async def make_token(self, request: Request) -> Response:
        """Make an API token; only this response shows it."""
        user = await self._user_of_form(request)
        form = await request.form()
        label, days = str(form.get("label", "")).strip(), str(form.get("days", ""))
        try:
            label = checked_label(label)
            if days not in {str(lifetime) for lifetime in LIFETIMES}:
                allowed = ", ".join(map(str, LIFETIMES))
                raise ValueError(f"The token's days are {days[:20]!r}; allowed: {allowed}.")
            session, lifetime = str(form.get("session", "")), timedelta(days=int(days))
            secret, _ = await self._login.sign_out.make_token(user, label, lifetime, session)
        except (ValueError, ActionDenied) as why:
            return await self._page(request, user, status=422, error=str(why))
        return await self._page(request, user, new_token=secret, new_label=label)

    async def revoke_token(self, request: Request) -> Response:
        user = await self._user_of_form(request)
        if not await self._login.sign_out.revoke_token(user, request.path_params["id"]):
            raise HTTPException(404, "You have no such token. It may have expired.")
        return RedirectResponse("/account?done=revoked", 303)

    async def _page(
        self, request: Request, user: User, *, status: int = 200, **more: Any
    ) -> Response:
        logins = self._login.logins
        context = {"error": "", "done": "", "new_token": "", "new_label": ""} | more
        cluster, now = self._login.context.cluster, self._login.context.clock()
        drivable = {
            session.metadata.uid: session.metadata.name
            for session in cluster.sessions.values()
            if enables_agents(cluster.template(session.spec.template))
            and not refuse_to_drive(user.actor, session, session.metadata.name, now)
        }
        return self._renderer.render(
            request,
            "account.html",
            status=status,
            user=user,
            logins=[(login, browser(login.agent)) for login in await logins.of(user.email)],
            tokens=await logins.tokens(user.email),
            lifetimes=LIFETIMES,
            notices=(notices := KINDS if self._settings.smtp_url and can_mail(user.email) else {}),
            subscribed=await self._subscriptions.of(user.email) if notices else (),
            drivable=drivable,
            **context,
        )
