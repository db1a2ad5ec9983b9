"""What a session object says that is worth keeping. Pure.

The operator writes a status for people who wait; most of its changes say nothing that history keeps. Two snapshots
that are equal tell the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from vdi.api.meta import Condition
from vdi.api.session import Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.desktop_size import size_of
from vdi.gateway.store.history import EndReason
from vdi.gateway.users import normal_user
from vdi.session.conditions import ADMITTED, QUEUE_REASONS, READY, Reason
from vdi.session.times import parse_time

END_REASONS: Mapping[str, EndReason | None] = {
    Reason.TIMED_OUT: EndReason.TIMEOUT,
    Reason.IDLE_TOO_LONG: EndReason.IDLE,
    Reason.WORKING_HOURS_OVER: None,
}
"""For each of `ENDED_BY_ITSELF` what history says; None: no more than that the session is suspended."""
LONGEST_DETAIL = 1000
"""Characters of a reason in words."""


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
    at: datetime | None = None
    """When the run that was before has ended; None: the object does not say."""
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
    version: int = field(compare=False)
    """resourceVersion: states of one session are in its order."""
    run: SeenRun | None = None
    stop: Stop | None = None
    """Where there is no run and the session is not deleted."""
    waiting_since: datetime | None = None
    deleted: datetime | None = None
    """When its deletion was requested."""
    ended_itself: EndReason | None = None
    """Of a session that was deleted because its time or patience was over."""
    gone: bool = False
    """It is not there any more."""


def read(session: VDISession, template: VDITemplate | None, *, gone: bool = False) -> SessionSnapshot:
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
        waiting_since=None if run or over else _waiting_since(admitted),
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
        ready=_time(status.ready_time),
        node=status.node_name,
        pod=status.pod_name,
        gpus=size.gpus if size else None,
        cpu=size.cpu if size else None,
        memory_gib=size.memory_gib if size else None,
        expires=_time(status.expires_at),
        renderer=graphics.renderer[:32] if graphics else None,
        encoder=graphics.encoder[:32] if graphics else None,
    )


def _read_stop(session: VDISession, admitted: Condition | None, ready: Condition | None) -> Stop:
    """The operator flips Admitted when a run ends in a suspension, and counts a loss before a run ends in one."""
    status, failures = session.status, session.status.failures
    if status.phase == Phase.SUSPENDED:
        by_itself = END_REASONS.get(ready.reason) if ready else None
        said = admitted is not None and admitted.reason == Reason.SUSPENDED
        at = _time(admitted.last_transition_time) if admitted and said else None
        return Stop(reason=by_itself or EndReason.SUSPENDED, at=at)
    if failures is not None and failures.time:
        detail = _detail(f"{failures.reason}: {failures.message}")
        return Stop(reason=EndReason.FAILED, at=_time(failures.time), detail=detail)
    if status.phase == Phase.FAILED:
        return Stop(reason=EndReason.FAILED, detail=_detail(status.message))
    return Stop(reason=EndReason.UNKNOWN)


def _waiting_since(admitted: Condition | None) -> datetime | None:
    waits = admitted is not None and admitted.status == "False" and admitted.reason in QUEUE_REASONS
    return _time(admitted.last_transition_time) if admitted and waits else None


def _detail(text: str) -> str:
    return text.replace("\0", "")[:LONGEST_DETAIL]  # PostgreSQL's texts have no zero in them


def _condition(session: VDISession, kind: str) -> Condition | None:
    return next((condition for condition in session.status.conditions if condition.type == kind), None)


def _time(text: str) -> datetime | None:
    return parse_time(text) if text else None
