"""What holds for a session, condition by condition, in the order in which a start passes them. Pure."""

from datetime import datetime
from typing import NamedTuple

from vdi.api.meta import Condition
from vdi.api.session import VDISession
from vdi.session import conditions
from vdi.session.conditions import QUEUE_REASONS, Reason
from vdi.session.decide import Observed
from vdi.session.effective import Blocked
from vdi.session.explain import Explanation
from vdi.session.identity import POOL
from vdi.session.observed import TEMPLATE_REVISION
from vdi.session.times import format_time, parse_time


class ConditionState(NamedTuple):
    """Status of one condition before it gets its times."""

    type: str
    holds: bool
    reason: str
    message: str = ""
    begins: datetime | None = None
    """A condition that has held since before this begins again now."""


def derive_conditions(
    observed: Observed, blocked: Blocked | None, explanation: Explanation | None
) -> list[ConditionState]:
    """All conditions but Ready. `explanation` is why the pod is not ready."""
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
            conditions.TEMPLATE_FOUND, False, Reason.TEMPLATE_NOT_FOUND, f"There is no template {name!r}."
        )
    used = pod.metadata.annotations.get(TEMPLATE_REVISION) if pod else None
    if used and used != str(template.metadata.generation):
        now_at = template.metadata.generation
        note = (
            f"The template is at revision {now_at}, this desktop at {used}; the new revision applies from the next "
            "start."
        )
        return ConditionState(conditions.TEMPLATE_FOUND, True, Reason.NEWER_REVISION, note)
    return ConditionState(conditions.TEMPLATE_FOUND, True, Reason.FOUND)


def _admitted(observed: Observed, blocked: Blocked | None) -> ConditionState:
    pod = observed.pod
    if pod is None and blocked and not keeps_its_run(blocked):
        return ConditionState(conditions.ADMITTED, False, blocked.reason, blocked.message)
    from_pool = pod is not None and POOL in pod.metadata.labels
    return ConditionState(conditions.ADMITTED, True, Reason.CLAIMED_FROM_POOL if from_pool else Reason.ADMITTED)


def keeps_its_run(blocked: Blocked) -> bool:
    """Whether a session without a pod still is in its run: its desktop is only about to be made, or made again."""
    let_in = blocked.condition not in (conditions.ADMITTED, conditions.TEMPLATE_FOUND)
    return let_in and not blocked.needs_change


def _home_bound(observed: Observed) -> ConditionState:
    claim, pod = observed.home, observed.pod
    if claim is None and pod and pod.home_claim is None:
        return ConditionState(conditions.HOME_BOUND, True, Reason.NO_HOME)
    if claim is None:
        return ConditionState(conditions.HOME_BOUND, False, Reason.NOT_CREATED, "The home volume does not exist yet.")
    if claim.status.phase == "Bound":
        return ConditionState(conditions.HOME_BOUND, True, Reason.BOUND)
    if claim.status.phase == "Lost":
        return ConditionState(
            conditions.HOME_BOUND, False, Reason.HOME_LOST, "The volume of the home no longer exists."
        )
    return ConditionState(conditions.HOME_BOUND, False, Reason.HOME_PENDING, "The home volume is being created.")


def _pod_ready(observed: Observed, explanation: Explanation | None) -> ConditionState:
    if observed.pod is None:
        return ConditionState(conditions.POD_READY, False, Reason.NOT_CREATED, "There is no pod.")
    if explanation:
        return ConditionState(conditions.POD_READY, False, explanation.reason, explanation.sentence)
    return ConditionState(conditions.POD_READY, True, Reason.POD_READY)


def _route_ready(observed: Observed) -> ConditionState:
    if observed.session.metadata.deletion_timestamp:
        # Known before the route is seen to be gone: in a crowd that would be a second write for each session.
        return ConditionState(conditions.ROUTE_READY, False, Reason.STOPPING, "The route is being deleted.")
    if blocked := observed.host_blocked:
        return ConditionState(conditions.ROUTE_READY, False, blocked.reason, blocked.message)
    if observed.route is None or observed.service is None:
        return ConditionState(conditions.ROUTE_READY, False, Reason.NOT_CREATED, "There is no route yet.")
    return ConditionState(conditions.ROUTE_READY, True, Reason.ROUTED)


def with_times(finding: ConditionState, session: VDISession, now: datetime) -> Condition:
    """The condition; its time moves when its status flips, and when it begins again.

    That of Admitted moves also when the session enters the queue: it says since when it stands there, also to an
    operator that has just been started.
    """
    status = "True" if finding.holds else "False"
    before = next((condition for condition in session.status.conditions if condition.type == finding.type), None)
    moved = (
        before is None
        or before.status != status
        or not before.last_transition_time
        or (finding.begins is not None and parse_time(before.last_transition_time) < finding.begins)
    )
    queues = finding.reason in QUEUE_REASONS and before is not None and before.reason not in QUEUE_REASONS
    return Condition(
        type=finding.type,
        status=status,
        reason=finding.reason,
        message=finding.message,
        last_transition_time=format_time(now) if moved or queues or before is None else before.last_transition_time,
    )
