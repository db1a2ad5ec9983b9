"""Rules of history: a session object becomes a snapshot, and a snapshot changes the rows of its session and runs.

Called by the recorder. Pure, level-triggered and safe to repeat: a snapshot is the whole truth of its moment, so
neither
missed nor repeated snapshots do harm. An older snapshot than the rows changes nothing, and a session that has ended
stays
ended. A transition that no one saw gets the reason `unknown`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

from vdi.api.meta import Condition
from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_time
from vdi.gateway.limits import size_of
from vdi.gateway.store.history import EndReason, Record, RunRow, SessionRow
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, READY, Reason
from vdi.session.users import normal_user

# For each of `ENDED_BY_ITSELF` what history says; None: no more than that the session is suspended.
END_REASONS: Mapping[str, EndReason | None] = {
    Reason.TIMED_OUT: EndReason.TIMEOUT,
    Reason.IDLE_TOO_LONG: EndReason.IDLE,
    Reason.WORKING_HOURS_OVER: None,
}

# Characters of a reason in words.
LONGEST_DETAIL = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRun:
    """A run that is on."""

    start: datetime
    ready: datetime | None
    node: str
    pod: str
    gpus: int | None
    expires: datetime | None
    renderer: str | None = None
    encoder: str | None = None
    cpu: float | None = None
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Why there is no run, as far as the object says."""

    reason: EndReason
    # When the run that was before has ended; None: the object does not say.
    at: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSnapshot:
    """One state of one session."""

    uid: str
    name: str
    namespace: str
    owner: str
    template: str
    created: datetime
    # resourceVersion: states of one session are in its order.
    version: int = field(compare=False)
    run: SeenRun | None = None
    # Where there is no run and the session is not deleted.
    stop: Stop | None = None
    waiting_since: datetime | None = None
    # When its deletion was requested.
    deleted: datetime | None = None
    # Of a session that was deleted because its time or patience was over.
    ended_itself: EndReason | None = None
    # It is not there any more.
    gone: bool = False


def read_snapshot(session: VDISession, template: VDITemplate | None, *, gone: bool = False) -> SessionSnapshot:
    """Read one state. Raises ValueError where a time cannot be parsed: the operator did not write it."""
    meta, status = session.metadata, session.status
    deleted = parse_time(meta.deletion_timestamp) if meta.deletion_timestamp else None
    admitted, ready = _condition(session, ADMITTED), _condition(session, READY)
    run = _read_run(session, template) if status.start_time else None
    over = deleted is not None or gone
    return SessionSnapshot(
        uid=meta.uid,
        name=meta.name,
        namespace=meta.namespace,
        owner=normal_user(session.spec.user),
        template=session.spec.template,
        created=parse_time(meta.creation_timestamp),
        version=int(meta.resource_version or 0),
        run=run,
        stop=None if run or over else _read_stop(session, admitted, ready),
        waiting_since=None if run or over else _queued_since(admitted),
        deleted=deleted,
        ended_itself=END_REASONS.get(ready.reason) if ready and over else None,
        gone=gone,
    )


def _read_run(session: VDISession, template: VDITemplate | None) -> SeenRun:
    status, graphics = session.status, session.status.graphics
    # Another revision of the template may ask for another number of GPUs than the desktop was started with.
    same = template is not None and status.template_revision == str(template.metadata.generation)
    size = size_of(template, session) if template is not None and same else None
    return SeenRun(
        start=parse_time(status.start_time),
        ready=_parse_optional(status.ready_time),
        node=status.node_name,
        pod=status.pod_name,
        gpus=size.gpus if size else None,
        cpu=size.cpu if size else None,
        memory_gib=size.memory_gib if size else None,
        expires=_parse_optional(status.expires_at),
        renderer=graphics.renderer[:32] if graphics else None,
        encoder=graphics.encoder[:32] if graphics else None,
    )


def _read_stop(session: VDISession, admitted: Condition | None, ready: Condition | None) -> Stop:
    """The operator flips Admitted when a run ends in a suspension, and counts a loss before a run ends in one."""
    status, failures = session.status, session.status.failures
    if status.phase == Phase.SUSPENDED:
        by_itself = END_REASONS.get(ready.reason) if ready else None
        said = admitted is not None and admitted.reason == Reason.SUSPENDED
        at = _parse_optional(admitted.last_transition_time) if admitted and said else None
        return Stop(reason=by_itself or EndReason.SUSPENDED, at=at)
    if failures is not None and failures.time:
        detail = _detail(f"{failures.reason}: {failures.message}")
        return Stop(reason=EndReason.FAILED, at=_parse_optional(failures.time), detail=detail)
    if status.phase == Phase.FAILED:
        return Stop(reason=EndReason.FAILED, detail=_detail(status.message))
    return Stop(reason=EndReason.UNKNOWN)


def _queued_since(admitted: Condition | None) -> datetime | None:
    waits = admitted is not None and admitted.status == "False" and admitted.reason in QUEUE_REASONS
    return _parse_optional(admitted.last_transition_time) if admitted and waits else None


def _detail(text: str) -> str:
    return text.replace("\0", "")[:LONGEST_DETAIL]  # PostgreSQL's texts have no zero in them


def _condition(session: VDISession, kind: str) -> Condition | None:
    return next((condition for condition in session.status.conditions if condition.type == kind), None)


def _parse_optional(text: str) -> datetime | None:
    return parse_time(text) if text else None


N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Derived:
    """The rows afterwards, and which of them are others than before."""

    record: Record
    # Runs to be written.
    runs: tuple[RunRow, ...] = ()
    # Whether anything is to be written.
    news: bool = False


