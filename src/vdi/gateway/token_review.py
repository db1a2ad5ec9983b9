"""Whether a request comes from a ServiceAccount of the release: it sends a token for our audience alone, and the API
server says whose it is.
"""

import hashlib
import logging
import time

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vdi.gateway.web.authorization import bearer
from vdi.kube.errors import KubeError
from vdi.kube.resource import Resource
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

AUDIENCE = "vdi-gateway"
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
REMEMBERED = 60.0
"""Seconds for which a good token is not asked about again: sessions end in bursts."""


class _User(msgspec.Struct):
    username: str = ""


class _ReviewStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: tuple[str, ...] = ()


class TokenReview(msgspec.Struct):
    """What the API server says of a token."""

    status: _ReviewStatus = msgspec.field(default_factory=_ReviewStatus)


class TokenReviewer:
    """Whether a token is that of one account; an empty one has none.

    `owner` is whose account it is, in answers; `purpose` what the account does here, for the log.
    """

    def __init__(self, client: Client, account: str, owner: str, purpose: str) -> None:
        self._client = client
        self._account = account
        self._owner = owner
        self._purpose = purpose
        # The last good token, as a hash, and until when it is believed. Lost at restart.
        self._known = b""
        self._until = float("-inf")

    async def refusal(self, request: Request) -> Response | None:
        """The answer to a request without a good token; None where it has one."""
        token = bearer(request)
        if not token:
            return plain(401, f"a bearer token of {self._owner}'s account for the audience {AUDIENCE} is required")
        try:
            if not (self._account and await self.is_account(token)):
                return plain(403, f"this token is not {self._owner}'s, or it is for another audience")
        except KubeError as error:
            log.warning("a request of %s waits, because its token cannot be checked: %s", self._owner, error)
            return plain(503, "the API server cannot verify this token")
        return None

    async def is_account(self, token: str) -> bool:
        """Raises KubeError when the API server cannot be asked."""
        digest = hashlib.sha256(token.encode()).digest()
        if digest == self._known and time.monotonic() < self._until:
            return True
        body = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        review = await self._client.create(TOKEN_REVIEWS, body, into=TokenReview)
        status = review.status
        good = status.authenticated and AUDIENCE in status.audiences and status.user.username == self._account
        if good:
            self._known, self._until = digest, time.monotonic() + REMEMBERED
        elif status.authenticated:
            log.warning("%s %s; only %s may", status.user.username, self._purpose, self._account)
        return good


def plain(status: int, sentence: str) -> Response:
    """An answer for a program of the release."""
    return PlainTextResponse(f"{sentence}\n", status)
