"""Endpoints that give programs an API token: `vdi login` through the browser, and the probe's
CronJob.

`vdi login`:
1. The command listens on 127.0.0.1 and opens
   `/cli/authorize?redirect_uri=http://127.0.0.1:PORT/...&state=...
   &code_challenge=...&code_challenge_method=S256&client=NAME`. Without `redirect_uri` the person
   copies the code.
2. The person sees which program requests access and agrees. The response leads to `redirect_uri`
   with `code` and `state`.
3. The command POSTs `code`, `code_verifier` and the same `redirect_uri` to `/cli/token` and gets
   `{"token": "vdi_...", "user": ..., "expires": ...}`; a refusal is `{"error": ...,
   "error_description": ...}` (400).
4. `vdi logout` has the REST API revoke it (`DELETE /api/v1/tokens/current`).

The CronJob proves itself with a token of its ServiceAccount at `/internal/probe-token`. Its user
has no password and is unknown to every provider, so no one else can log in as it.
"""

import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vdi.cluster.units import format_time
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.logins import LoginEndedError, Logins, hash_of
from vdi.gateway.login.oidc import challenge_of
from vdi.gateway.login.pages import Pages
from vdi.gateway.rights import User
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.token_review import TokenReviewer, plain

CLI_TOKEN_LIFETIME = timedelta(days=30)
# `.invalid` is the domain of no one (RFC 2606). The chart names this user in the `access` of the
# probe's template.
PROBE_USER = "vdi-probe@vdi.invalid"
# Somewhat longer than the Job may run.
PROBE_TOKEN_LIFETIME = timedelta(minutes=10)
_CODE_SECONDS = 300
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_STATE = re.compile(r"[!-~]{0,200}")
_FIELDS = ("redirect_uri", "state", "code_challenge", "code_challenge_method", "client")


class _Grant(msgspec.Struct):
    """The content of a code."""

    login_id: str
    challenge: str
    redirect_uri: str
    client: str


def loopback(uri: str) -> bool:
    """Whether an address is the user's own machine, by number and with a port: others may answer to
    a name.
    """
    if not re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):[0-9]{1,5}(/[A-Za-z0-9/_-]*)?", uri):
        return False
    parts = urlsplit(uri)
    try:
        return ip_address(parts.hostname or "").is_loopback and (parts.port or 0) >= 1
    except ValueError:
        return False


def _authorization_request(given: Mapping[str, object]) -> dict[str, str]:
    """The request of a command, by field. Raises HTTPException with the field, its value and what
    is allowed.
    """
    asked = {name: str(given.get(name, "")) for name in _FIELDS}
    asked["client"] = asked["client"] or "vdi on the command line"
    allowed = {
        "redirect_uri": (
            not asked["redirect_uri"] or loopback(asked["redirect_uri"]),
            "http://127.0.0.1:PORT/PATH",
        ),
        "state": (_STATE.fullmatch(asked["state"]), "up to 200 visible characters"),
        "code_challenge": (
            _CHALLENGE.fullmatch(asked["code_challenge"]),
            "43 characters, made with S256",
        ),
        "code_challenge_method": (asked["code_challenge_method"] == "S256", "S256"),
        "client": (
            len(asked["client"]) <= 60 and asked["client"].isprintable(),
            "up to 60 printable characters",
        ),
    }
    for name, (good, allowed_text) in allowed.items():
        if not good:
            raise HTTPException(400, f"{name} is {asked[name][:100]!r}; allowed: {allowed_text}.")
    return asked


def _key(code: str) -> str:
    return f"cli/{hash_of(code)}"


def _refuse(error: str, message: str) -> Response:
    return JSONResponse({"error": error, "error_description": message}, 400)


