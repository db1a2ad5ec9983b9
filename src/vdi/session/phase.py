"""Observed -> status. Pure; the operator writes the result when it differs from what it wrote last.

Pending      no pod: something is waited for
Creating     a pod, not ready yet
Running      the pod is ready and its route exists
Terminating  being deleted, or its time is over
Failed       nothing will happen until somebody changes something (the message says what)
"""

from dataclasses import dataclass
from datetime import datetime

from vdi.api.meta import Condition
from vdi.api.session import SessionStatus, VDISession
from vdi.session import conditions
from vdi.session.conditions import Phase, Reason
from vdi.session.decide import Observed
from vdi.session.effective import Problem
from vdi.session.explain import Explanation, Facts, explain
from vdi.session.lifetime import expires_at, is_over, started_at
from vdi.session.observed import TEMPLATE_REVISION, Pod
from vdi.session.policy import Policy
from vdi.session.times import format_time, parse_time

_CRASHES_UNTIL_FAILED = 3
"""Restarts in a row, with Kubernetes backing off, after which a start counts as failed."""


@dataclass(frozen=True, slots=True)
class _Finding:
    """Status of one condition before it gets its times."""

    type: str
    holds: bool
    reason: str
    message: str = ""


def derive(observed: Observed, problem: Problem | None, policy: Policy, now: datetime) -> SessionStatus:
    """The status of a session. `problem` is the verdict's, or the API server's refusal of a child."""
    session, pod = observed.session, observed.pod
    answer = explain(Facts(pod, observed.home, observed.events)) if pod and not pod.ready else None
    phase = _phase(observed, problem, answer, now)
    message = _message(observed, problem, answer, phase, now)
    findings = [*_steps(observed, problem, answer), _summary(observed, phase, message, now)]
    start, end = started_at(session, pod), expires_at(session, observed.template, pod)
    return SessionStatus(
        phase=phase,
        url=policy.url(observed.route.host) if observed.route and observed.route.host else "",
        message=message,
        start_time=format_time(start) if start else "",
        ready_time=_ready_time(session, pod),
        expires_at=format_time(end) if end else "",
        template_revision=pod.metadata.annotations.get(TEMPLATE_REVISION, "") if pod else "",
        pod_name=pod.metadata.name if pod else "",
        node_name=pod.spec.node_name if pod else "",
        observed_generation=session.metadata.generation,
        conditions=tuple(_with_times(finding, session, now) for finding in findings),
    )


def _phase(observed: Observed, problem: Problem | None, answer: Explanation | None, now: datetime) -> str:
    session, pod = observed.session, observed.pod
    if session.metadata.deletion_timestamp or is_over(session, observed.template, pod, now):
        return Phase.TERMINATING
    if pod is None:
        return Phase.FAILED if problem and problem.needs_a_person else Phase.PENDING
    if pod.ready:
        return Phase.RUNNING if observed.route and observed.service else Phase.CREATING
    if pod.status.phase in ("Failed", "Succeeded") or _is_crash_looping(session, pod, answer):
        return Phase.FAILED
    return Phase.CREATING


def _is_crash_looping(session: VDISession, pod: Pod, answer: Explanation | None) -> bool:
    """Once failed, a short-lived next try does not turn it back to Creating: only Ready does."""
    desktop = pod.desktop
    if desktop is None or desktop.restart_count < _CRASHES_UNTIL_FAILED or answer is None:
        return False
    backing_off = desktop.state.waiting is not None and desktop.state.waiting.reason == "CrashLoopBackOff"
    return backing_off or (session.status.phase == Phase.FAILED and session.status.pod_name == pod.metadata.name)


def _message(observed: Observed, problem: Problem | None, answer: Explanation | None, phase: str, now: datetime) -> str:
    if phase == Phase.TERMINATING:
        return _farewell(observed, now)
    if problem:
        return problem.message
    if answer:
        return answer.sentence
    if observed.pod is None:
        return "The desktop is about to start."
    return _password_note(observed) if phase == Phase.RUNNING else "The desktop is ready; the way to it is being made."


def _farewell(observed: Observed, now: datetime) -> str:
    session, pod = observed.session, observed.pod
    if pod and is_over(session, observed.template, pod, now):
        keeps = pod.home_claim and (session.spec.persistence is None or session.spec.persistence.retain)
        files = " The files in the home volume are kept." if keeps else ""
        return f"The time of this session is over (spec.timeout: {session.spec.timeout}).{files}"
    if pod and pod.spec.node_name:
        return f"Waiting until node {pod.spec.node_name} has stopped the desktop."
    return "The session is being deleted."


def _password_note(observed: Observed) -> str:
    """A Secret that is younger than the container holds a password that the desktop has never seen."""
    desktop = observed.pod.desktop if observed.pod else None
    running = desktop.state.running if desktop else None
    if not running or not running.started_at or observed.secret is None:
        return ""
    made = observed.secret.metadata.creation_timestamp
    if not made or parse_time(made) <= parse_time(running.started_at):
        return ""
    return (
        "The Secret with the password was replaced after the desktop had started, which still has the old one: "
        f"delete the pod {observed.pod.metadata.name!r} to start it with the new one."  # type: ignore[union-attr]
    )


