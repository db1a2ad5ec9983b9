"""The start of a session as stages: a pure state machine, which `--wait` feeds with the session as
it changes.

operator -> template -> limits -> capacity -> home -> node -> container -> answers -> running -> url
    each is passed once, in whatever order the cluster reports it; what is reported together takes 0 s
"""

from collections.abc import Iterator
from enum import Enum

import msgspec

from vdi.api.session import Phase, SessionStatus, VDISession
from vdi.cli.progress import PassedStage
from vdi.cli.session.view import condition, condition_reason, holds
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Pod
from vdi.session.conditions import (
    ADMITTED,
    HOME_BOUND,
    POD_READY,
    TEMPLATE_FOUND,
    TEMPORARY_REASONS,
    Reason,
)

# When one of these is False, only the edit of an object changes it, except for `TEMPORARY_REASONS`.
_FINAL_CONDITIONS = (TEMPLATE_FOUND, ADMITTED)


class Outcome(Enum):
    """The end of a start."""

    RUNNING = "running"
    FAILED = "failed"
    GONE = "gone"


def _reached(session: VDISession, pod: Pod | None) -> Iterator[tuple[str, str]]:
    """Key and sentence of each stage that is reached. The pod, where it can be read, is ahead of
    the status.
    """
    status, is_admitted = session.status, holds(session, ADMITTED)
    if pod or status.conditions or status.phase not in ("", Phase.PENDING):
        yield "operator", "the operator is processing it"
    if pod or holds(session, TEMPLATE_FOUND):
        yield "template", f"template {session.spec.template} found"
    if pod or status.queue or is_admitted:
        yield "limits", "within the template's limits"
    if pod or is_admitted:
        is_pooled = condition_reason(session, ADMITTED) == Reason.CLAIMED_FROM_POOL
        taken = "a started desktop was taken from the pool"
        yield "capacity", taken if is_pooled else "capacity on the cluster"
    yield from _reached_on_node(session, pod)
    if status.phase == Phase.RUNNING:
        yield "running", "session Running"


def _reached_on_node(session: VDISession, pod: Pod | None) -> Iterator[tuple[str, str]]:
    """Stages from the home to a desktop that answers."""
    is_ready = holds(session, POD_READY)
    node = pod.spec.node_name if pod else ""
    # A pod gets a node only when its volumes are bound.
    if node or holds(session, HOME_BOUND):
        has_home = condition_reason(session, HOME_BOUND) != Reason.NO_HOME
        if pod and node:
            has_home = bool(pod.home_claim)
        yield "home", "home volume bound" if has_home else "no home volume requested"
    if node := node or session.status.node_name:
        yield "node", f"pod placed on node {node}"
    if (pod and pod.desktop and pod.desktop.state.running) or is_ready:
        yield "container", "image pulled, container started"
    if (pod and pod.ready) or is_ready:
        yield "answers", "desktop answers"


def _waits_for(session: VDISession, pod: Pod | None) -> str:
    """The sentence for the user: the pod's own ordinary step, which is newer, else the operator's
    message.
    """
    if pod and not pod.ready:
        step = explain(StartState(pod))
        if not step.stuck or not session.status.message:
            return step.sentence
    return session.status.message


class Start:
    """Follows one session from its creation until it runs or cannot. Times are seconds of any
    monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self.begun = self._last = now
        self._seen: set[str] = set()
        self.passed: list[PassedStage] = []
        self.outcome: Outcome | None = None
        self.reason = ""  # what is waited for now, or why the start ended

    def observe(
        self, session: VDISession | None, now: float, pod: Pod | None = None
    ) -> list[PassedStage]:
        """Update with the current session (None: gone) and its pod, if it can be read. Returns the
        new stages.
        """
        if self.outcome:
            return []
        if session is None or session.metadata.deletion_timestamp:
            self._end(Outcome.GONE, "the session was deleted while it started")
            return []
        # A pod that is going is of an earlier run, and one of another owner only has this session's
        # name.
        if pod and (
            pod.metadata.deletion_timestamp
            or session.metadata.uid not in [owner.uid for owner in pod.metadata.owner_references]
        ):
            pod = None
        # A session that was just resumed still has the status of its suspension.
        if session.status.observed_generation < session.metadata.generation:
            session = msgspec.structs.replace(session, status=SessionStatus())
        new = []
        for key, text in _reached(session, pod):
            if key not in self._seen:
                new.append(self._pass(key, text, now))
        self.reason = _waits_for(session, pod)
        if session.status.phase == Phase.RUNNING:
            self._end(Outcome.RUNNING, "")
        elif why := self._failure(session):
            self._end(Outcome.FAILED, why)
        return new

    def answered(self, text: str, now: float) -> PassedStage:
        """Pass the last stage with the result of the check of the URL."""
        return self._pass("url", text, now)

    def _pass(self, key: str, text: str, now: float) -> PassedStage:
        self._seen.add(key)
        stage = PassedStage(text, now - self._last)
        self._last = now
        self.passed.append(stage)
        return stage

    def _end(self, outcome: Outcome, reason: str) -> None:
        self.outcome, self.reason = outcome, reason

    @staticmethod
    def _failure(session: VDISession) -> str | None:
        if session.spec.suspended:
            return "it is suspended; resume it"
        if session.status.phase == Phase.FAILED:
            return (
                session.status.message
                or "the session failed, and its status does not contain a reason"
            )
        if (queue := session.status.queue) and not queue.position:
            return session.status.message or "no node can ever run it"
        for kind in _FINAL_CONDITIONS:
            one = condition(session, kind)
            if one and one.status == "False" and one.reason not in TEMPORARY_REASONS:
                return (
                    one.message
                    or session.status.message
                    or f"condition {kind} is False: {one.reason}"
                )
        return None
