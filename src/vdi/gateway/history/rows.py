"""What is kept of a session and of its runs: the rows as plain values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EndReason(StrEnum):
    """Why a run, or a session, has ended."""

    USER = "user"
    """The session's owner ended it."""
    ADMIN = "admin"
    """Somebody else ended it, by way of the gateway."""
    TIMEOUT = "timeout"
    IDLE = "idle"
    SUSPENDED = "suspended"
    """Of a run only: the session goes on."""
    FAILED = "failed"
    """Of a run only: its desktop was lost and given up; the detail says why."""
    DELETED = "deleted"
    """The session was deleted past the gateway (kubectl, the garbage collector): nobody knows by whom."""
    UNKNOWN = "unknown"
    """It was over when the gateway looked again. The time is the latest that it can have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One session."""

    uid: str
    name: str
    namespace: str
    owner: str
    template: str
    created: datetime
    waiting_since: datetime | None = None
    """Since when it stands in the queue, or stood before its last run."""
    ended: datetime | None = None
    end_reason: EndReason | None = None
    ended_by: str = ""
    """Who ended it, where that is known."""
    seen: int = 0
    """resourceVersion of the state that these rows tell of."""
    revision: int = 0
    """How often the row was written: who writes it has read the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of a session: from admission to suspension or end, over all pods that replace one another in it."""

    uid: str
    """Of the session."""
    start: datetime
    ready: datetime | None = None
    node: str = ""
    """The last one, as `pod`."""
    pod: str = ""
    gpus: int | None = None
    """None: not known, since its template had changed before the gateway saw it."""
    expires: datetime | None = None
    """When it ends at the latest."""
    queue_seconds: float | None = None
    """How long it stood in the queue before; None: it did not, or nobody saw it."""
    startup_seconds: float | None = None
    """From start to ready."""
    ended: datetime | None = None
    end_reason: EndReason | None = None
    end_detail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """All that matters to what comes next."""

    session: SessionRow
    run: RunRow | None = None
    """The last one."""
