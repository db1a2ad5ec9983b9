"""Rules of history: a session object becomes a snapshot, and snapshots change the rows of its
session and its runs.

Called by the recorder. Pure, level-triggered and safe to repeat: a snapshot is the whole truth of
its moment, so missed and repeated snapshots do no harm. A snapshot that is older than the rows
changes nothing, and a session that has ended stays ended. An end that no one saw gets the reason
`unknown`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec.structs import replace

from vdi.api.meta import Condition, find_condition
from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.gateway.limits import size_of
from vdi.gateway.store.history import EndReason, Record, RunRow, SessionRow
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, READY, Reason
from vdi.session.users import normal_user

# Reason of the condition Ready -> end reason, for what the operator ends by itself. None: history
# calls it suspended.
END_REASONS: Mapping[str, EndReason | None] = {
    Reason.TIMED_OUT: EndReason.TIMEOUT,
    Reason.IDLE_TOO_LONG: EndReason.IDLE,
    Reason.WORKING_HOURS_OVER: None,
    Reason.ENDED_AS_PLANNED: EndReason.ADMIN,
}
MAX_DETAIL_CHARACTERS = 1000
# Between two pods of a run the status names neither; the values that were known last stay.
_LAST_KNOWN = ("ready", "node", "pod", "renderer", "encoder", "expires")
# The size is unknown once the template has changed, and a run that had more once has used more.
_LARGEST = ("gpus", "cpu", "memory_gib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The reason why a session has no run, as far as its object tells."""

    reason: EndReason
    # When the last run ended; None: the object does not tell.
    at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSnapshot:
    """Part of a session's state that history records. Two that are equal tell the same: the version
    does not count.
    """

    # The row of a session that was just created.
    session: SessionRow
    # resourceVersion, which orders the states of one session.
    version: int = field(compare=False)
    # The current run; unlike a row it has no queue and startup times.
    run: RunRow | None = None
    # Set where there is no run and the session is not deleted.
    stop: Stop | None = None
    waiting_since: datetime | None = None
    # When its deletion was requested.
    deleted: datetime | None = None
    # Of a session that was deleted because its time limit or idle timeout was reached.
    ended_itself: EndReason | None = None
    # Whether the object is no longer there.
    gone: bool = False


def read_snapshot(
    session: VDISession, template: VDITemplate | None, *, gone: bool = False
) -> SessionSnapshot:
    """Read one state. Raises ValueError where a time cannot be parsed: the operator did not write
    it.
    """
    meta = session.metadata
    deleted = _parse_optional(meta.deletion_timestamp)
    admitted, ready = (
        find_condition(session.status.conditions, kind) for kind in (ADMITTED, READY)
    )
    run = None
    if session.status.start_time:
        run = _read_run(session, template)
    over = deleted is not None or gone
    return SessionSnapshot(
        session=SessionRow(
            uid=meta.uid,
            name=meta.name,
            namespace=meta.namespace,
            owner=normal_user(session.spec.user),
            template=session.spec.template,
            created=parse_time(meta.creation_timestamp),
        ),
        version=int(meta.resource_version or 0),
        run=run,
        stop=None if run or over else _read_stop(session, admitted, ready),
        waiting_since=None if run or over else _queued_since(admitted),
        deleted=deleted,
        ended_itself=END_REASONS.get(ready.reason) if ready and over else None,
        gone=gone,
    )


def _read_run(session: VDISession, template: VDITemplate | None) -> RunRow:
    status, graphics = session.status, session.status.graphics
    # Another revision of the template may request another number of GPUs than the desktop was
    # started with.
    is_same = template is not None and status.template_revision == str(template.metadata.generation)
    if template is not None and is_same:
        size = size_of(template, session)
    else:
        size = {}
    return RunRow(
        uid=session.metadata.uid,
        start=parse_time(status.start_time),
        ready=_parse_optional(status.ready_time),
        node=status.node_name,
        pod=status.pod_name,
        **size,
        renderer=graphics.renderer[:32] if graphics else None,
        encoder=graphics.encoder[:32] if graphics else None,
        expires=_parse_optional(status.expires_at),
    )


