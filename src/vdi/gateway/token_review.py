"""Authentication of the release's own programs: the operator's reports and the probe's CronJob.

A program sends a token of its ServiceAccount for the audience `vdi-gateway`, and the API server
reviews it.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vdi.gateway.web.credentials import bearer
from vdi.kube.errors import KubeError
from vdi.kube.resource import Resource
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

AUDIENCE = "vdi-gateway"
TOKEN_REVIEWS = Resource(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False
)
# Seconds for which the result of a review is kept: sessions end in bursts, and made-up tokens cost
# the API server nothing the second time.
REMEMBERED = 60.0

# After so many tokens from one address that failed within REMEMBERED, the API server is not asked
# about others.
MOST_REFUSED = 10
# Most refused tokens and addresses that are kept.
_KEPT = 1000


class _User(msgspec.Struct):
    username: str = ""


class _ReviewStatus(msgspec.Struct):
    authenticated: bool = False
    user: _User = msgspec.field(default_factory=_User)
    audiences: tuple[str, ...] = ()


class TokenReview(msgspec.Struct):
    """The API server's review of a token."""

    status: _ReviewStatus = msgspec.field(default_factory=_ReviewStatus)


class RefusedTokens:
    """Hashes of tokens that the API server has refused lately, and failures by address. In
    memory.
    """

    def __init__(self) -> None:
        self._tokens: OrderedDict[bytes, float] = OrderedDict()
        # By address: the number of failures, and until when they count.
        self._addresses: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def knows(self, digest: bytes) -> bool:
        return self._tokens.get(digest, 0.0) > time.monotonic()

    def is_full(self, address: str) -> bool:
        """Whether MOST_REFUSED tokens of this address have failed lately."""
        count, until = self._addresses.get(address, (0, 0.0))
        return count >= MOST_REFUSED and until > time.monotonic()

    def add(self, digest: bytes, address: str) -> None:
        self.count(address)
        self._tokens[digest] = time.monotonic() + REMEMBERED
        if len(self._tokens) > _KEPT:
            self._tokens.popitem(last=False)

    def count(self, address: str) -> None:
        """Count a token that was refused or could not be checked."""
        now = time.monotonic()
        count, until = self._addresses.pop(address, (0, 0.0))
        if until > now:
            self._addresses[address] = count + 1, until
        else:
            self._addresses[address] = 1, now + REMEMBERED
        if len(self._addresses) > _KEPT:
            self._addresses.popitem(last=False)


class TokenReviewer:
    """Reviews tokens of one account; no token passes for an empty one.

    `owner`: the account's program, in responses. `purpose`: its use of the gateway, in the log.
    """

    def __init__(self, client: Client, account: str, owner: str, purpose: str) -> None:
        self._client = client
        self._account = account
        self._owner = owner
        self._purpose = purpose
        # Hash of the last good token, and until when it is accepted without a review.
        self._known = b""
        self._until = float("-inf")
        self._refused = RefusedTokens()
        self._asking = asyncio.Lock()
        self._asking_again = asyncio.Lock()

    async def refusal(self, request: Request) -> Response | None:
        """The response to a request without a good token; None: the token is good."""
        token = bearer(request)
        if not token:
            return plain(
                401,
                f"a bearer token of {self._owner}'s account for the audience {AUDIENCE} is"
                " required",
            )
        digest = hashlib.sha256(token.encode()).digest()
        address = request.client.host if request.client else ""
        if self._is_known(digest):
            return None
        # One review at a time: its result serves the requests that wait for it. The last good token
        # has a lock of its own and no limit, so made-up tokens neither delay the account nor lock
        # it out.
        was_good = digest == self._known
        async with self._asking_again if was_good else self._asking:
            if self._is_known(digest):
                return None
            if not self._account or self._refused.knows(digest):
                return self._not_ours()
            if not was_good and self._refused.is_full(address):
                return plain(429, "too many tokens from this address failed; try again in a minute")
            try:
                if await self._is_account(token, digest):
                    return None
            except KubeError as error:
                log.warning(
                    "a request of %s waits, because its token cannot be checked: %s",
                    self._owner,
                    error,
                )
                if not was_good:
                    self._refused.count(address)
                return plain(503, "the API server cannot verify this token")
            self._refused.add(digest, address)
            return self._not_ours()

    def _is_known(self, digest: bytes) -> bool:
        return digest == self._known and time.monotonic() < self._until

    def _not_ours(self) -> Response:
        return plain(403, f"this token is not {self._owner}'s, or it is for another audience")

    async def _is_account(self, token: str, digest: bytes) -> bool:
        body = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [AUDIENCE]},
        }
        review = await self._client.create(TOKEN_REVIEWS, body, into=TokenReview)
        status = review.status
        good = (
            status.authenticated
            and AUDIENCE in status.audiences
            and status.user.username == self._account
        )
        if good:
            self._known, self._until = digest, time.monotonic() + REMEMBERED
        elif status.authenticated:
            log.warning("%s %s; only %s may", status.user.username, self._purpose, self._account)
        return good


def plain(status: int, sentence: str) -> Response:
    """A response for a program of the release."""
    return PlainTextResponse(f"{sentence}\n", status)
