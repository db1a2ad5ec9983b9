"""`POST /internal/ended`: the operator tells of a session's end before it lets the session go.

The operator proves who it is with a token of its service account, made for this audience alone; the API server is asked
whether it is good. 204: it is written. 503: it is not, and may be sent again.
"""

import logging
from collections.abc import Sequence

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from vdi.api.meta import API_VERSION
from vdi.api.session import VDISession
from vdi.gateway.history.recorder import Recorder
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.token_review import TokenReviewer, plain

log = logging.getLogger(__name__)


class EndReports:
    """Takes the reports."""

    def __init__(self, recorder: Recorder, reviewer: TokenReviewer, namespaces: Sequence[str]) -> None:
        self._recorder = recorder
        self._reviewer = reviewer
        self._namespaces = namespaces

    async def answer(self, request: Request) -> Response:
        """One report: the whole session as JSON."""
        if refusal := await self._reviewer.refusal(request):
            return refusal
        try:
            session = msgspec.json.decode(await request.body(), type=VDISession)
            self._check(session)
        except (msgspec.DecodeError, ValueError) as error:
            return plain(400, f"this is not a valid end report: {error}")
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
            return plain(503, str(error))
        except ValueError as error:
            return plain(400, f"this session has an invalid time: {error}")
        except SQLAlchemyError:
            log.exception("the end of %s cannot be written", session.metadata.name)
            return plain(503, "this cannot be written; see the gateway's log")
        return Response(status_code=204)