def _read_stop(session: VDISession, admitted: Condition | None, ready: Condition | None) -> Stop:
    # The operator changes Admitted when a run is suspended, so its transition is the end of the
    # run. It counts a failure before it gives a desktop up, so `failures` is the cause.
    status, failures = session.status, session.status.failures
    if status.phase == Phase.SUSPENDED:
        by_itself = END_REASONS.get(ready.reason) if ready else None
        at = ""
        if admitted and admitted.reason == Reason.SUSPENDED:
            at = admitted.last_transition_time
        return Stop(reason=by_itself or EndReason.SUSPENDED, at=_parse_optional(at))
    if failures is not None and failures.time:
        detail = _detail(f"{failures.reason}: {failures.message}")
        return Stop(reason=EndReason.FAILED, at=parse_time(failures.time), detail=detail)
    if status.phase == Phase.FAILED:
        return Stop(reason=EndReason.FAILED, detail=_detail(status.message))
    return Stop(reason=EndReason.UNKNOWN)


def _queued_since(admitted: Condition | None) -> datetime | None:
    if admitted is None or admitted.status != "False" or admitted.reason not in QUEUE_REASONS:
        return None
    return _parse_optional(admitted.last_transition_time)


def _detail(text: str) -> str:
    # PostgreSQL's texts cannot hold a zero byte.
    return text.replace("\0", "")[:MAX_DETAIL_CHARACTERS]


def _parse_optional(text: str | None) -> datetime | None:
    return parse_time(text) if text else None


@dataclass(frozen=True, slots=True)
class Derived:
    """The rows after a transition, and which runs are to be written."""

    record: Record
    runs: tuple[RunRow, ...] = ()
    # Whether anything is to be written.
    news: bool = False


def fold(
    old: Record | None, states: Sequence[SessionSnapshot], now: datetime, ended_by: str = ""
) -> Derived:
    """Derive from several snapshots, one after the other; `states` is not empty."""
    derived = derive(old, states[0], now, ended_by)
    runs, news = {run.start: run for run in derived.runs}, derived.news
    for seen in states[1:]:
        derived = derive(derived.record, seen, now, ended_by)
        runs |= {run.start: run for run in derived.runs}
        news = news or derived.news
    return Derived(derived.record, tuple(runs.values()), news)


def derive(old: Record | None, seen: SessionSnapshot, now: datetime, ended_by: str = "") -> Derived:
    """The rows after this snapshot. `ended_by`: who has asked the gateway to end the session, if
    anyone.
    """
    record = old or Record(seen.session)
    is_stale = seen.version < record.session.seen
    # A stale snapshot still tells that the session is gone: the watch brings its end with the last
    # state that it had.
    if record.session.ended or (is_stale and not seen.gone):
        return Derived(record)
    runs: list[RunRow] = []
    session, run = record.session, record.run
    if not is_stale:
        session, run = replace(session, seen=seen.version), _follow_run(record, seen, now, runs)
        session = replace(session, waiting_since=_waiting_since(session, seen))
    if seen.gone or seen.deleted:
        session = _end_session(session, seen, now, ended_by)
        if run and run.ended is None:
            run = _close(run, session.end_reason or EndReason.DELETED, session.ended or now)
    return _compared(old, Record(session, run), runs)


def lose(old: Record, now: datetime, ended_by: str = "") -> Derived:
    """The rows of a session that is no longer there, and whose end no one saw."""
    session, run = old.session, old.run
    if session.ended:
        return Derived(old)
    at = _latest_end(run, now) if run and run.ended is None else now
    if ended_by:
        reason = _by_whom(session, ended_by)
    else:
        reason = EndReason.UNKNOWN
    session = replace(session, ended=max(at, session.created), end_reason=reason, ended_by=ended_by)
    return _compared(
        old, Record(session, _close(run, reason, at) if run and run.ended is None else run), []
    )


