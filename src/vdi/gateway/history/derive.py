"""(rows as they are, what was seen, now) -> rows as they are to be. Pure, and safe to repeat.

Level-triggered: a snapshot is the whole truth of its moment, so it does not matter which ones came before it, or
whether it comes twice. Of a session's states older than what the rows tell of nothing is learnt; and a session that has
ended, has ended. What was missed in between is said to be `unknown`, never invented.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from vdi.gateway.history.snapshot import SeenRun, SessionSnapshot, Stop
from vdi.gateway.store.history import EndReason, Record, RunRow, SessionRow

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Derived:
    """The rows afterwards, and which of them are others than before."""

    record: Record
    runs: tuple[RunRow, ...] = ()
    """Runs to be written."""
    news: bool = False
    """Whether anything is to be written."""


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
