"""End of a run, replacement of a pod within a run, and the time of the next look. Pure.

Everything that begins or ends by time alone must also be in `next_requeue`: otherwise the operator
looks too late.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter

import msgspec

from vdi.api.session import FailureStatus, VDISession
from vdi.api.template import IdleAction, TimeoutAction, VDITemplate
from vdi.cluster.capacity import USER_NAMESPACES, Need, find_lack
from vdi.cluster.explain import explain, find_idmap_error
from vdi.cluster.objects import Pod
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import format_time, parse_time
from vdi.session.alerts import clock_time, closing_of, evictable_at, find_idle, find_memory_kill
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import POD_READY, Reason
from vdi.session.decide import Observed, find_copying
from vdi.session.effective import Blocked
from vdi.session.failures import (
    SCHEDULER_TIMEOUT,
    START_TIMEOUT,
    Loss,
    count_loss,
    current_failures,
    find_failure_block,
    find_loss,
    home_bound_at,
    in_vain_since,
    is_given_up,
    retry_at,
    stable_at,
    unscheduled_since,
)
from vdi.session.lifetime import (
    expires_at,
    idle_action,
    is_capped,
    planned_at,
    started_at,
    timeout_action,
    warned_at,
)
from vdi.session.naming import RESTARTED_AT
from vdi.session.schedule import start_due_at


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run, and the action that follows."""

    # EndedAsPlanned, TimedOut, IdleTooLong or WorkingHoursOver.
    reason: str
    action: TimeoutAction | IdleAction
    message: str

    @property
    def suspends(self) -> bool:
        """Whether the session is suspended; else it is deleted."""
        return _suspends(self.action)


def _suspends(action: TimeoutAction | IdleAction) -> bool:
    match action:
        case TimeoutAction.SUSPEND | IdleAction.SUSPEND:
            return True
        case TimeoutAction.TERMINATE | IdleAction.TERMINATE:
            return False


@dataclass(frozen=True, slots=True)
class Removal:
    """The deletion of a pod within a run, which continues with another one."""

    # With the loss counted in its status. The status is written before the pod is deleted: an
    # operator that is killed in between finds the pod marked as given up, instead of counting the
    # same loss twice.
    session: VDISession
    blocked: Blocked


def find_ending(observed: Observed, settings: ClusterSettings, now: datetime) -> Ending | None:
    """The earliest end that is due: as planned, by time limit, working hours or idle timeout; None:
    it goes on.
    """
    _, ending = min(_due_endings(observed, settings, now), key=itemgetter(0), default=(now, None))
    return ending


def _due_endings(
    observed: Observed, settings: ClusterSettings, now: datetime
) -> Iterator[tuple[datetime, Ending]]:
    session, template = observed.session, observed.template
    planned, end = session.spec.planned_end, planned_at(session)
    # Of a suspended session, too: it is deleted, or the plan is removed, which would end its next
    # run at once.
    if planned and end and now >= end:
        why = f": {planned.message.rstrip('.')}" if planned.message else ""
        cause = f"An administrator planned the end of this desktop for {clock_time(end)}{why}"
        yield end, _end(observed, Reason.ENDED_AS_PLANNED, planned.action, cause)
    if session.spec.suspended:
        return
    expires = expires_at(session, template, observed.pod, settings)
    if expires and now >= expires:
        cause = (
            f"This desktop has reached its time limit ({_name_limit(session, template, settings)})"
        )
        yield expires, _end(observed, Reason.TIMED_OUT, timeout_action(session, template), cause)
    closing = closing_of(observed, now)
    if closing and closing.is_over(now):
        cause = f"The working hours of this desktop ended at {clock_time(closing.at)}"
        yield (
            closing.over_at,
            _end(observed, Reason.WORKING_HOURS_OVER, TimeoutAction.SUSPEND, cause),
        )
    idle = find_idle(observed, now)
    if idle and idle.over(now):
        cause = f"This desktop has been idle since {clock_time(idle.last_use)}"
        yield (
            idle.over_at,
            _end(observed, Reason.IDLE_TOO_LONG, idle_action(session, template), cause),
        )


def _name_limit(
    session: VDISession, template: VDITemplate | None, settings: ClusterSettings
) -> str:
    if template is None or not is_capped(session, template, settings):
        return f"spec.timeout: {session.spec.timeout}"
    if template.spec.lifecycle.max_timeout:
        return f"the template's lifecycle.maxTimeout: {template.spec.lifecycle.max_timeout}"
    return f"the cluster's sessions.maxTimeout: {settings.max_timeout}"


def _end(
    observed: Observed, reason: Reason, action: TimeoutAction | IdleAction, cause: str
) -> Ending:
    home, pod = observed.session.spec.persistence, observed.pod
    if _suspends(action):
        return Ending(
            reason, action, f"{cause}; it is suspended. It starts again when it is resumed."
        )
    is_kept = pod is not None and pod.home_claim and (home is None or home.retain)
    return Ending(
        reason, action, f"{cause}.{' The files in its home are kept.' if is_kept else ''}"
    )