class CliLoginPages(Pages):
    """`/cli/authorize` and `/cli/token`, for `vdi login`."""

    def routes(self) -> list[Route]:
        return [
            Route("/cli/authorize", self.ask, methods=["GET"]),
            Route("/cli/authorize", self.agree, methods=["POST"]),
            Route("/cli/token", self.exchange, methods=["POST"]),
        ]

    async def ask(self, request: Request) -> Response:
        """Show the user which program requests access."""
        user = await self._login.guard.require_browser(request)
        asked = _authorization_request(request.query_params)
        return self._renderer.render(
            request,
            "cli_authorize.html",
            user=user,
            asked=asked,
            client=asked["client"],
            days=CLI_TOKEN_LIFETIME.days,
        )

    async def agree(self, request: Request) -> Response:
        """Make a code for the command that made the challenge."""
        user = await self._user_of_form(request)
        asked = _authorization_request(await request.form())
        code = secrets.token_urlsafe(32)
        grant = _Grant(
            user.login_id, asked["code_challenge"], asked["redirect_uri"], asked["client"]
        )
        await self._login.context.shared.put(
            _key(code), msgspec.json.encode(grant).decode(), _CODE_SECONDS
        )
        back = ""
        if asked["redirect_uri"]:
            back = f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"
        answer = self._renderer.render(request, "cli_done.html", back=back, code=code)
        if back:
            answer.headers["Refresh"] = f"0; url={back}"  # not a redirect: see Pages._logged_out
        return answer

    async def exchange(self, request: Request) -> Response:
        """The API token for a code. Needs no cookie: the code and the verifier are the proof."""
        form = await request.form(max_files=0, max_fields=10)
        given = {name: value for name, value in form.items() if isinstance(value, str)}
        code, verifier = given.get("code", ""), given.get("code_verifier", "")
        if not code or not _VERIFIER.fullmatch(verifier):
            return _refuse(
                "invalid_request",
                "code and code_verifier are required; the verifier has 43 to 128 characters",
            )
        kept = await self._login.context.shared.pop(_key(code))
        if kept is None:
            return _refuse(
                "invalid_grant",
                "this code is wrong, was already used, or is older than five minutes",
            )
        grant = msgspec.json.decode(kept, type=_Grant)
        if not hmac.compare_digest(challenge_of(verifier), grant.challenge):
            return _refuse(
                "invalid_grant", "code_verifier does not match the code_challenge of the request"
            )
        if given.get("redirect_uri", "") != grant.redirect_uri:
            return _refuse("invalid_grant", "redirect_uri does not match the one in the request")
        try:
            user = await self._login.logins.person_by_id(grant.login_id)
            if user is None:
                raise LoginEndedError
            secret, token = await self._login.sign_out.make_token(
                user, grant.client, CLI_TOKEN_LIFETIME
            )
        except LoginEndedError:
            return _refuse("invalid_grant", "the login that confirmed this has ended; log in again")
        except ActionDenied as error:
            return _refuse("access_denied", error.sentence)
        self._login.context.metrics.logins.labels("cli", "in").inc()
        return JSONResponse(
            {"token": secret, "user": user.email, "expires": format_time(token.expires)}
        )


class ProbeTokens:
    """`/internal/probe-token`, on the internal listener, which no browser reaches."""

    def __init__(self, context: GatewayContext, logins: Logins) -> None:
        self._logins = logins
        account = context.settings.probe_account
        self._reviewer = TokenReviewer(
            context.client, account, "the probe", "requests a token of the probe"
        )

    def routes(self) -> Sequence[BaseRoute]:
        return (Route("/internal/probe-token", self.answer, methods=["POST"]),)

    async def answer(self, request: Request) -> Response:
        """`{"user": ..., "token": ...}` for the probe's account."""
        if refusal := await self._reviewer.refusal(request):
            return refusal
        try:
            secret, _ = await self._logins.new_token(
                User(PROBE_USER, "Probe"), "probe CronJob", PROBE_TOKEN_LIFETIME
            )
        except (ActionDenied, DatabaseUnavailableError) as error:
            return plain(503, str(error))
        return JSONResponse(
            {"user": PROBE_USER, "token": secret}, headers={"Cache-Control": "no-store"}
        )
