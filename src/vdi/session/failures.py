"""Desktops that are lost: what counts as lost, how often in a row, when it is tried again, when it is given up. Pure.

    lost (find_loss, or the pod has vanished) ── count_loss ──> status.failures, then the pod is deleted
    pause: 10 s, 20 s, 40 s ... 5 min; none for a first loss that the desktop has no part in
    more than MOST_RESTARTS in a row, or another try would not help: given up (Failed), until somebody changes something

The count starts again with the pod that was ready for `STABLE`, another spec, another `restartedAt`, a new run, and
with the first loss of another kind after losses for want of room.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from vdi.api.session import FailureStatus, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.explain import IMAGE_CODES, IMAGE_REASONS, StartState, explain
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import format_time, parse_time
from vdi.session.conditions import HOME_BOUND, POD_READY, Reason
from vdi.session.effective import Blocked
from vdi.session.naming import LAST_FAILURE, RESTARTED_AT

MOST_RESTARTS = 5
# A desktop that was ready for so long has shown that it can run: what happens then is a new story.
STABLE = timedelta(minutes=10)

# How long the kubelet may go on trying to start what cannot be started, while the pod holds its GPU.
START_TIMEOUT = timedelta(minutes=10)
# How long a pod that was let in may find no node, while it holds a place on none.
SCHEDULER_TIMEOUT = timedelta(seconds=15)

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=5)
# Restarts of the container, with Kubernetes backing off, after which its pod counts as lost.
_CRASHES = 3
_IN_VAIN = IMAGE_REASONS | {"CreateContainerConfigError", "CreateContainerError"}
_NOT_ITS_FAULT = frozenset({Reason.POD_DELETED, PodReason.NODE_LOST, PodReason.EVICTED, PodReason.SCHEDULER_LATE})
# Codes of `explain` for a pod that the scheduler finds no place for; a home that waits is not among them.
_NO_ROOM = frozenset(
    {
        PodReason.HOME_ON_OTHER_NODE,
        PodReason.NO_GPU_FREE,
        PodReason.NO_CAPACITY,
        Reason.NO_MATCHING_NODE,
        PodReason.NODES_TAINTED,
        PodReason.NODES_CORDONED,
        PodReason.NO_NODE,
        PodReason.UNSCHEDULABLE,
        PodReason.NO_VOLUME,
        PodReason.SCHEDULER_LATE,
    }
)
_ADVICE: Mapping[str, str] = {
    PodReason.OUT_OF_MEMORY: "Request more memory (spec.resources.memory), or restart it",
    PodReason.OUT_OF_EPHEMERAL_STORAGE: "Raise resources.defaultEphemeralStorage in the template, or restart it",
    PodReason.CRASH_LOOP: "Fix the template, or the files in the home, then restart it",
}


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a pod has to go, and the desktop to be started again in another one."""

    reason: str
    message: str


def find_loss(
    pod: Pod,
    home: PersistentVolumeClaim | None,
    events: tuple[Event, ...],
    now: datetime,
    *,
    bound_at: datetime | None = None,
) -> Loss | None:
    """Whether this pod, which is not being deleted, is lost. `bound_at`: see `home_bound_at`."""
    if pod.ready or pod.terminating:
        return None
    explanation = explain(StartState(pod, home, events))
    desktop = pod.desktop
    waiting = desktop.state.waiting.reason if desktop and desktop.state.waiting else ""
    crashing = desktop is not None and desktop.restart_count >= _CRASHES and waiting == "CrashLoopBackOff"
    in_vain, unscheduled = in_vain_since(pod), unscheduled_since(pod)
    # The scheduler's time to look again begins with the volume.
    if unscheduled is not None and explanation.reason == PodReason.SCHEDULER_LATE:
        unscheduled = max(unscheduled, bound_at or now)
    lost = (
        pod.status.phase in ("Failed", "Succeeded")
        or crashing
        or explanation.reason == PodReason.HOME_LOST
        or (in_vain is not None and now >= in_vain + START_TIMEOUT)
        or (unscheduled is not None and explanation.reason in _NO_ROOM and now >= unscheduled + SCHEDULER_TIMEOUT)
    )
    return Loss(explanation.reason, explanation.sentence) if lost else None


def in_vain_since(pod: Pod) -> datetime | None:
    """Since when the kubelet tries what cannot work as it is (no image, a missing Secret); None when it does not.

    Not before the pod had a node, for which it may have waited for hours, and not while the desktop still ran.
    """
    desktop = pod.desktop
    if desktop is None or desktop.state.waiting is None or desktop.state.waiting.reason not in _IN_VAIN:
        return None
    scheduled, ended = pod.condition("PodScheduled"), desktop.last_state.terminated
    times: list[str | None] = [pod.metadata.creation_timestamp]
    if scheduled and scheduled.status == "True":
        times.append(scheduled.last_transition_time)
    if ended:
        times.append(ended.finished_at)
    return max(parse_time(time) for time in times if time)


def unscheduled_since(pod: Pod) -> datetime | None:
    """Since when the scheduler has found no node for it; None when it has, has not looked yet, or may not look."""
    condition = pod.condition("PodScheduled")
    if pod.spec.node_name or condition is None or condition.status != "False" or pod.gated:
        return None
    return parse_time(condition.last_transition_time or pod.metadata.creation_timestamp)


