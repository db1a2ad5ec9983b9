"""Lost desktops: what counts as a loss, how many there were in a row, when to retry, when to give
up. Pure.

`find_failure` tells people, on every screen alike, that a desktop does not respond or cannot start.

    lost (find_loss, or the pod has vanished) ── count_loss ──> status.failures, then the pod is deleted
    pause: 10 s, 20 s, 40 s ... 5 min; none for a first loss that the desktop has no part in
    more than MOST_RESTARTS in a row, or another try would not help: given up (Failed), until someone changes something

The count starts again with a pod that was ready for `STABLE`, another spec, another `restartedAt`,
a new run, and with the first loss of another kind after losses for lack of capacity.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from vdi.api.meta import Condition, find_condition
from vdi.api.session import FailureStatus, Phase, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.explain import IMAGE_CODES, IMAGE_REASONS, StartState, explain, last_lines
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod
from vdi.cluster.reasons import LASTING_REASONS, PodReason
from vdi.cluster.units import format_time, parse_time, pause_after
from vdi.session.conditions import (
    CONDITION_TYPES,
    HOME_BOUND,
    LASTING_QUEUE_REASONS,
    POD_READY,
    READY,
    Reason,
)
from vdi.session.effective import Blocked
from vdi.session.naming import LAST_FAILURE, RESTARTED_AT

MOST_RESTARTS = 5
# A desktop that was ready for so long has shown that it can run. A later loss is counted from one
# again.
STABLE = timedelta(minutes=10)
# The kubelet may retry a container that cannot start for this long. The pod holds its GPU in the
# meantime.
START_TIMEOUT = timedelta(minutes=10)
# The scheduler may find no node for an admitted pod for this long. The pod holds no capacity in the
# meantime.
SCHEDULER_TIMEOUT = timedelta(seconds=15)

_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=5)
# Restarts of the container after which its pod counts as lost; and of one that is out of memory
# again: its /dev/shm may be what is full, and lasts as long as the pod.
_CRASHES, _CRASHES_OUT_OF_MEMORY = 3, 1
_IN_VAIN = IMAGE_REASONS | {"CreateContainerConfigError", "CreateContainerError"}
NOT_ITS_FAULT = frozenset(
    {Reason.POD_DELETED, PodReason.NODE_LOST, PodReason.EVICTED, PodReason.SCHEDULER_LATE}
)
# Reasons of a pod that finds no node, without those of a home that is not bound yet.
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
    PodReason.OUT_OF_EPHEMERAL_STORAGE: (
        "Raise resources.defaultEphemeralStorage in the template, or restart it"
    ),
    PodReason.CRASH_LOOP: "Fix the template, or the files in the home, then restart it",
}
_STOPS = frozenset({PodReason.CRASH_LOOP, PodReason.OUT_OF_MEMORY})
# Reasons of a condition that is False with which no start succeeds, although the operator and the
# kubelet may retry, and those of a desktop that hangs.
_FAILURES = (
    IMAGE_CODES
    | (LASTING_REASONS - {PodReason.NODES_CORDONED})
    | {
        Reason.TEMPLATE_NOT_FOUND,
        Reason.OVER_LIMIT,
        Reason.INVALID_TEMPLATE,
        Reason.INVALID_SESSION,
    }
    | {Reason.HOST_TAKEN, Reason.QUOTA_EXCEEDED, Reason.POD_SECURITY, Reason.REFUSED}
    | {
        PodReason.MISSING_KEY,
        PodReason.MISSING_SECRET,
        PodReason.MISSING_CONFIG_MAP,
        PodReason.MISSING_CLAIM,
    }
    | {
        PodReason.BAD_POD_CONFIG,
        PodReason.BAD_MOUNT,
        PodReason.CANNOT_START,
        PodReason.NO_IDMAPPED_MOUNTS,
    }
    | {
        PodReason.HOME_NOT_PROVISIONED,
        PodReason.VOLUME_PERMISSION,
        PodReason.NOT_RESPONDING,
        PodReason.NODE_LOST,
    }
)
# Sentences for the desktop's user, where the operator's message is for administrators.
_FOR_USERS: Mapping[str, str] = {
    **dict.fromkeys(IMAGE_CODES, "Its image cannot be loaded."),
    Reason.TEMPLATE_NOT_FOUND: "Its template no longer exists.",
    Reason.QUOTA_EXCEEDED: "All desktops together have reached a limit of the cluster.",
    **dict.fromkeys((Reason.POD_SECURITY, Reason.REFUSED), "The cluster refuses it."),
    PodReason.NODE_LOST: "The machine that it runs on does not respond.",
    PodReason.NO_IDMAPPED_MOUNTS: (
        "Its files are on a volume that does not allow the isolation that it requires."
    ),
    PodReason.HOME_LOST: "The volume with its files no longer exists.",
    PodReason.OUT_OF_MEMORY: "It used more memory than its limit and was stopped.",
    PodReason.CRASH_LOOP: "It stopped each time that it was started.",
}
# What the user can do, where it is not the same as for all that cannot start.
_USER_ADVICE: Mapping[str, str] = {
    PodReason.NODE_LOST: (
        "It moves to another machine when that is safe. If this takes long, ask your administrator."
    ),
    PodReason.NOT_RESPONDING: (
        "Restart it: unsaved work is lost. If that does not help, ask your administrator."
    ),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A desktop that does not respond or cannot start, for people; `details`: a text for the
    administrator.
    """

    title: str
    # What happened, for its user; empty: `queue_message` of the gateway has the sentence.
    what: str
    advice: str
    since: str
    details: str


