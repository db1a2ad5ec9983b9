"""`status` of a session, derived from what the operator observed. Pure; the operator writes it only
when it changed.

Pending      no pod: something is waited for
Creating     a pod, not ready yet
Running      the pod is ready and its route exists
Suspended    no pod, because spec.suspended says so
Terminating  being deleted, or its run is over
Failed       nothing will happen until someone makes a change (the message says which)
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

import msgspec

from vdi.api.meta import Condition, find_condition
from vdi.api.session import (
    GraphicsStatus,
    IsolationStatus,
    Phase,
    RecordingStatus,
    SessionStatus,
    VDISession,
)
from vdi.cluster.explain import Explanation, explain
from vdi.cluster.objects import Pod
from vdi.cluster.reasons import PodReason
from vdi.cluster.units import format_time, parse_time
from vdi.session.alerts import Alert
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import (
    ADMITTED,
    ENDED_BY_ITSELF,
    HOME_BOUND,
    POD_READY,
    QUEUE_REASONS,
    READY,
    ROUTE_READY,
    TEMPLATE_FOUND,
    Reason,
    renew_condition,
)
from vdi.session.decide import Observed
from vdi.session.effective import Blocked
from vdi.session.ending import Ending
from vdi.session.failures import reset_failures
from vdi.session.lifetime import expires_at, last_activity, planned_at, started_at
from vdi.session.naming import ISOLATION, POOL, RECORDING, TEMPLATE_REVISION
from vdi.session.schedule import next_start


class ConditionState(NamedTuple):
    """A condition before it gets its transition time."""

    type: str
    holds: bool
    reason: str
    message: str = ""
    # A condition that has been True since before this moment announced something else: its time
    # moves.
    begins: datetime | None = None


def derive_conditions(
    observed: Observed, blocked: Blocked | None, explanation: Explanation | None
) -> list[ConditionState]:
    """All conditions but Ready. `explanation`: the reason why the pod is not ready."""
    steps = [
        _template_found(observed),
        _admitted(observed, blocked),
        _home_bound(observed),
        _pod_ready(observed, explanation),
        _route_ready(observed),
    ]
    if blocked:
        blamed = ConditionState(blocked.condition, False, blocked.reason, blocked.message)
        steps = [blamed if step.type == blocked.condition else step for step in steps]
    return steps


def _template_found(observed: Observed) -> ConditionState:
    template, pod = observed.template, observed.pod
    if template is None:
        name = observed.session.spec.template
        return ConditionState(
            TEMPLATE_FOUND, False, Reason.TEMPLATE_NOT_FOUND, f"There is no template {name!r}."
        )
    used = None
    if pod:
        used = pod.metadata.annotations.get(TEMPLATE_REVISION)
    if used and used != str(template.metadata.generation):
        note = (
            f"The template is at revision {template.metadata.generation}, this desktop at {used};"
            " the new revision applies from the next start."
        )
        return ConditionState(TEMPLATE_FOUND, True, Reason.NEWER_REVISION, note)
    return ConditionState(TEMPLATE_FOUND, True, Reason.FOUND)


def _admitted(observed: Observed, blocked: Blocked | None) -> ConditionState:
    pod = observed.pod
    if pod is None and blocked and not keeps_its_run(blocked):
        return ConditionState(ADMITTED, False, blocked.reason, blocked.message)
    from_pool = pod is not None and POOL in pod.metadata.labels
    return ConditionState(
        ADMITTED, True, Reason.CLAIMED_FROM_POOL if from_pool else Reason.ADMITTED
    )


def keeps_its_run(blocked: Blocked) -> bool:
    """Whether a session without a pod is still in its run: its pod is about to be created, or
    created again.
    """
    let_in = blocked.condition not in (ADMITTED, TEMPLATE_FOUND)
    return let_in and not blocked.needs_change


def _home_bound(observed: Observed) -> ConditionState:
    claim, pod = observed.home, observed.pod
    if claim is None and pod and pod.home_claim is None:
        return ConditionState(HOME_BOUND, True, Reason.NO_HOME)
    if claim is None:
        return ConditionState(
            HOME_BOUND, False, Reason.NOT_CREATED, "The home volume does not exist yet."
        )
    if claim.status.phase == "Bound":
        return ConditionState(HOME_BOUND, True, Reason.BOUND)
    if claim.status.phase == "Lost":
        return ConditionState(
            HOME_BOUND, False, PodReason.HOME_LOST, "The volume of the home no longer exists."
        )
    return ConditionState(
        HOME_BOUND, False, PodReason.HOME_PENDING, "The home volume is being created."
    )


def _pod_ready(observed: Observed, explanation: Explanation | None) -> ConditionState:
    if observed.pod is None:
        return ConditionState(POD_READY, False, Reason.NOT_CREATED, "Creating your desktop.")
    if explanation:
        return ConditionState(POD_READY, False, explanation.reason, explanation.sentence)
    return ConditionState(POD_READY, True, Reason.POD_READY)


def _route_ready(observed: Observed) -> ConditionState:
    if observed.session.metadata.deletion_timestamp:
        # Said before the route is seen to be gone. Otherwise its watch event would cause a second
        # status write for each session, when hundreds are deleted at once.
        return ConditionState(ROUTE_READY, False, Reason.STOPPING, "The route is being deleted.")
    if blocked := observed.host_blocked:
        return ConditionState(ROUTE_READY, False, blocked.reason, blocked.message)
    if observed.route is None or observed.service is None:
        return ConditionState(ROUTE_READY, False, Reason.NOT_CREATED, "There is no route yet.")
    return ConditionState(ROUTE_READY, True, Reason.ROUTED)


def with_times(state: ConditionState, session: VDISession, now: datetime) -> Condition:
    """The condition with its transition time, which moves when the status flips, and in two more
    cases.
    """
    known = session.status.conditions
    before = find_condition(known, state.type)
    renewed = renew_condition(known, state.type, state.holds, state.reason, state.message, now)
    if before is None or not before.last_transition_time:
        return renewed
    begins_again = (
        state.begins is not None and parse_time(before.last_transition_time) < state.begins
    )
    # Admitted stays False when a session enters the queue, yet its time has to move: it is the
    # session's place in the queue, also for an operator that has just started and has no other
    # memory.
    enters_queue = state.reason in QUEUE_REASONS and before.reason not in QUEUE_REASONS
    if begins_again or enters_queue:
        return msgspec.structs.replace(renewed, last_transition_time=format_time(now))
    return renewed


def derive(
    observed: Observed,
    blocked: Blocked | None,
    settings: ClusterSettings,
    now: datetime,
    alerts: Sequence[Alert] = (),
) -> SessionStatus:
    """The status of a session. `blocked`: from its Decision, or from the API server's refusal of a
    child.
    """
    session, pod = observed.session, observed.pod
    explanation = _why_not_ready(observed)
    phase = _phase(observed, blocked, explanation)
    message = _message(observed, blocked, explanation, phase)
    warned = [
        ConditionState(alert.type, True, alert.reason, alert.message, alert.begins)
        for alert in alerts
    ]
    findings = [
        *derive_conditions(observed, blocked, explanation),
        _ready(session, phase, message),
        *warned,
    ]
    in_run = pod is not None or blocked is None or keeps_its_run(blocked)
    start = started_at(session, pod) if in_run else None
    ends = (
        (expires_at(session, observed.template, pod, settings), planned_at(session))
        if in_run
        else ()
    )
    end = min(filter(None, ends), default=None)
    return SessionStatus(
        phase=phase,
        url=_url(observed, settings),
        message=message,
        start_time=format_time(start) if start else "",
        ready_time=_ready_time(session, pod, start, now),
        expires_at=format_time(end) if end else "",
        next_start=format_time(scheduled) if (scheduled := next_start(session, now)) else "",
        last_activity_time=_last_activity(observed, start),
        queue=blocked.queue if blocked and pod is None else None,
        failures=reset_failures(session, pod, now),
        graphics=_graphics(observed) if phase == Phase.RUNNING else None,
        isolation=_isolation(pod) if pod else None,
        recording=_recording(observed) if phase == Phase.RUNNING else None,
        template_revision=_revision(observed, in_run=in_run),
        pod_name=_pod_name(observed),
        pod_ip=pod.status.pod_ip if pod and phase == Phase.RUNNING else "",
        node_name=pod.spec.node_name if pod else "",
        home_claim=observed.home_claim,
        observed_generation=session.metadata.generation,
        conditions=tuple(with_times(finding, session, now) for finding in findings),
    )


def derive_ending(
    observed: Observed, ending: Ending, settings: ClusterSettings, now: datetime
) -> SessionStatus:
    """The status at the end of a run, written before the session is deleted or suspended."""
    if ending.suspends:
        return derive_suspended(observed, settings, now, ending)
    status = derive(observed, None, settings, now)
    return _summed_up(
        status, observed.session, Phase.TERMINATING, ending.reason, ending.message, now
    )


def derive_suspended(
    observed: Observed, settings: ClusterSettings, now: datetime, ending: Ending | None = None
) -> SessionStatus:
    """The status of a suspended session: no run, no failures to count on; the address stays the
    session's.
    """
    session = observed.session
    before = _ended(session)
    reason: str = Reason.SUSPENDED
    message = "The desktop's programs are closed. It starts again when it is resumed."
    if ending:
        reason, message = ending.reason, ending.message
    elif before:
        reason, message = before.reason, before.message
    blocked = Blocked(Reason.SUSPENDED, message)
    status = derive(
        replace(observed, pod=None, route=None, host_blocked=None), blocked, settings, now
    )
    status = msgspec.structs.replace(status, failures=None)
    return _summed_up(status, session, Phase.SUSPENDED, reason, message, now)


def _summed_up(
    status: SessionStatus,
    session: VDISession,
    phase: Phase,
    reason: str,
    message: str,
    now: datetime,
) -> SessionStatus:
    """The same status under another phase."""
    ready = with_times(ConditionState(READY, False, reason, message), session, now)
    steps = tuple(
        ready if condition.type == READY else condition for condition in status.conditions
    )
    return msgspec.structs.replace(status, phase=phase, message=message, conditions=steps)


def _url(observed: Observed, settings: ClusterSettings) -> str:
    """The URL of the route; before there is one, of the assigned host: the waiting page needs an
    address.
    """
    # The gateway decides by this URL whose rights count at a host. So it never names a host that
    # the session only requests in `spec.hostname`: `observed.host` is empty while another session
    # or user has that host.
    if observed.route and observed.route.host:
        return settings.url(observed.route.host)
    if observed.host:
        return settings.url(settings.host(observed.host))
    return ""


def _why_not_ready(observed: Observed) -> Explanation | None:
    """The reason why the pod is not ready; None: it is, or there is no pod.

    A node that does not respond outweighs the conditions of its pods, which the kubelet can no
    longer update.
    """
    pod = observed.pod
    if pod is None:
        return None
    if observed.session.metadata.deletion_timestamp and not observed.node_lost:
        # As in `_route_ready`: one status write for a deletion, not one for each child that goes.
        return Explanation(
            PodReason.POD_STOPPING, "The desktop's pod is being deleted.", stuck=False
        )
    if pod.ready and (observed.node is None or observed.node.ready):
        return None
    return explain(observed.start_state(pod))


def _phase(observed: Observed, blocked: Blocked | None, explanation: Explanation | None) -> Phase:
    if observed.session.metadata.deletion_timestamp:
        return Phase.TERMINATING
    if observed.pod is None:
        if blocked and blocked.needs_change:
            return Phase.FAILED
        return Phase.PENDING
    if explanation is None and observed.route and observed.service:
        return Phase.RUNNING
    return Phase.CREATING


def _message(
    observed: Observed, blocked: Blocked | None, explanation: Explanation | None, phase: Phase
) -> str:
    if phase == Phase.TERMINATING:
        return _deletion_message(observed, explanation)
    if blocked:
        return blocked.message
    if explanation:
        return explanation.sentence
    if observed.pod is None:
        return "The desktop is about to start."
    if phase == Phase.RUNNING:
        return _password_note(observed)
    return "The desktop is ready; its route is being created."


def _deletion_message(observed: Observed, explanation: Explanation | None) -> str:
    pod, ended = observed.pod, _ended(observed.session)
    if explanation and explanation.reason == PodReason.NODE_LOST:
        return explanation.sentence
    if ended:
        return ended.message
    if pod and pod.spec.node_name:
        return f"Waiting until node {pod.spec.node_name} has stopped the desktop."
    return "The session is being deleted."


def _ended(session: VDISession) -> Condition | None:
    """The condition Ready of a run that the operator has ended, if it has."""
    ready = find_condition(session.status.conditions, READY)
    if ready and ready.reason in ENDED_BY_ITSELF:
        return ready
    return None


def _password_note(observed: Observed) -> str:
    """A hint where the Secret is younger than the container: the desktop still has the previous
    password.
    """
    pod, secret = observed.pod, observed.secret
    running = pod.desktop.state.running if pod and pod.desktop else None
    if (
        pod is None
        or secret is None
        or running is None
        or not running.started_at
        or POOL in pod.metadata.labels
    ):
        return ""
    made = secret.metadata.creation_timestamp
    if not made or parse_time(made) <= parse_time(running.started_at):
        return ""
    return (
        "The Secret with the password was replaced after the desktop had started with the old one."
        " To use the new password, restart the desktop: vdi session restart"
        f" {observed.session.metadata.name}."
    )


def _ready_time(session: VDISession, pod: Pod | None, start: datetime | None, now: datetime) -> str:
    """First readiness of this run; a later restart of the container, or of the desktop, does not
    move it.

    A desktop from a pool was ready before its run began.
    """
    if start is None:
        return ""
    known = session.status.ready_time
    if known and session.status.start_time == format_time(start):
        return known
    condition = pod.condition("Ready") if pod and pod.ready else None
    if condition is None:
        return ""
    return format_time(
        max(start, parse_time(condition.last_transition_time))
        if condition.last_transition_time
        else now
    )


def _last_activity(observed: Observed, start: datetime | None) -> str:
    status = observed.session.status
    if start is None:
        return ""
    if observed.activity is not None:
        return format_time(last_activity(start, observed.activity))
    if status.start_time == format_time(start):
        return status.last_activity_time
    return ""


def _graphics(observed: Observed) -> GraphicsStatus | None:
    """The agent's report; after a restart of the operator, the report of the same run that the
    status has.
    """
    if observed.activity and observed.activity.graphics:
        return observed.activity.graphics
    return observed.session.status.graphics


def _isolation(pod: Pod) -> IsolationStatus:
    """As the API server has stored the pod: one without the feature would have dropped the
    request.
    """
    obstacle = pod.metadata.annotations.get(ISOLATION, "the template turns it off")
    has = not pod.spec.host_users
    return IsolationStatus(has, "" if has else f"There is no user namespace: {obstacle}.")


def _recording(observed: Observed) -> RecordingStatus | None:
    """The mode of the pod, whatever its template says by now, with the agent's report or the last
    one of this run.
    """
    mode = ""
    if observed.pod:
        mode = observed.pod.metadata.annotations.get(RECORDING, "")
    if not mode:
        return None
    if observed.activity:
        reported = observed.activity.recording
    else:
        reported = observed.session.status.recording
    if reported:
        return msgspec.structs.replace(reported, mode=mode)
    return RecordingStatus(mode)


def _pod_name(observed: Observed) -> str:
    """The pod's name. It stays while others delete the pod, so that `find_vanished` notices the
    loss afterwards.
    """
    pod = observed.pod
    if pod is None:
        return ""
    if pod.terminating:
        return observed.session.status.pod_name
    return pod.metadata.name


def _revision(observed: Observed, *, in_run: bool) -> str:
    """The template's generation of the pod that exists, or of the last one that was tried."""
    if observed.pod:
        return observed.pod.metadata.annotations.get(TEMPLATE_REVISION, "")
    status = observed.session.status
    if in_run or status.failures:
        return status.template_revision
    return ""


def _ready(session: VDISession, phase: Phase, message: str) -> ConditionState:
    match phase:
        case Phase.RUNNING:
            return ConditionState(READY, True, Reason.RUNNING)
        case Phase.TERMINATING:
            ended = _ended(session)
            reason: str = ended.reason if ended else Reason.STOPPING
        case Phase.FAILED:
            reason = Reason.FAILED
        case Phase.PENDING:
            reason = Reason.PENDING
        case Phase.CREATING:
            reason = PodReason.STARTING
        case Phase.SUSPENDED:
            reason = Reason.SUSPENDED
    return ConditionState(READY, False, reason, message)


def is_running(session: VDISession) -> bool:
    """Whether its desktop is there to be asked."""
    return (
        session.status.phase == Phase.RUNNING
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
    )