def _ready_time(session: VDISession, pod: Pod | None) -> str:
    """First readiness of this run; a later restart of the container does not move it."""
    if pod is None:
        return ""
    start = started_at(session, pod)
    known = session.status.ready_time
    if known and start and session.status.start_time == format_time(start):
        return known
    condition = pod.condition("Ready")
    return condition.last_transition_time if condition and pod.ready else ""


def _steps(observed: Observed, problem: Problem | None, answer: Explanation | None) -> list[_Finding]:
    steps = [
        _template_found(observed),
        _admitted(observed, problem),
        _home_bound(observed),
        _pod_ready(observed, answer),
    ]
    steps.append(_route_ready(observed))
    if problem:
        blamed = _Finding(problem.condition, False, problem.reason, problem.message)
        steps = [blamed if step.type == problem.condition else step for step in steps]
    return steps


def _template_found(observed: Observed) -> _Finding:
    template, pod = observed.template, observed.pod
    if template is None:
        name = observed.session.spec.template
        return _Finding(conditions.TEMPLATE_FOUND, False, Reason.TEMPLATE_NOT_FOUND, f"There is no template {name!r}.")
    used = pod.metadata.annotations.get(TEMPLATE_REVISION) if pod else None
    if used and used != str(template.metadata.generation):
        now_at = template.metadata.generation
        note = f"The template is at revision {now_at}, this desktop at {used}; the new one counts from the next start."
        return _Finding(conditions.TEMPLATE_FOUND, True, Reason.NEWER_REVISION, note)
    return _Finding(conditions.TEMPLATE_FOUND, True, Reason.FOUND)


def _admitted(observed: Observed, problem: Problem | None) -> _Finding:
    if observed.pod is None and problem:
        return _Finding(conditions.ADMITTED, False, problem.reason, problem.message)
    return _Finding(conditions.ADMITTED, True, Reason.ADMITTED)


def _home_bound(observed: Observed) -> _Finding:
    claim, pod = observed.home, observed.pod
    if claim is None and pod and pod.home_claim is None:
        return _Finding(conditions.HOME_BOUND, True, Reason.NO_HOME, "This desktop has no home volume.")
    if claim is None:
        return _Finding(conditions.HOME_BOUND, False, Reason.NOT_CREATED, "The home volume is not there yet.")
    if claim.status.phase == "Bound":
        return _Finding(conditions.HOME_BOUND, True, Reason.BOUND)
    if claim.status.phase == "Lost":
        return _Finding(conditions.HOME_BOUND, False, Reason.HOME_LOST, "The volume behind the home is gone.")
    return _Finding(conditions.HOME_BOUND, False, Reason.HOME_PENDING, "The home volume is being made.")


def _pod_ready(observed: Observed, answer: Explanation | None) -> _Finding:
    if observed.pod is None:
        return _Finding(conditions.POD_READY, False, Reason.NOT_CREATED, "There is no pod.")
    if answer:
        return _Finding(conditions.POD_READY, False, answer.code, answer.sentence)
    return _Finding(conditions.POD_READY, True, Reason.POD_READY)


def _route_ready(observed: Observed) -> _Finding:
    if observed.host_holder:
        note = f"The host belongs to the session {observed.host_holder!r}."
        return _Finding(conditions.ROUTE_READY, False, Reason.HOST_TAKEN, note)
    if observed.route is None or observed.service is None:
        return _Finding(conditions.ROUTE_READY, False, Reason.NOT_CREATED, "There is no route yet.")
    return _Finding(conditions.ROUTE_READY, True, Reason.ROUTED)


def _summary(observed: Observed, phase: str, message: str, now: datetime) -> _Finding:
    if phase == Phase.RUNNING:
        return _Finding(conditions.READY, True, Reason.RUNNING)
    if phase == Phase.TERMINATING:
        over = is_over(observed.session, observed.template, observed.pod, now)
        return _Finding(conditions.READY, False, Reason.TIMED_OUT if over else Reason.STOPPING, message)
    reason = {Phase.FAILED: Phase.FAILED, Phase.PENDING: Phase.PENDING}.get(phase, Reason.STARTING)
    return _Finding(conditions.READY, False, reason, message)


def _with_times(finding: _Finding, session: VDISession, now: datetime) -> Condition:
    status = "True" if finding.holds else "False"
    before = next((one for one in session.status.conditions if one.type == finding.type), None)
    moved = before is None or before.status != status or not before.last_transition_time
    return Condition(
        type=finding.type,
        status=status,
        reason=finding.reason,
        message=finding.message,
        last_transition_time=format_time(now) if moved or before is None else before.last_transition_time,
        observed_generation=session.metadata.generation,
    )