def home_bound_at(session: VDISession) -> datetime | None:
    """Since when the status says that the home's volume is there; None while it does not say so.

    A pod whose scheduler does not look again after that would wait for five minutes (the scheduler's
    `podMaxInUnschedulablePodsDuration`): seen when a volume was bound in the moment in which it looked.
    """
    found = next((condition for condition in session.status.conditions if condition.type == HOME_BOUND), None)
    return parse_time(found.last_transition_time) if found and found.status == "True" else None


def find_vanished(session: VDISession, *, unpublished: bool = False) -> Loss | None:
    """The status names a pod that is gone, and we did not delete it: what was last seen of it says why.

    `unpublished`: one was made and the status does not name it yet.
    """
    if not session.status.pod_name and not unpublished:
        return None
    last = next((condition for condition in session.status.conditions if condition.type == POD_READY), None)
    if last and last.status == "False" and last.reason in _NOT_ITS_FAULT:
        return Loss(last.reason, last.message)
    return Loss(Reason.POD_DELETED, "The desktop's pod was deleted by someone else.")


def count_loss(session: VDISession, loss: Loss, now: datetime) -> FailureStatus:
    """One more. Its time marks the pods made before: they are done with (`is_given_up`).

    Losses for want of room are no sign that the desktop cannot run, so the first one of another kind counts from 1.
    """
    before = current_failures(session)
    if before and before.reason in _NO_ROOM and loss.reason not in _NO_ROOM:
        before = None
    return FailureStatus(
        count=(before.count if before else 0) + 1,
        reason=loss.reason,
        message=loss.message,
        time=format_time(now),
        generation=session.metadata.generation,
        restarted_at=session.metadata.annotations.get(RESTARTED_AT, ""),
    )


def is_short_of_room(session: VDISession) -> bool:
    """Whether the last pod was lost because the scheduler found no node for it."""
    failures = session.status.failures
    return failures is not None and failures.reason in _NO_ROOM


def current_failures(session: VDISession) -> FailureStatus | None:
    """What was counted for the session as it is now."""
    failures = session.status.failures
    if failures is None or not failures.count:
        return None
    same = failures.generation == session.metadata.generation
    restarted = session.metadata.annotations.get(RESTARTED_AT, "") != failures.restarted_at
    return failures if same and not restarted else None


def reset_failures(session: VDISession, pod: Pod | None, now: datetime) -> FailureStatus | None:
    """`status.failures` as it is to be: from zero again when the desktop has proved itself, or is another one now."""
    failures = session.status.failures
    if failures is None or not failures.count:
        return failures
    proved = stable_at(pod)
    of_another_start = current_failures(session) is None
    if of_another_start or (proved is not None and now >= proved):
        return msgspec.structs.replace(failures, count=0)
    return failures


def stable_at(pod: Pod | None) -> datetime | None:
    """When this pod will have been ready for long enough; None while it is not ready."""
    ready = pod.condition("Ready") if pod and pod.ready else None
    return parse_time(ready.last_transition_time) + STABLE if ready and ready.last_transition_time else None


def is_given_up(session: VDISession, pod: Pod) -> bool:
    """Whether the loss of this very pod has been counted: it goes, whatever has become of it since."""
    failures = session.status.failures
    return failures is not None and failures.time != pod.metadata.annotations.get(LAST_FAILURE, "")


def is_hopeless(failures: FailureStatus, session: VDISession, template: VDITemplate | None) -> bool:
    """Whether the desktop is not started again by itself."""
    if failures.reason in IMAGE_CODES:
        return template is None or not _is_other_template(template, session, failures)
    return failures.count > MOST_RESTARTS and failures.reason not in _NO_ROOM


def _is_other_template(template: VDITemplate, session: VDISession, failures: FailureStatus) -> bool:
    """Whether the template has changed since the loss. One that was created again may have the same generation."""
    meta = template.metadata
    if meta.creation_timestamp and parse_time(meta.creation_timestamp) > parse_time(failures.time):
        return True
    return str(meta.generation) != session.status.template_revision


def pause_after(failures: FailureStatus) -> timedelta:
    """How long to wait after a loss."""
    if failures.count <= 1 and failures.reason in _NOT_ITS_FAULT:
        return timedelta()
    factor: int = 2 ** (min(failures.count, 10) - 1)
    return min(_FIRST_PAUSE * factor, _LONGEST_PAUSE)


def retry_at(failures: FailureStatus) -> datetime:
    """When the desktop is started again."""
    return parse_time(failures.time) + pause_after(failures)


def find_failure_block(session: VDISession, template: VDITemplate | None, now: datetime) -> Blocked | None:
    """Why the desktop is not started again, or not yet; None when it may be."""
    failures = current_failures(session)
    if failures is None:
        return None
    if is_hopeless(failures, session, template):
        return Blocked(failures.reason, _give_up_message(failures, session), condition=POD_READY, needs_change=True)
    again = retry_at(failures)
    if now >= again:
        return None
    words = f"{failures.message} It is restarted at {again:%H:%M:%S} UTC (failure {failures.count} in a row)."
    return Blocked(failures.reason, words, condition=POD_READY)


def _give_up_message(failures: FailureStatus, session: VDISession) -> str:
    times = f" It was restarted {failures.count - 1} times without success." if failures.count > MOST_RESTARTS else ""
    if failures.reason in IMAGE_CODES:
        advice = "It starts automatically when the template is fixed; otherwise restart it"
    else:
        advice = _ADVICE.get(failures.reason, "After the cause is fixed, restart it")
    return f"{failures.message}{times} {advice}: vdi session restart {session.metadata.name}"