@dataclass(frozen=True, slots=True)
class Loss:
    """The reason why a pod is deleted and the desktop started again in another one."""

    reason: str
    message: str
    # The container's last lines: its pod is deleted, and the log with it.
    log: str = ""


def find_loss(
    pod: Pod,
    home: PersistentVolumeClaim | None,
    events: tuple[Event, ...],
    now: datetime,
    *,
    bound_at: datetime | None = None,
) -> Loss | None:
    """The loss of this pod, or None: it is fine, still starting, or being deleted. `bound_at`: see
    `home_bound_at`.
    """
    if pod.ready or pod.terminating:
        return None
    explanation = explain(StartState(pod, home, events))
    desktop = pod.desktop
    if desktop and desktop.state.waiting:
        waiting = desktop.state.waiting.reason
    else:
        waiting = ""
    if explanation.reason == PodReason.OUT_OF_MEMORY:
        most = _CRASHES_OUT_OF_MEMORY
    else:
        most = _CRASHES
    crashing = (
        desktop is not None and desktop.restart_count >= most and waiting == "CrashLoopBackOff"
    )
    in_vain, unscheduled = in_vain_since(pod), unscheduled_since(pod)
    # A pod that waited for its volume gets the scheduler's time from the moment in which the volume
    # was bound.
    if unscheduled is not None and explanation.reason == PodReason.SCHEDULER_LATE:
        unscheduled = max(unscheduled, bound_at or now)
    lost = (
        pod.status.phase in ("Failed", "Succeeded")
        or crashing
        or explanation.reason == PodReason.HOME_LOST
        or (in_vain is not None and now >= in_vain + START_TIMEOUT)
        or (
            unscheduled is not None
            and explanation.reason in _NO_ROOM
            and now >= unscheduled + SCHEDULER_TIMEOUT
        )
    )
    if not lost:
        return None
    ended = None
    if desktop:
        ended = desktop.state.terminated or desktop.last_state.terminated
    output = last_lines(ended.message) if ended else ""
    return Loss(explanation.reason, explanation.sentence, output)


def in_vain_since(pod: Pod) -> datetime | None:
    """The time since when the kubelet retries in vain (no image, a missing Secret); None when it
    does not.

    Not before the pod had a node, for which it may have waited for hours, and not while the desktop
    still ran.
    """
    desktop = pod.desktop
    if (
        desktop is None
        or desktop.state.waiting is None
        or desktop.state.waiting.reason not in _IN_VAIN
    ):
        return None
    scheduled, ended = pod.condition("PodScheduled"), desktop.last_state.terminated
    times: list[str | None] = [pod.metadata.creation_timestamp]
    if scheduled and scheduled.status == "True":
        times.append(scheduled.last_transition_time)
    if ended:
        times.append(ended.finished_at)
    return max(parse_time(time) for time in times if time)