def _compared(old: Record | None, after: Record, runs: list[RunRow]) -> Derived:
    """Only differences are written: a newer resourceVersion alone is not worth a row."""
    if after.run and (old is None or after.run != old.run):
        runs = [*runs, after.run]
    is_same = old is not None and replace(old.session, seen=after.session.seen) == after.session
    return Derived(after, tuple(runs), news=bool(runs) or not is_same)


def _follow_run(
    old: Record, seen: SessionSnapshot, now: datetime, closed: list[RunRow]
) -> RunRow | None:
    """The last run as it is now. A run before it that was still open is closed and added to
    `closed`.
    """
    run, current = old.run, seen.run
    if current is None:
        if run and run.ended is None and seen.stop:
            waits = seen.waiting_since
            return _stop(run, seen.stop, min(now, waits) if waits and waits >= run.start else now)
        return run
    if run and current.start < run.start:
        return run
    if run and run.start == current.start:
        return _update(run, current)
    if run and run.ended is None:
        closed.append(_close(run, EndReason.UNKNOWN, min(_latest_end(run, now), current.start)))
    waited = old.session.waiting_since
    queued = None
    if waited and waited <= current.start:
        queued = (current.start - waited).total_seconds()
    return _update(replace(current, queue_seconds=queued), current)


def _update(run: RunRow, current: RunRow) -> RunRow:
    """A run that goes on, or goes on again after it was closed too soon."""
    known = {name: getattr(current, name) or getattr(run, name) for name in _LAST_KNOWN}
    for name in _LARGEST:
        sizes = [size for size in (getattr(run, name), getattr(current, name)) if size is not None]
        known[name] = max(sizes, default=None)
    ready = known["ready"]
    startup = None
    if ready:
        startup = max(0.0, (ready - run.start).total_seconds())
    return replace(
        run, **known, startup_seconds=startup, ended=None, end_reason=None, end_detail=""
    )


def _stop(run: RunRow, stop: Stop, over: datetime) -> RunRow:
    """Close a run that is over by then. A stop from before it belongs to an earlier run, and is
    ignored.
    """
    at = stop.at if stop.at and stop.at >= run.start else None
    if stop.reason == EndReason.FAILED and stop.at and at is None:
        return _close(run, EndReason.UNKNOWN, _latest_end(run, over))
    return _close(run, stop.reason, at or _latest_end(run, over), stop.detail)


def _close(run: RunRow, reason: EndReason, at: datetime, detail: str = "") -> RunRow:
    return replace(run, ended=max(at, run.start), end_reason=reason, end_detail=detail)


def _latest_end(run: RunRow, now: datetime) -> datetime:
    """Of a run whose end no one saw: it cannot have outlived its time limit."""
    return min(now, run.expires) if run.expires else now


def _waiting_since(session: SessionRow, seen: SessionSnapshot) -> datetime | None:
    if seen.waiting_since:
        return seen.waiting_since
    is_suspended = seen.stop is not None and seen.stop.reason not in (
        EndReason.UNKNOWN,
        EndReason.FAILED,
    )
    if seen.run or is_suspended:
        return None
    return session.waiting_since


def _end_session(
    session: SessionRow, seen: SessionSnapshot, now: datetime, ended_by: str
) -> SessionRow:
    reason = seen.ended_itself or _by_whom(session, ended_by)
    who = "" if seen.ended_itself else ended_by
    return replace(
        session, ended=max(seen.deleted or now, session.created), end_reason=reason, ended_by=who
    )


def _by_whom(session: SessionRow, ended_by: str) -> EndReason:
    if not ended_by:
        return EndReason.DELETED
    if ended_by == session.owner:
        return EndReason.USER
    return EndReason.ADMIN
