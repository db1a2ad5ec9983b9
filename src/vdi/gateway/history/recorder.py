"""Writers of history: the recorder of watched sessions, the operator's end reports, and the
deletion of old rows.

Run by the component `History`. Every replica records the same sessions; the revision of a session's
row decides which write counts, and the others find it done. While the database is down the recorder
keeps the changes and retries.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from vdi.api.meta import API_VERSION
from vdi.api.session import VDISession
from vdi.gateway.cluster_cache import ClusterCache, Kind
from vdi.gateway.history.transitions import SessionSnapshot, fold, lose, read_snapshot
from vdi.gateway.store.audit import drop_audit, enders
from vdi.gateway.store.database import Database, DatabaseUnavailableError, describe_error
from vdi.gateway.store.history import drop_ended, load, load_open, save
from vdi.gateway.token_review import TokenReviewer, plain
from vdi.gateway.web.middleware import AUTHENTICATED
from vdi.kinds import SESSIONS
from vdi.kube.errors import Forbidden, KubeError, NotFound
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

WRITE_BATCH = 200  # sessions in one transaction
# While the database is down, changes are kept in memory: so many states of one session, of so many
# sessions. When there are more, the oldest are dropped.
MAX_STATES, MAX_SESSIONS = 32, 50_000
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 30.0
_END_TRIES = 5  # to write an end while other replicas write the same session
ROUND_SECONDS = 3600.0  # between two rounds of retention
RETRY_SECONDS = 30.0  # after a round that failed
# Old rows are deleted in small transactions with pauses, since SQLite has one writer at a time.
DELETE_BATCH, _BATCH_PAUSE_SECONDS = 500, 0.05


@dataclass(eq=False, kw_only=True)
class Recorder:
    """Writes the changes of watched sessions. `run` starts once the cluster is synced.

    Changes that are unwritten when the process ends are read again at the next start.
    """

    database: Database
    cluster: ClusterCache
    client: Client
    clock: Callable[[], datetime]
    # Why nothing is written at present; empty while all is well.
    trouble: str = field(default="", init=False)
    # States that were written, or were found to be written already.
    written: int = field(default=0, init=False)
    # By uid, oldest first.
    _unwritten: dict[str, list[SessionSnapshot]] = field(default_factory=dict, init=False)
    # Of the sessions that exist, by uid.
    _last: dict[str, SessionSnapshot] = field(default_factory=dict, init=False)
    # Uids of existing sessions that were reported, and are not again.
    _unreadable: set[str] = field(default_factory=set, init=False)
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _behind_since: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.cluster.listen(self._changed)

    @property
    def lag(self) -> float:
        """Seconds that the oldest unwritten change has waited; 0: all is written."""
        if self._behind_since is not None:
            return time.monotonic() - self._behind_since
        return 0.0

    async def run(self) -> None:
        for session in self.cluster.sessions.values():
            self._see(session)
        pause = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._write_some()
            except DatabaseUnavailableError as error:
                if self.trouble != str(error):
                    log.error("history is not written, and goes on when this has passed: %s", error)
                self.trouble = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)
                continue
            if self.trouble:
                log.warning("history is written again")
            self.trouble, pause = "", FIRST_RETRY_SECONDS
            if not self._unwritten:
                self._behind_since = None
                self._news.clear()
                await self._news.wait()

    async def record_end(self, session: VDISession) -> None:
        """Write that this session ends; it is written when this returns. Raises
        DatabaseUnavailableError.
        """
        seen = read_snapshot(session, self.cluster.template(session.spec.template))
        uid = session.metadata.uid
        batch = {uid: [*self._unwritten.pop(uid, []), seen]}
        for _ in range(_END_TRIES):
            batch = await self._write_or_put_back(batch)
            if not batch:
                return
        self._put_back(batch)
        raise DatabaseUnavailableError("others keep changing the session")

    async def close_lost(self) -> None:
        """Close the rows of sessions that ended while no gateway was running.

        A session that may not be read does not hold up the others. Raises DatabaseUnavailableError,
        KubeError.
        """
        after = ""
        failure: Forbidden | None = None
        while True:
            async with self.database.connect() as connection:
                page = await load_open(connection, after, WRITE_BATCH)
            if not page:
                break
            after = page[-1].uid
            for row in page:
                if self.cluster.by_uid(row.uid) is not None:
                    continue
                try:
                    is_gone = await self._is_gone(row.namespace, row.name, row.uid)
                except Forbidden as error:
                    failure = error
                    continue
                if is_gone:
                    await self._close(row.uid)
        if failure is not None:
            raise failure

    async def _is_gone(self, namespace: str, name: str, uid: str) -> bool:
        # The row may be newer than our watch: another replica has written it. So the API server
        # decides. A namespace that was removed from the release cannot be read, and no operator
        # watches it any longer.
        try:
            return (
                await self.client.get(SESSIONS, name, namespace=namespace, into=VDISession)
            ).metadata.uid != uid
        except NotFound:
            return True
        except Forbidden:
            if namespace in self.cluster.settings.namespaces:
                raise
            return True

    async def _close(self, uid: str) -> None:
        async with self.database.begin() as connection:
            record = (await load(connection, [uid])).get(uid)
            if record is None:
                return
            who = await enders(connection, [uid])
            derived = lose(record, self.clock(), who.get(uid, ""))
            await save(self.database, connection, [derived.record.session], derived.runs)

    # --- what is seen

    def _changed(self, kind: Kind, old: Any, new: Any) -> None:
        if kind == "session":
            self._see(new or old, gone=new is None)

    def _see(self, session: VDISession, *, gone: bool = False) -> None:
        meta = session.metadata
        try:
            seen = read_snapshot(session, self.cluster.template(session.spec.template), gone=gone)
        except ValueError as error:
            if meta.uid not in self._unreadable:
                log.error(
                    "history of %s/%s: this state cannot be read: %s",
                    meta.namespace,
                    meta.name,
                    error,
                )
            (self._unreadable.discard if gone else self._unreadable.add)(meta.uid)
            return
        self._unreadable.discard(meta.uid)
        if self._last.get(meta.uid) == seen:
            return
        if gone:
            self._last.pop(meta.uid, None)
        else:
            self._last[meta.uid] = seen
        self._keep(meta.uid, [*self._unwritten.get(meta.uid, []), seen])

    def _keep(self, uid: str, states: Sequence[SessionSnapshot]) -> None:
        self._unwritten[uid] = list(states[-MAX_STATES:])
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        self._news.set()
        while len(self._unwritten) > MAX_SESSIONS:
            dropped = next(iter(self._unwritten))
            del self._unwritten[dropped]
            log.error(
                "history: too much is unwritten; what happened to the session with uid %s is"
                " dropped",
                dropped,
            )

    def _put_back(self, batch: Mapping[str, Sequence[SessionSnapshot]]) -> None:
        for uid, states in batch.items():
            self._keep(uid, [*states, *self._unwritten.get(uid, [])])

    # --- what is written

    async def _write_some(self) -> None:
        batch = {uid: self._unwritten.pop(uid) for uid in list(self._unwritten)[:WRITE_BATCH]}
        if not batch:
            return
        try:
            self._put_back(await self._write_or_put_back(batch))
        except SQLAlchemyError:
            # One state that the database does not take must not hold up all others.
            log.exception(
                "history: %d sessions cannot be written together; one at a time then", len(batch)
            )
            for uid in batch:
                if states := self._unwritten.pop(uid, []):
                    await self._write_one(uid, states)

    async def _write_one(self, uid: str, states: list[SessionSnapshot]) -> None:
        try:
            self._put_back(await self._write({uid: states}))
        except SQLAlchemyError:
            log.exception(
                "history: what happened to the session with uid %s cannot be written, and is lost",
                uid,
            )
        except BaseException:
            self._put_back({uid: states})
            raise

    async def _write_or_put_back(
        self, batch: dict[str, list[SessionSnapshot]]
    ) -> dict[str, list[SessionSnapshot]]:
        """`_write`; whatever it fails with, nothing of the batch is lost, also if the process is
        stopping.
        """
        try:
            return await self._write(batch)
        except BaseException:
            self._put_back(batch)
            raise

    async def _write(
        self, batch: dict[str, list[SessionSnapshot]]
    ) -> dict[str, list[SessionSnapshot]]:
        """Write in one transaction; returns the sessions that another replica has written first, to
        be tried again.
        """
        ending = [uid for uid, states in batch.items() if states[-1].gone or states[-1].deleted]
        async with self.database.begin() as connection:
            known = await load(connection, list(batch))
            who = await enders(connection, ending) if ending else {}
            now = self.clock()
            folded = {
                uid: fold(known.get(uid), states, now, who.get(uid, ""))
                for uid, states in batch.items()
            }
            news = {uid: one for uid, one in folded.items() if one.news}
            rows = [derived.record.session for derived in news.values()]
            runs = [run for derived in news.values() for run in derived.runs]
            written = await save(self.database, connection, rows, runs)
        left = {uid: batch[uid] for uid in news.keys() - written}
        self.written += sum(len(states) for uid, states in batch.items() if uid not in left)
        return left


@dataclass(eq=False, kw_only=True)
class Retention:
    """Closes lost sessions and deletes rows past their retention, beside the recorder.

    Replicas may do it at the same time: a row that one has deleted is not there for the other.
    """

    database: Database
    recorder: Recorder
    kept: timedelta
    clock: Callable[[], datetime]

    async def run(self) -> None:
        """One round at once, then one an hour, until cancelled."""
        while True:
            done = [
                await self._try("closing records of deleted sessions", self.recorder.close_lost)
            ]
            done.append(await self._try("deleting old records", self.drop_old))
            await asyncio.sleep(ROUND_SECONDS if all(done) else RETRY_SECONDS)

    async def _try(self, what: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Whether it succeeded. A failure must not keep the other kind of work from its turn."""
        try:
            await work()
        except (DatabaseUnavailableError, KubeError, SQLAlchemyError) as error:
            reason = describe_error(error)
            log.warning("history: %s is put off for %.0f s: %s", what, RETRY_SECONDS, reason)
            return False
        return True

    async def drop_old(self) -> tuple[int, int]:
        """Delete old rows; returns how many sessions and rows of the audit. Raises
        DatabaseUnavailableError.
        """
        before = self.clock() - self.kept
        gone = (
            await self._in_batches(before, drop_ended),
            await self._in_batches(before, drop_audit),
        )
        if any(gone):
            log.info(
                "dropped %d sessions and %d rows of the audit from before %s", *gone, before.date()
            )
        return gone

    async def _in_batches(
        self, before: datetime, drop: Callable[[AsyncConnection, datetime, int], Awaitable[int]]
    ) -> int:
        total = 0
        while True:
            async with self.database.begin() as connection:
                dropped = await drop(connection, before, DELETE_BATCH)
            total += dropped
            if dropped < DELETE_BATCH:
                return total
            await asyncio.sleep(_BATCH_PAUSE_SECONDS)


