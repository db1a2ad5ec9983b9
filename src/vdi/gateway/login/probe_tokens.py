"""`POST /internal/probe-token`: the probe's CronJob gets an API token, with which it starts and measures its desktop.

The Job proves who it is with a token of its ServiceAccount, as the operator does with a report. The user has no
password, and no provider knows them: no one else can log in as this user. The token ends by itself after some minutes.
"""

from collections.abc import Sequence
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.logins import Logins
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.token_review import TokenReviewer, plain
from vdi.gateway.users import User

PROBE_USER = "vdi-probe@vdi.invalid"
"""`.invalid` is the domain of no one (RFC 2606). The chart names this user in the `access` of the probe's template."""
TOKEN_LIFETIME = timedelta(minutes=10)
"""As long as the Job may run, and some more."""


class ProbeTokens:
    """Creates the tokens."""

    def __init__(self, context: GatewayContext, logins: Logins) -> None:
        self._logins = logins
        account = context.settings.probe_account
        self._reviewer = TokenReviewer(context.client, account, "the probe", "requests a token of the probe")

    def routes(self) -> Sequence[BaseRoute]:
        """On the internal listener, which no browser reaches."""
        return (Route("/internal/probe-token", self.answer, methods=["POST"]),)

    async def answer(self, request: Request) -> Response:
        """`{"user": ..., "token": ...}`."""
        if refusal := await self._reviewer.refusal(request):
            return refusal
        try:
            secret, _ = await self._logins.new_token(User(PROBE_USER, "Probe"), "probe CronJob", TOKEN_LIFETIME)
        except (ActionDenied, DatabaseUnavailableError) as error:
            return plain(503, str(error))
        return JSONResponse({"user": PROBE_USER, "token": secret}, headers={"Cache-Control": "no-store"})
