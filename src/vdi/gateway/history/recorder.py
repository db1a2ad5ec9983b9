"""Writers of history: the recorder of watched sessions, the operator's end reports, and the deletion of old rows.

Run by the component `History`. Every replica records the same sessions; the revision of a session's row decides which
write counts, and the others find it done. While the database is down the recorder keeps the changes and retries.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from vdi.gateway.history.transitions import Derived, SessionSnapshot, derive, lose, read_snapshot
from vdi.gateway.store.audit import drop_audit, enders
from vdi.gateway.store.database import Database, DatabaseUnavailableError
from vdi.gateway.store.history import Record, RunRow, drop_ended, load, load_open, save
from vdi.gateway.token_review import TokenReviewer, plain
from vdi.kinds import SESSIONS
from vdi.kube.errors import Forbidden, KubeError, NotFound
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

# Sessions in one transaction.
AT_ONCE = 200

# States of one session that are kept while they cannot be written; of more the oldest is dropped.
MOST_STATES = 32
# Sessions of which anything is kept while it cannot be written.
MOST_SESSIONS = 50_000
# Seconds between two tries while the database does not answer.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
# To write an end against others who write the same session.
_TRIES = 5


class Recorder:
    """`run` once, when the cluster is synced. What is unwritten at the end is read again at the next start."""

    def __init__(
        self, *, database: Database, cluster: ClusterCache, client: Client, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._cluster = cluster
        self._client = client
        self._clock = clock
        self._unwritten: dict[str, list[SessionSnapshot]] = {}  # by uid, in the order in which they were seen
        self._last: dict[str, SessionSnapshot] = {}  # of the sessions there are, by uid
        self._unreadable: set[str] = set()  # uids of sessions there are: reported, and not again at their next change
        self._news = asyncio.Event()
        self._behind_since: float | None = None
        self._trouble = ""
        self.written = 0
        """States that were written, or found to be written already."""
        cluster.listen(self._changed)

    @property
    def lag(self) -> float:
        """Seconds that the oldest unwritten change has waited; 0: all is written."""
        return time.monotonic() - self._behind_since if self._behind_since is not None else 0.0

    @property
    def trouble(self) -> str:
        """Why nothing is written at present; empty while all is well."""
        return self._trouble

    async def run(self) -> None:
        """Record until cancelled."""
        for session in self._cluster.sessions.values():
            self._see(session)
        pause = FIRST_PAUSE
        while True:
            try:
                await self._write_some()
            except DatabaseUnavailableError as error:
                if self._trouble != str(error):
                    log.error("history is not written, and goes on when this has passed: %s", error)
                self._trouble = str(error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if self._trouble:
                log.warning("history is written again")
            self._trouble, pause = "", FIRST_PAUSE
            if not self._unwritten:
                self._behind_since = None
                self._news.clear()
                await self._news.wait()

    async def record_end(self, session: VDISession) -> None:
        """Write down that this session ends; it is written when this returns. Raises DatabaseUnavailableError."""
        seen, uid = read_snapshot(session, self._cluster.template(session.spec.template)), session.metadata.uid
        batch = {uid: [*self._unwritten.pop(uid, []), seen]}
        for _ in range(_TRIES):
            try:
                batch = await self._write(batch)
            except BaseException:
                self._put_back(batch)
                raise
            if not batch:
                return
        self._put_back(batch)
        raise DatabaseUnavailableError("others keep changing the session")

    async def close_lost(self) -> None:
        """Close what is open in the database and not there any more: it went while no gateway was there to see it.

        One that may not be read does not hold up the others. Raises DatabaseUnavailableError, KubeError.
        """
        after = ""
        failure: Forbidden | None = None
        while True:
            async with self._database.connect() as connection:
                page = await load_open(connection, after, AT_ONCE)
            if not page:
                break
            after = page[-1].uid
            for row in page:
                if self._cluster.by_uid(row.uid) is not None:
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
        """Another replica may have seen it before our watch did: only the API server knows.

        A namespace that has left the release may not be read, and no operator watches it any longer.
        """
        try:
            return (await self._client.get(SESSIONS, name, namespace=namespace, into=VDISession)).metadata.uid != uid
        except NotFound:
            return True
        except Forbidden:
            if namespace in self._cluster.settings.namespaces:
                raise
            return True

    async def _close(self, uid: str) -> None:
        async with self._database.begin() as connection:
            record = (await load(connection, [uid])).get(uid)
            if record is None:
                return
            who = await enders(connection, [uid])
            derived = lose(record, self._clock(), who.get(uid, ""))
            await save(self._database, connection, [derived.record.session], derived.runs)

    # --- what is seen

    def _changed(self, kind: Kind, old: Any, new: Any) -> None:
        if kind == "session":
            self._see(new or old, gone=new is None)

    def _see(self, session: VDISession, *, gone: bool = False) -> None:
        meta = session.metadata
        try:
            seen = read_snapshot(session, self._cluster.template(session.spec.template), gone=gone)
        except ValueError as error:
            if meta.uid not in self._unreadable:
                log.error("history of %s/%s: this state cannot be read: %s", meta.namespace, meta.name, error)
            self._unreadable.add(meta.uid)
            if gone:
                self._unreadable.discard(meta.uid)
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
        self._unwritten[uid] = list(states[-MOST_STATES:])
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        self._news.set()
        while len(self._unwritten) > MOST_SESSIONS:
            dropped = next(iter(self._unwritten))
            del self._unwritten[dropped]
            log.error("history: too much is unwritten; what happened to the session with uid %s is let go", dropped)

    def _put_back(self, batch: Mapping[str, Sequence[SessionSnapshot]]) -> None:
        for uid, states in batch.items():
            self._keep(uid, [*states, *self._unwritten.get(uid, [])])

    # --- what is written

    async def _write_some(self) -> None:
        batch = {uid: self._unwritten.pop(uid) for uid in list(self._unwritten)[:AT_ONCE]}
        if not batch:
            return
        try:
            left = await self._write(batch)
        except SQLAlchemyError:
            log.exception("history: %d sessions cannot be written together; one at a time then", len(batch))
            left = await self._write_each(batch)
        except BaseException:
            self._put_back(batch)
            raise
        self._put_back(left)

    async def _write_each(self, batch: dict[str, list[SessionSnapshot]]) -> dict[str, list[SessionSnapshot]]:
        """One state that the database does not take must not hold up all others."""
        left: dict[str, list[SessionSnapshot]] = {}
        while batch:
            uid = next(iter(batch))
            try:
                left |= await self._write({uid: batch[uid]})
            except SQLAlchemyError:
                log.exception("history: what happened to the session with uid %s cannot be written, and is lost", uid)
            except BaseException:
                self._put_back(batch | left)
                raise
            del batch[uid]
        return left

    async def _write(self, batch: dict[str, list[SessionSnapshot]]) -> dict[str, list[SessionSnapshot]]:
        """One transaction; gives what has to be tried again, since somebody else has written those sessions first."""
        ending = [uid for uid, states in batch.items() if states[-1].gone or states[-1].deleted]
        async with self._database.begin() as connection:
            known = await load(connection, list(batch))
            who = await enders(connection, ending) if ending else {}
            now = self._clock()
            folded = {uid: fold(known.get(uid), states, now, who.get(uid, "")) for uid, states in batch.items()}
            news = {uid: one for uid, one in folded.items() if one.news}
            rows = [derived.record.session for derived in news.values()]
            written = await save(
                self._database, connection, rows, [run for derived in news.values() for run in derived.runs]
            )
        left = {uid: batch[uid] for uid in news.keys() - written}
        self.written += sum(len(states) for uid, states in batch.items() if uid not in left)
        return left


def fold(old: Record | None, states: Sequence[SessionSnapshot], now: datetime, ended_by: str = "") -> Derived:
    """What several states, one after the other, make of the rows. Pure."""
    record, runs, news = old, dict[datetime, RunRow](), False
    for seen in states:
        derived = derive(record, seen, now, ended_by)
        record, news = derived.record, news or derived.news
        runs |= {run.start: run for run in derived.runs}
    if record is None:
        raise ValueError("states: the list is empty; at least one state is required")
    return Derived(record, tuple(runs.values()), news)


# Seconds between two rounds.
ROUND_SECONDS = 3600.0
# Seconds until the next try after one that failed.
RETRY_SECONDS = 30.0
# Rows that one transaction deletes: others want to write, too.
DELETE_BATCH = 500
# Seconds between two batches.
_BATCH_PAUSE_SECONDS = 0.05


class Retention:
    """`run` beside the recorder. Replicas may do it at once: what the one has dropped is not there for the other."""

    def __init__(self, *, database: Database, recorder: Recorder, days: int, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._recorder = recorder
        self._kept = timedelta(days=days)
        self._clock = clock

    async def run(self) -> None:
        """One round at once, then one an hour, until cancelled."""
        while True:
            done = [await self._try("closing records of deleted sessions", self._recorder.close_lost)]
            done.append(await self._try("deleting old records", self.drop_old))
            await asyncio.sleep(ROUND_SECONDS if all(done) else RETRY_SECONDS)

    async def _try(self, what: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Whether it went well; one must not keep the other from its turn."""
        try:
            await work()
        except (DatabaseUnavailableError, KubeError, SQLAlchemyError) as error:
            words = str(error) if not isinstance(error, SQLAlchemyError) else type(error).__name__
            log.warning("history: %s is put off for %.0f s: %s", what, RETRY_SECONDS, words)
            return False
        return True

    async def drop_old(self) -> tuple[int, int]:
        """Delete what is older than is kept; gives how many sessions and how many rows of the audit.

        Raises DatabaseUnavailableError.
        """
        before = self._clock() - self._kept
        gone = await self._in_batches(before, drop_ended), await self._in_batches(before, drop_audit)
        if any(gone):
            log.info("dropped %d sessions and %d rows of the audit from before %s", *gone, before.date())
        return gone

    async def _in_batches(
        self, before: datetime, drop: Callable[[AsyncConnection, datetime, int], Awaitable[int]]
    ) -> int:
        total = 0
        while True:
            async with self._database.begin() as connection:
                dropped = await drop(connection, before, DELETE_BATCH)
            total += dropped
            if dropped < DELETE_BATCH:
                return total
            await asyncio.sleep(_BATCH_PAUSE_SECONDS)


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