def unscheduled_since(pod: Pod) -> datetime | None:
    """The time since when the scheduler has found no node; None: it has, has not looked yet, or the
    pod is gated.
    """
    condition = pod.condition("PodScheduled")
    if pod.spec.node_name or condition is None or condition.status != "False" or pod.gated:
        return None
    return parse_time(condition.last_transition_time or pod.metadata.creation_timestamp)


def home_bound_at(session: VDISession) -> datetime | None:
    """The time since when the status has the home's volume as bound; None while it does not."""
    # When a volume is bound in the very moment in which the scheduler looks, the scheduler can miss
    # the event. It would look again only after five minutes (`podMaxInUnschedulablePodsDuration`),
    # so such a pod is replaced earlier.
    condition = find_condition(session.status.conditions, HOME_BOUND)
    if condition and condition.status == "True":
        return parse_time(condition.last_transition_time)
    return None


def find_vanished(session: VDISession, *, unpublished: bool = False) -> Loss | None:
    """The loss of a pod that is gone and that the operator did not delete, by its last known
    reason.

    `unpublished`: a pod was created that the status does not name yet.
    """
    if not session.status.pod_name and not unpublished:
        return None
    last = find_condition(session.status.conditions, POD_READY)
    if last and last.status == "False" and last.reason in NOT_ITS_FAULT:
        return Loss(last.reason, last.message)
    return Loss(Reason.POD_DELETED, "The desktop's pod was deleted by someone else.")


def count_loss(session: VDISession, loss: Loss, now: datetime) -> FailureStatus:
    """`status.failures` with one more loss. Its time marks the pods created before it: they go
    (`is_given_up`).

    Losses for lack of capacity do not show that the desktop cannot run, so the first one of another
    kind counts from 1.
    """
    before = current_failures(session)
    if before and before.reason in _NO_ROOM and loss.reason not in _NO_ROOM:
        before = None
    return FailureStatus(
        count=(before.count if before else 0) + 1,
        reason=loss.reason,
        message=loss.message,
        log=loss.log,
        time=format_time(now),
        generation=session.metadata.generation,
        restarted_at=session.metadata.annotations.get(RESTARTED_AT, ""),
    )


def is_short_of_room(session: VDISession) -> bool:
    """Whether the last pod was lost because the scheduler found no node."""
    failures = session.status.failures
    return failures is not None and failures.reason in _NO_ROOM


def current_failures(session: VDISession) -> FailureStatus | None:
    """Failures that count for the session as it is now: not those before an edit or a restart."""
    failures = session.status.failures
    if failures is None or not failures.count:
        return None
    same = failures.generation == session.metadata.generation
    restarted = session.metadata.annotations.get(RESTARTED_AT, "") != failures.restarted_at
    return failures if same and not restarted else None


def reset_failures(session: VDISession, pod: Pod | None, now: datetime) -> FailureStatus | None:
    """`status.failures`, with a count of zero when the desktop is stable, edited or restarted."""
    failures = session.status.failures
    if failures is None or not failures.count:
        return failures
    proved = stable_at(pod)
    of_another_start = current_failures(session) is None
    if of_another_start or (proved is not None and now >= proved):
        return msgspec.structs.replace(failures, count=0)
    return failures


def stable_at(pod: Pod | None) -> datetime | None:
    """The time at which this pod will have been ready for `STABLE`; None while it is not ready."""
    ready = pod.condition("Ready") if pod and pod.ready else None
    if ready and ready.last_transition_time:
        return parse_time(ready.last_transition_time) + STABLE
    return None


def is_given_up(session: VDISession, pod: Pod) -> bool:
    """Whether the loss of this very pod has been counted. Then it goes, even if it is ready by
    now.
    """
    failures = session.status.failures
    return failures is not None and failures.time != pod.metadata.annotations.get(LAST_FAILURE, "")


def is_hopeless(failures: FailureStatus, session: VDISession, template: VDITemplate | None) -> bool:
    """Whether the desktop is not started again automatically."""
    if failures.reason in IMAGE_CODES:
        return template is None or not _is_other_template(template, session, failures)
    return failures.count > MOST_RESTARTS and failures.reason not in _NO_ROOM