@dataclass(eq=False)
class EndReports:
    """Takes the operator's reports: `POST /internal/ended`, sent before it lets a session go.

    The operator proves who it is with a token of its ServiceAccount for this audience. 204: the end
    is written. 503: it is not, and may be sent again.
    """

    recorder: Recorder
    reviewer: TokenReviewer
    namespaces: Sequence[str]

    async def answer(self, request: Request) -> Response:
        """Record the end of the session in the body."""
        if refusal := await self.reviewer.refusal(request):
            return refusal
        request.scope[AUTHENTICATED] = True
        try:
            session = msgspec.json.decode(await request.body(), type=VDISession)
            self._check(session)
            await self.recorder.record_end(session)
        except (msgspec.DecodeError, ValueError) as error:
            return plain(400, f"this is not a valid end report: {error}")
        except DatabaseUnavailableError as error:
            return plain(503, str(error))
        except SQLAlchemyError:
            log.exception("the end of %s cannot be written", session.metadata.name)
            return plain(503, "this cannot be written; see the gateway's log")
        return Response(status_code=204)

    def _check(self, session: VDISession) -> None:
        meta = session.metadata
        for name, value in (("uid", meta.uid), ("creationTimestamp", meta.creation_timestamp)):
            if not value:
                raise ValueError(f"metadata.{name} is empty; it is required")
        if meta.namespace not in self.namespaces:
            allowed = " and ".join(map(repr, self.namespaces))
            raise ValueError(f"metadata.namespace is {meta.namespace!r}; allowed: {allowed}")
        if not meta.deletion_timestamp:
            raise ValueError(
                f"metadata.deletionTimestamp is empty: this {API_VERSION} VDISession is not ending"
            )
