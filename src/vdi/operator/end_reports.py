"""Reports of each session's end to the gateway, for its history, before the session's finalizer is
removed.

Only where VDI_GATEWAY_URL is set. `report` is the reconciler of a queue of its own: no session
waits for the report of another, and none for longer than `REPORT_TIMEOUT` after its deletion.
Everything else the gateway's own watch sees.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec

from vdi.api.session import VDISession
from vdi.cluster.units import parse_time
from vdi.kinds import reference_to
from vdi.kube.clock import Clock
from vdi.kube.connections import AnswerError, ask_once
from vdi.kube.events import EventRecorder
from vdi.kube.queue import Result
from vdi.kube.store import Store
from vdi.operator.caches import SessionKey

log = logging.getLogger(__name__)

REPORT_TIMEOUT = timedelta(seconds=60)
CONCURRENT_REPORTS = 8
ANSWER_SECONDS = 5.0
# Seconds between two attempts for one session.
PAUSE = 2.0

ANSWER_BYTES = 4096


class EndReports:
    """The reports of all deleted sessions. After a restart an end is reported again, which the
    gateway ignores.
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
        """`enqueue_session` gets a session that need no longer wait for its report."""
        self._url = url
        self._token_file = token_file
        self._sessions = sessions
        self._recorder = recorder
        self._clock = clock
        # By uid, from the first attempt on: whether the end is reported, or given up.
        self._done: dict[str, bool] = {}
        self._trouble = ""
        self._enqueue_report = enqueue_report
        self._enqueue_session = enqueue_session
        sessions.listen(self._changed)

    def seconds_to_wait(self, session: VDISession) -> float | None:
        """The longest time that a deleted session has to wait for its report; None: its finalizer
        may go.

        The first call begins the report; the session is enqueued when it is done.
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
        """Report one end, again and again until that has worked or the time is up."""
        session = self._sessions.get(*key)
        if (
            session is None
            or self._done.get(session.metadata.uid) is not False
            or self._seconds_left(session) <= 0
        ):
            return Result()
        try:
            await self._send(session)
        except AnswerError as error:
            if self._trouble != str(error):
                log.warning(
                    "the gateway does not record the end of sessions, tried again: %s", error
                )
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
        self._done[session.metadata.uid] = True
        why = self._trouble or "no attempt was made in time"
        note = (
            f"The gateway has not recorded the end of this session within {REPORT_TIMEOUT.seconds}"
            f" s ({why}). The session is deleted anyway. Its history contains what the gateway"
            " observed."
        )
        self._recorder.emit(reference_to(session), "Warning", "HistoryNotRecorded", note, "Report")

    async def _send(self, session: VDISession) -> None:
        try:
            token = self._token_file.read_text().strip()
        except OSError as error:
            raise AnswerError(
                f"the token {self._token_file} cannot be read ({error.strerror})"
            ) from error
        url, body = f"{self._url}/internal/ended", msgspec.json.encode(session)
        await ask_once(
            self._url,
            "POST",
            url,
            bearer=token,
            body=body,
            expected=204,
            most=ANSWER_BYTES,
            seconds=ANSWER_SECONDS,
        )
