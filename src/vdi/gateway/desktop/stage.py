"""Stage of a desktop for a user who waits for it, as the waiting page shows it and the tools of
`/mcp` tell it. Pure.
"""

from dataclasses import dataclass

from vdi.api.session import Phase, Role, VDISession
from vdi.gateway.queue_message import queue_message
from vdi.gateway.rights import ACTIONS, Action
from vdi.session.conditions import ADMITTED, HOME_BOUND, POD_READY, ROUTE_READY, TEMPLATE_FOUND
from vdi.session.failures import Failure, find_failure
from vdi.session.queueing.messages import place_in_line
from vdi.session.recording import refuse_picture

# Steps of a start by condition, in the order in which a start passes them.
_STEPS = {
    TEMPLATE_FOUND: "Find the template",
    ADMITTED: "Find capacity",
    HOME_BOUND: "Attach your files",
    POD_READY: "Start the desktop",
    ROUTE_READY: "Set up the connection",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a start. `state`: done, now or todo."""

    label: str
    state: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """State of a session as its waiting page shows it to one user."""

    # Read by wait.js: queued, starting, opening, denied, suspended, failed, ending, gone or again.
    key: str
    title: str
    message: str
    steps: tuple[Step, ...] = ()
    # Position in the queue; 0: unknown.
    position: int = 0
    # GPUs, fewer than requested, with which this user may start it now; 0: none.
    gpu: int = 0
    # When capacity is expected, RFC 3339; empty: unknown.
    earliest: str = ""
    may_resume: bool = False
    # Whether the portal offers this user something to do about it.
    manage: bool = False
    failure: Failure | None = None
    # The portal's page that restarts the desktop; empty: there is none to restart, or this user may
    # not.
    restart: str = ""


GONE = Stage("gone", "This desktop has ended", "It no longer exists.")
AGAIN = Stage(
    "again", "One moment", "Your connection to this desktop has ended. Looking for another one."
)


def describe_stage(session: VDISession | None, role: Role | None, denied: str = "") -> Stage:
    """The stage of a session for a user with this role; None: their grant has ended, and there may
    be another one.

    `denied`: why they get no picture of a running desktop; empty: they get it.
    """
    if session is None:
        return GONE
    if role is None:
        return AGAIN
    status = session.status
    is_over = status.phase == Phase.TERMINATING and not session.spec.suspended
    if session.metadata.deletion_timestamp or is_over:
        return Stage("ending", "This desktop is ending", status.message)
    if session.spec.suspended:
        return _suspended(session, role)
    if status.phase == Phase.SUSPENDED:
        return Stage("starting", "Waking up", "The desktop is being resumed.")
    if status.phase == Phase.RUNNING:
        return _running(session, denied)
    return _starting(session, role)


def _running(session: VDISession, denied: str) -> Stage:
    if denied:
        return Stage("denied", "You cannot view this desktop", denied)
    if hidden := refuse_picture(session):
        return Stage("denied", "Waiting for the recording", hidden)
    return Stage("opening", "Ready", "The desktop is opening.", _steps(session))


def _starting(session: VDISession, role: Role) -> Stage:
    status, mine = session.status, role is Role.OWNER
    gpu = status.queue.available_gpu if status.queue and mine else 0
    if failure := find_failure(session):
        may = status.phase != Phase.PENDING and Action.RESTART in ACTIONS[role]
        restart = f"/desktops/{session.metadata.name}/restart" if may else ""
        message = failure.what or queue_message(session)
        return Stage(
            "failed", failure.title, message, gpu=gpu, manage=mine, failure=failure, restart=restart
        )
    if status.queue is not None:
        place = status.queue.position
        return Stage(
            "queued",
            place_in_line(place).capitalize(),
            queue_message(session),
            _steps(session),
            position=place,
            gpu=gpu,
            earliest=status.queue.earliest_slot,
            manage=mine,
        )
    message = status.message or "The desktop is about to start."
    return Stage("starting", "Starting", message, _steps(session))


def _suspended(session: VDISession, role: Role) -> Stage:
    may = Action.RESUME in ACTIONS[role]
    stopped = session.status.phase == Phase.SUSPENDED
    if stopped:
        message = session.status.message
    else:
        message = "It is being stopped; its files are kept."
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