def find_removal(observed: Observed, now: datetime) -> Removal | None:
    """The removal of a pod that is lost, to be restarted, or whose home is not free; None: it
    stays.
    """
    session, pod = observed.session, observed.pod
    if pod is None or pod.terminating:
        return None
    if is_given_up(session, pod):
        return _removal(observed, session.status.failures, now)
    desired = session.metadata.annotations.get(RESTARTED_AT, "")
    if desired and desired != pod.metadata.annotations.get(RESTARTED_AT, ""):
        message = f"The desktop is being restarted, as requested at {desired}."
        return Removal(
            _with_start(session, pod), Blocked(Reason.RESTARTING, message, condition=POD_READY)
        )
    # A node that joined after the pod's isolation was decided: its kubelet refuses the pod again
    # and again.
    if not pod.spec.host_users and pod.status.phase == "Pending" and (node := observed.node):
        need = Need(USER_NAMESPACES, pod.spec.runtime_class_name)
        if lacks := find_lack(node.status, need):
            message = (
                f"Node {node.metadata.name} has {lacks}: the desktop starts again, on another node"
                " or without."
            )
            return Removal(
                _with_start(session, pod), Blocked(Reason.RESTARTING, message, condition=POD_READY)
            )
    if find_idmap_error(pod):
        # No loss: the next pod has no user namespace, or the session waits without a pod
        # (Required).
        message = explain(observed.start_state(pod)).sentence
        return Removal(
            _with_start(session, pod),
            Blocked(PodReason.NO_IDMAPPED_MOUNTS, message, condition=POD_READY),
        )
    home, copying = observed.home, find_copying(observed.home)
    if copying and home and pod.home_claim == home.metadata.name and pod.status.phase == "Pending":
        # The command marked the home while the pod was being created, before the operator's caches
        # had the mark.
        return Removal(session, copying)
    loss = find_loss(pod, observed.home, observed.events, now, bound_at=home_bound_at(session))
    if loss:
        return after_loss(observed, loss, now)
    return None


def after_loss(observed: Observed, loss: Loss, now: datetime) -> Removal:
    """The removal with the loss counted, and what follows for the session."""
    return _removal(observed, count_loss(observed.session, loss, now), now)


def _removal(observed: Observed, failures: FailureStatus | None, now: datetime) -> Removal:
    session = _with_start(observed.session, observed.pod)
    counted = msgspec.structs.replace(
        session, status=msgspec.structs.replace(session.status, failures=failures)
    )
    blocked = find_failure_block(counted, observed.template, now)
    # None: the pause is over already, or the loss was counted for a spec that has been edited
    # since.
    return Removal(
        counted,
        blocked
        or Blocked(Reason.RESTARTING, "The desktop is being restarted.", condition=POD_READY),
    )


def _with_start(session: VDISession, pod: Pod | None) -> VDISession:
    """The session with the start of its run in the status, also when that was too recent to be
    written yet.
    """
    start = started_at(session, pod)
    status = msgspec.structs.replace(session.status, start_time=format_time(start) if start else "")
    return msgspec.structs.replace(session, status=status)


def next_requeue(observed: Observed, settings: ClusterSettings, now: datetime) -> datetime | None:
    """The next moment at which something begins or ends by time alone; None when nothing will."""
    return min(
        (moment for moment in _moments(observed, settings, now) if moment and moment > now),
        default=None,
    )


def _moments(
    observed: Observed, settings: ClusterSettings, now: datetime
) -> Iterator[datetime | None]:
    session, pod = observed.session, observed.pod
    yield start_due_at(session, now)
    yield planned_at(session)
    if not session.spec.suspended:
        yield expires_at(session, observed.template, pod, settings)
        yield warned_at(session, observed.template, pod, settings)
    if pod is None:
        failures = current_failures(session)
        yield retry_at(failures) if failures else None
        return
    yield evictable_at(observed, settings)
    if kill := find_memory_kill(observed, now):
        yield parse_time(kill.until)
    if idle := find_idle(observed, now):
        yield idle.warn_at
        yield idle.over_at
    if closing := closing_of(observed, now):
        yield closing.warn_at
        yield closing.over_at
        yield closing.given_up_at
    if session.status.failures and session.status.failures.count:
        yield stable_at(pod)
    unscheduled = unscheduled_since(pod)
    yield unscheduled + SCHEDULER_TIMEOUT if unscheduled else None
    bound_at = home_bound_at(session) if unscheduled else None
    yield bound_at + SCHEDULER_TIMEOUT if bound_at else None
    in_vain = in_vain_since(pod)
    yield in_vain + START_TIMEOUT if in_vain else None
