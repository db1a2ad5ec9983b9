"""The start of a session as stages: a pure state machine, fed by `--wait` with the session as it changes.

operator -> template -> limits -> room -> home -> node -> container -> answers -> running -> url
    each is passed once, in whatever order the cluster reports it; what is reported together takes 0 s
"""

from collections.abc import Callable
from enum import Enum

import msgspec

from vdi.api.session import Phase, SessionStatus, VDISession
from vdi.cli.progress import PassedStage
from vdi.cli.session.view import condition, holds
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Pod
from vdi.session.conditions import ADMITTED, HOME_BOUND, POD_READY, TEMPLATE_FOUND, TEMPORARY_REASONS, Reason


class Outcome(Enum):
    """How a start can end."""

    RUNNING = "running"
    FAILED = "failed"
    GONE = "gone"


# The sentence for a stage that is reached, else None. The pod, where it can be read, is ahead of the status.
Stage = Callable[[VDISession, Pod | None], str | None]


def _taken_up(session: VDISession, pod: Pod | None) -> str | None:
    seen = pod or session.status.conditions or session.status.phase not in ("", Phase.PENDING)
    return "the operator is processing it" if seen else None


def _template(session: VDISession, pod: Pod | None) -> str | None:
    return f"template {session.spec.template} found" if pod or holds(session, TEMPLATE_FOUND) else None


def _limits(session: VDISession, pod: Pod | None) -> str | None:
    within = pod or session.status.queue or holds(session, ADMITTED)
    return "within the template's limits" if within else None


def _room(session: VDISession, pod: Pod | None) -> str | None:
    found = condition(session, ADMITTED)
    if found and found.status == "True" and found.reason == Reason.CLAIMED_FROM_POOL:
        return "a started desktop was taken from the pool"
    return "capacity on the cluster" if pod or holds(session, ADMITTED) else None


def _home(session: VDISession, pod: Pod | None) -> str | None:
    if pod and pod.spec.node_name:  # a pod gets a node only when its volumes are bound
        return "home volume bound" if pod.home_claim else "no home volume requested"
    found = condition(session, HOME_BOUND)
    if found is None or found.status != "True":
        return None
    return "no home volume requested" if found.reason == Reason.NO_HOME else "home volume bound"


def _node(session: VDISession, pod: Pod | None) -> str | None:
    node = (pod.spec.node_name if pod else "") or session.status.node_name
    return f"pod placed on node {node}" if node else None


def _container(session: VDISession, pod: Pod | None) -> str | None:
    runs = pod and pod.desktop and pod.desktop.state.running
    return "image pulled, container started" if runs or holds(session, POD_READY) else None


def _answers(session: VDISession, pod: Pod | None) -> str | None:
    return "desktop answers" if (pod and pod.ready) or holds(session, POD_READY) else None


def _running(session: VDISession, _: Pod | None) -> str | None:
    return "session Running" if session.status.phase == Phase.RUNNING else None


_STAGES: dict[str, Stage] = {
    "operator": _taken_up,
    "template": _template,
    "limits": _limits,
    "room": _room,
    "home": _home,
    "node": _node,
    "container": _container,
    "answers": _answers,
    "running": _running,
}

# Conditions which, when False, change only when someone edits an object, except for `TEMPORARY_REASONS`.
_FINAL_CONDITIONS = (TEMPLATE_FOUND, ADMITTED)


def _waits_for(session: VDISession, pod: Pod | None) -> str:
    """What is waited for now: the pod's own ordinary step, which is newer, else the operator's sentence."""

    if pod and not pod.ready:
        step = explain(StartState(pod))
        if not step.stuck or not session.status.message:
            return step.sentence
    return session.status.message


def _is_current(session: VDISession) -> bool:
    """Whether the status is current: a session that was just resumed still reports Suspended."""
    return session.status.observed_generation >= session.metadata.generation


def _belongs(pod: Pod, session: VDISession) -> bool:
    return session.metadata.uid in [owner.uid for owner in pod.metadata.owner_references]


class Start:
    """Follows one session from its creation until it runs or cannot. Times are seconds of any monotonic clock."""

    def __init__(self, now: float) -> None:
        self._begun = self._last = now
        self._seen: set[str] = set()
        self.passed: list[PassedStage] = []
        self.outcome: Outcome | None = None
        self.reason = ""
        """The sentence for the user: what is waited for now, or why the start ended."""

    def observe(self, session: VDISession | None, now: float, pod: Pod | None = None) -> list[PassedStage]:
        """Update with the current session (None: gone) and its pod, if it can be read. Returns the stages passed."""
        if self.outcome:
            return []
        if session is None or session.metadata.deletion_timestamp:
            self._end(Outcome.GONE, "the session was deleted while it started")
            return []
        if pod and (pod.metadata.deletion_timestamp or not _belongs(pod, session)):
            pod = None  # of an earlier run, or of another owner with this name
        if not _is_current(session):
            session = msgspec.structs.replace(session, status=SessionStatus())
        reached = [(key, stage(session, pod)) for key, stage in _STAGES.items() if key not in self._seen]
        new = [self._pass(key, text, now) for key, text in reached if text]
        self.reason = _waits_for(session, pod)
        if session.status.phase == Phase.RUNNING:
            self._end(Outcome.RUNNING, "")
        elif why := self._failure(session):
            self._end(Outcome.FAILED, why)
        return new

    def answered(self, text: str, now: float) -> PassedStage:
        """The last stage: the result of the check of the URL."""
        return self._pass("url", text, now)

    def total(self, now: float) -> float:
        """Seconds since the start."""
        return now - self._begun

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
            return session.status.message or "the session failed, and its status does not contain a reason"
        if (queue := session.status.queue) and not queue.position:
            return session.status.message or "no node can ever run it"
        for kind in _FINAL_CONDITIONS:
            found = condition(session, kind)
            if found and found.status == "False" and found.reason not in TEMPORARY_REASONS:
                return found.message or session.status.message or f"condition {kind} is False: {found.reason}"
        return None
