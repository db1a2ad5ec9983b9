"""Reports each session's end to the gateway before the session may go. The gateway sees all else by itself.

A queue of its own, beside the sessions': no session waits for the report of another, and none for longer than
`REPORT_TIMEOUT` after its deletion; history is no reason to keep anything. Made only where VDI_GATEWAY_URL is set.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from vdi.api.meta import API_VERSION
from vdi.api.session import VDISession
from vdi.cluster.units import parse_time
from vdi.kube.clock import Clock
from vdi.kube.connections import ask_once
from vdi.kube.events import EventRecorder
from vdi.kube.http import HttpError
from vdi.kube.meta import ObjectReference
from vdi.kube.queue import Result
from vdi.kube.store import Store

log = logging.getLogger(__name__)

REPORT_TIMEOUT = timedelta(seconds=60)
CONCURRENT_REPORTS = 8
ANSWER_SECONDS = 5.0
# Seconds between two tries for one session.
PAUSE = 2.0

ANSWER_BYTES = 4096

SessionKey = tuple[str, str]


class ReportError(Exception):
    """Raised when the gateway has not taken note of an end; says why."""


class EndReports:
    """`report` is the reconciler of a controller.

    What is known of a session lives as long as the session; after a restart its end is reported again, which changes
    nothing at the gateway.
    """

    def __init__(
        self,
        url: str,
        token_file: Path,
        sessions: Store[VDISession],
        recorder: EventRecorder,
        clock: Clock,
        *,
        enqueue_report: Callable[[SessionKey], None],
        enqueue_session: Callable[[SessionKey], None],
    ) -> None:
        """`enqueue_session` is called when the session need not wait for its report any longer."""
        self._url = url
        self._token_file = token_file
        self._sessions = sessions
        self._recorder = recorder
        self._clock = clock
        self._done: dict[
            str, bool
        ] = {}  # by uid: whether its end is reported, or given up; there from the first try on
        self._trouble = ""
        self._enqueue_report = enqueue_report
        self._enqueue_session = enqueue_session
        sessions.listen(self._changed)

    def seconds_to_wait(self, session: VDISession) -> float | None:
        """How long a deleted session has to wait for its report at most; None: its finalizer may go.

        The report begins with the first question. Whoever waits is woken when it is over.
        """
        meta = session.metadata
        if self._done.get(meta.uid):
            return None
        left = self._seconds_left(session)
        if left <= 0:
            self._give_up(session)
            return None
        if meta.uid not in self._done:
            self._done[meta.uid] = False
            self._enqueue_report((meta.namespace, meta.name))
        return left

    async def report(self, key: SessionKey) -> Result:
        """Report one end; try again until that has worked, or the time is up."""
        session = self._sessions.get(*key)
        if session is None or self._done.get(session.metadata.uid) is not False or self._seconds_left(session) <= 0:
            return Result()
        try:
            await self._send(session)
        except ReportError as error:
            if self._trouble != str(error):
                log.warning("the gateway takes no note of sessions that end, tried again: %s", error)
            self._trouble = str(error)
            return Result(requeue_after=PAUSE)
        self._trouble = ""
        if session.metadata.uid in self._done:
            self._done[session.metadata.uid] = True
            self._enqueue_session(key)
        return Result()

    def _changed(self, old: VDISession | None, new: VDISession | None) -> None:
        if old is not None and new is None:
            self._done.pop(old.metadata.uid, None)

    def _seconds_left(self, session: VDISession) -> float:
        deleted_at = session.metadata.deletion_timestamp
        if not deleted_at:
            return 0.0
        return (parse_time(deleted_at) + REPORT_TIMEOUT - self._clock.now()).total_seconds()

    def _give_up(self, session: VDISession) -> None:
        meta = session.metadata
        self._done[meta.uid] = True
        subject = ObjectReference(API_VERSION, "VDISession", meta.name, meta.uid, meta.namespace)
        why = self._trouble or "no attempt was made in time"
        note = (
            f"The gateway has not recorded the end of this session within {REPORT_TIMEOUT.seconds} s ({why}). The "
            "session is deleted anyway. Its history contains what the gateway observed."
        )
        self._recorder.emit(subject, "Warning", "HistoryNotRecorded", note, "Report")

    async def _send(self, session: VDISession) -> None:
        """One request. Raises ReportError."""
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise ReportError(f"the token {self._token_file} cannot be read ({error.strerror})") from error
        body = msgspec.json.encode(session)
        head = (
            f"POST /internal/ended HTTP/1.1\r\nHost: {urlsplit(self._url).netloc}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, text = await ask_once(self._url, head.encode("latin-1") + body, ANSWER_BYTES)
        except (HttpError, TimeoutError, OSError, UnicodeEncodeError) as error:
            raise ReportError(f"{self._url} does not respond ({str(error) or type(error).__name__})") from error
        if status != 204:
            raise ReportError(f"{self._url} responds with {status} ({text[:200].decode(errors='replace').strip()})")
