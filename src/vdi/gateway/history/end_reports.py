"""`POST /internal/ended`: the operator tells of a session's end before it lets the session go.

The operator proves who it is with a token of its service account, made for this audience alone; the API server is asked
whether it is good. 204: it is written. 503: it is not, and may be sent again.
"""

import hashlib
import logging
import time
from collections.abc import Sequence

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from vdi.api.meta import API_VERSION
from vdi.api.session import VDISession
from vdi.gateway.history.recorder import Recorder
from vdi.gateway.store.base import DatabaseUnavailableError
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
    """Whether a bearer is the operator."""

    def __init__(self, client: Client, account: str) -> None:
        self._client = client
        self._account = account
        # The last good token, as a hash, and until when it is believed. One operator at a time tells; lost at restart.
        self._known = b""
        self._until = float("-inf")

    async def is_operator(self, token: str) -> bool:
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
            log.warning("%s reports a session's end; only %s may", status.user.username, self._account)
        return good


class EndReports:
    """Takes the reports."""

    def __init__(self, recorder: Recorder, reviewer: TokenReviewer, namespaces: Sequence[str]) -> None:
        self._recorder = recorder
        self._reviewer = reviewer
        self._namespaces = namespaces

    async def answer(self, request: Request) -> Response:
        """One report: the whole session as JSON."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return _plain(401, f"a bearer token of the operator's account for the audience {AUDIENCE} is required")
        try:
            if not await self._reviewer.is_operator(token.strip()):
                return _plain(403, "this token is not the operator's, or it is for another audience")
        except KubeError as error:
            log.warning("a report of a session's end waits, since its token cannot be checked: %s", error)
            return _plain(503, "the API server cannot verify this token")
        try:
            session = msgspec.json.decode(await request.body(), type=VDISession)
            self._check(session)
        except (msgspec.DecodeError, ValueError) as error:
            return _plain(400, f"this is not a valid end report: {error}")
        return await self._record(session)

    def _check(self, session: VDISession) -> None:
        meta = session.metadata
        for name, value in (("uid", meta.uid), ("creationTimestamp", meta.creation_timestamp)):
            if not value:
                raise ValueError(f"metadata.{name} is empty; it is required")
        if meta.namespace not in self._namespaces:
            allowed = " and ".join(map(repr, self._namespaces))
            raise ValueError(f"metadata.namespace is {meta.namespace!r}; allowed: {allowed}")
        if not meta.deletion_timestamp:
            raise ValueError(f"metadata.deletionTimestamp is empty: this {API_VERSION} VDISession is not ending")

    async def _record(self, session: VDISession) -> Response:
        try:
            await self._recorder.record_end(session)
        except DatabaseUnavailableError as error:
            return _plain(503, str(error))
        except ValueError as error:
            return _plain(400, f"this session has an invalid time: {error}")
        except SQLAlchemyError:
            log.exception("the end of %s cannot be written", session.metadata.name)
            return _plain(503, "this cannot be written; see the gateway's log")
        return Response(status_code=204)


def _plain(status: int, sentence: str) -> Response:
    return PlainTextResponse(f"{sentence}\n", status)