def derive(old: Record | None, seen: SessionSnapshot, now: datetime, ended_by: str = "") -> Derived:
    """What this snapshot makes of the rows. `ended_by`: who has asked the gateway to end the session, if anybody."""
    record = old or Record(_new_session(seen))
    stale = seen.version < record.session.seen
    if record.session.ended or (stale and not seen.gone):
        return Derived(record)
    runs: list[RunRow] = []
    session, run = record.session, record.run
    if not stale:
        session, run = replace(session, seen=seen.version), _follow_run(record, seen, now, runs)
        session = replace(session, waiting_since=_waiting_since(session, seen))
    if seen.gone or seen.deleted:
        session = _end_session(session, seen, now, ended_by)
        if run and run.ended is None:
            run = _close(run, session.end_reason or EndReason.DELETED, session.ended or now)
    after = Record(session, run)
    return _compared(old, after, runs)


def lose(old: Record, now: datetime, ended_by: str = "") -> Derived:
    """The session is not there any more, and its end was not seen."""
    session, run = old.session, old.run
    if session.ended:
        return Derived(old)
    open_run = run if run and run.ended is None else None
    at = _latest_end(open_run, now) if open_run else now
    reason = _by_whom(session, ended_by) if ended_by else EndReason.UNKNOWN
    after = replace(session, ended=max(at, session.created), end_reason=reason, ended_by=ended_by)
    closed = _close(open_run, reason, at) if open_run else run
    return _compared(old, Record(after, closed), [])


def _compared(old: Record | None, after: Record, before_it: list[RunRow]) -> Derived:
    """Only what differs is written; that a newer state says the same is not worth a row."""
    runs = [*before_it]
    if after.run and (old is None or after.run != old.run):
        runs.append(after.run)
    same = old is not None and replace(old.session, seen=after.session.seen) == after.session
    if same and not runs:
        return Derived(after)
    return Derived(after, tuple(runs), news=True)


def _new_session(seen: SessionSnapshot) -> SessionRow:
    return SessionRow(
        uid=seen.uid,
        name=seen.name,
        namespace=seen.namespace,
        owner=seen.owner,
        template=seen.template,
        created=seen.created,
    )


def _follow_run(old: Record, seen: SessionSnapshot, now: datetime, others: list[RunRow]) -> RunRow | None:
    """The last run, as it is now; one before it that was still open is closed into `others`."""
    run, on = old.run, seen.run
    if on is None:
        if run and run.ended is None and seen.stop:
            waits = seen.waiting_since
            return _stop(run, seen.stop, min(now, waits) if waits and waits >= run.start else now)
        return run
    if run and on.start < run.start:
        return run
    if run and run.start == on.start:
        return _update(run, on)
    if run and run.ended is None:
        others.append(_close(run, EndReason.UNKNOWN, min(_latest_end(run, now), on.start)))
    waited = old.session.waiting_since
    queued = (on.start - waited).total_seconds() if waited and waited <= on.start else None
    return _update(RunRow(uid=seen.uid, start=on.start, queue_seconds=queued), on)


def _update(run: RunRow, on: SeenRun) -> RunRow:
    """What is known of a run that is on (again); between two pods the status names none, and the last one stays."""
    ready = on.ready or run.ready
    return replace(
        run,
        ready=ready,
        node=on.node or run.node,
        pod=on.pod or run.pod,
        gpus=_larger(run.gpus, on.gpus),
        cpu=_larger(run.cpu, on.cpu),
        memory_gib=_larger(run.memory_gib, on.memory_gib),
        renderer=on.renderer or run.renderer,
        encoder=on.encoder or run.encoder,
        expires=on.expires or run.expires,
        startup_seconds=max(0.0, (ready - run.start).total_seconds()) if ready else None,
        ended=None,
        end_reason=None,
        end_detail="",
    )


def _larger(one: N | None, other: N | None) -> N | None:
    return other if one is None else one if other is None else max(one, other)


def _stop(run: RunRow, stop: Stop, over: datetime) -> RunRow:
    """Close a run that is over by then. A time from before it belongs to an earlier run, and says nothing of this."""
    of_this_run = stop.at is not None and stop.at >= run.start
    if stop.reason == EndReason.FAILED and stop.at and not of_this_run:
        return _close(run, EndReason.UNKNOWN, _latest_end(run, over))
    at = stop.at if stop.at and of_this_run else _latest_end(run, over)
    return _close(run, stop.reason, at, stop.detail)


def _close(run: RunRow, reason: EndReason, at: datetime, detail: str = "") -> RunRow:
    return replace(run, ended=max(at, run.start), end_reason=reason, end_detail=detail)


def _latest_end(run: RunRow, now: datetime) -> datetime:
    """Of a run whose end was not seen: no run outlives its time."""
    return min(now, run.expires) if run.expires else now


def _waiting_since(session: SessionRow, seen: SessionSnapshot) -> datetime | None:
    if seen.waiting_since:
        return seen.waiting_since
    suspended = seen.stop is not None and seen.stop.reason not in (EndReason.UNKNOWN, EndReason.FAILED)
    return None if seen.run or suspended else session.waiting_since


def _end_session(session: SessionRow, seen: SessionSnapshot, now: datetime, ended_by: str) -> SessionRow:
    reason = seen.ended_itself or _by_whom(session, ended_by)
    who = "" if seen.ended_itself else ended_by
    return replace(session, ended=max(seen.deleted or now, session.created), end_reason=reason, ended_by=who)


def _by_whom(session: SessionRow, ended_by: str) -> EndReason:
    if not ended_by:
        return EndReason.DELETED
    return EndReason.USER if ended_by == session.owner else EndReason.ADMIN
