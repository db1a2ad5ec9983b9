"""What the waiting page shows: where the session stands, why, and what comes next. Pure."""

from dataclasses import dataclass

from vdi.api.session import Phase, Role, VDISession
from vdi.gateway.queue_message import queue_message
from vdi.gateway.rights import ACTIONS, Action
from vdi.session.conditions import ADMITTED, HOME_BOUND, POD_READY, ROUTE_READY, TEMPLATE_FOUND

_STEPS = {
    TEMPLATE_FOUND: "Find the template",
    ADMITTED: "Find capacity",
    HOME_BOUND: "Attach your files",
    POD_READY: "Start the desktop",
    ROUTE_READY: "Set up the connection",
}
"""In the order in which a start passes them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a start."""

    label: str
    state: str
    """done, now, or todo."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a session stands, for the person who looks."""

    key: str
    """queued, starting, opening, denied, suspended, failed, ending, gone, again: what the page's script acts on."""
    title: str
    message: str
    steps: tuple[Step, ...] = ()
    position: int = 0
    """In the queue; 0: none is known."""
    earliest: str = ""
    """When room is expected, RFC 3339; empty: unknown."""
    may_resume: bool = False
    manage: bool = False
    """Whether the portal has something to do for this person here."""


OPENING = "opening"
"""Of a desktop that runs."""
GONE = Stage("gone", "This desktop has ended", "It no longer exists.")
AGAIN = Stage("again", "One moment", "Your connection to this desktop has ended. Looking for another one.")


def describe(session: VDISession | None, role: Role | None, denied: str = "") -> Stage:
    """The stage of a session for somebody in this role; None: their way in has ended, and perhaps there is another.

    `denied`: why they get no picture of it while it runs; empty: they get it.
    """
    if session is None:
        return GONE
    if role is None:
        return AGAIN
    status, mine = session.status, role is Role.OWNER
    if session.metadata.deletion_timestamp or (status.phase == Phase.TERMINATING and not session.spec.suspended):
        return Stage("ending", "This desktop is ending", status.message)
    if session.spec.suspended:
        return _suspended(session, role)
    if status.phase == Phase.SUSPENDED:
        return Stage("starting", "Waking up", "The desktop is being resumed.")
    if status.phase == Phase.RUNNING and denied:
        return Stage("denied", "You cannot view this desktop", denied)
    if status.phase == Phase.RUNNING:
        return Stage(OPENING, "Ready", "The desktop is opening.", _steps(session))
    if status.phase == Phase.FAILED:
        message = status.message or "The reason is not known."
        return Stage("failed", "The desktop could not be started", message, _steps(session), manage=mine)
    if status.queue is not None:
        place = status.queue.position
        return Stage(
            "queued",
            "Next in line" if place == 1 else f"Number {place} in line" if place else "Waiting for capacity",
            queue_message(session),
            _steps(session),
            position=place,
            earliest=status.queue.earliest_slot,
            manage=mine,
        )
    return Stage("starting", "Starting", status.message or "The desktop is about to start.", _steps(session))


def _suspended(session: VDISession, role: Role) -> Stage:
    may = Action.RESUME in ACTIONS[role]
    stopped = session.status.phase == Phase.SUSPENDED
    message = session.status.message if stopped else "It is being stopped; its files are kept."
    if not may:
        message = f"{message} It opens here when {session.spec.user} resumes it.".strip()
    return Stage("suspended", "This desktop is suspended", message, may_resume=may)


def _steps(session: VDISession) -> tuple[Step, ...]:
    known = {condition.type: condition for condition in session.status.conditions}
    steps, waiting = [], False
    for kind, label in _STEPS.items():
        condition = known.get(kind)
        if not waiting and condition is not None and condition.status == "True":
            steps.append(Step(label, "done"))
        elif waiting:
            steps.append(Step(label, "todo"))
        else:
            waiting = True
            note = condition.message if condition is not None else ""
            steps.append(Step(label, "now", "" if note == session.status.message else note))
    return tuple(steps)