def _is_other_template(template: VDITemplate, session: VDISession, failures: FailureStatus) -> bool:
    """Whether the template has changed since the loss. One that was created again may have the same
    generation.
    """
    meta = template.metadata
    if meta.creation_timestamp and parse_time(meta.creation_timestamp) > parse_time(failures.time):
        return True
    return str(meta.generation) != session.status.template_revision


def retry_at(failures: FailureStatus) -> datetime:
    """The time of the next try. A first loss that the desktop has no part in costs no pause."""
    lost_at = parse_time(failures.time)
    if failures.count <= 1 and failures.reason in NOT_ITS_FAULT:
        return lost_at
    return lost_at + pause_after(failures.count, _FIRST_PAUSE, _LONGEST_PAUSE)


def find_failure_block(
    session: VDISession, template: VDITemplate | None, now: datetime
) -> Blocked | None:
    """The reason why the desktop is not started again, or not yet; None when it may be."""
    failures = current_failures(session)
    if failures is None:
        return None
    if is_hopeless(failures, session, template):
        return Blocked(
            failures.reason,
            _give_up_message(failures, session),
            condition=POD_READY,
            needs_change=True,
        )
    again = retry_at(failures)
    if now >= again:
        return None
    text = (
        f"{failures.message} It is restarted at {again:%H:%M:%S} UTC (failure {failures.count} in a"
        " row)."
    )
    return Blocked(failures.reason, text, condition=POD_READY)


def _give_up_message(failures: FailureStatus, session: VDISession) -> str:
    times = ""
    if failures.count > MOST_RESTARTS:
        times = f" It was restarted {failures.count - 1} times without success."
    if failures.reason in IMAGE_CODES:
        advice = "It starts automatically when the template is fixed; otherwise restart it"
    else:
        advice = _ADVICE.get(failures.reason, "After the cause is fixed, restart it")
    return f"{failures.message}{times} {advice}: vdi session restart {session.metadata.name}"


def find_failure(session: VDISession) -> Failure | None:
    """The failure that people are told of; None: it runs, starts, waits, or is not meant to run."""
    status, meta = session.status, session.metadata
    if session.spec.suspended or meta.deletion_timestamp:
        return None
    if status.phase not in (Phase.PENDING, Phase.CREATING, Phase.FAILED):
        return None
    broken = _find_broken_step(session)
    if broken is None and status.phase != Phase.FAILED:
        return None
    if broken is None:
        broken = find_condition(status.conditions, READY) or Condition(READY, "False", "")
    reason, message, since = broken.reason, broken.message, broken.last_transition_time
    title = "Not responding" if reason in _USER_ADVICE else "Cannot start"
    details = (
        f"Desktop {meta.name} of {session.spec.user}, template {session.spec.template}\n{title}"
        f" since {since or meta.creation_timestamp}:"
        f" {reason or status.phase}\n{status.message or message}"
    )
    what = ""
    if not status.queue:
        known = message or status.message or "The reason is not known."
        what = _FOR_USERS.get(reason, known)
    then = "It starts by itself when the cause is fixed."
    if status.phase == Phase.FAILED and reason not in IMAGE_CODES:
        then = "When the cause is fixed, restart it."
    return Failure(
        title, what, _USER_ADVICE.get(reason, f"Ask your administrator. {then}"), since, details
    )


def _find_broken_step(session: VDISession) -> Condition | None:
    """The first step of the start that has failed, in the order of the steps."""
    for kind in CONDITION_TYPES:
        step = None
        if kind != READY:
            step = find_condition(session.status.conditions, kind)
        if step and step.status == "False" and _is_failure(session, step.reason):
            return step
    return None


def _is_failure(session: VDISession, reason: str) -> bool:
    """Whether a step of the start with this reason does not pass by itself before long."""
    status = session.status
    if reason in LASTING_QUEUE_REASONS:
        # An autoscaler may bring the node.
        return not (status.queue and status.queue.node_request_time)
    # A desktop that has worked is restarted after a crash, and works again in seconds.
    recovers = reason in _STOPS and status.ready_time and status.phase != Phase.FAILED
    return not recovers and reason in _FAILURES | _STOPS
