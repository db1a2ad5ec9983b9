"""The start of a session as stages: a pure state machine, fed by `create --wait` with the session as it changes.

operator -> template -> limits -> home -> node -> started -> running -> url
    each is passed once, in whatever order the cluster reports it; what is reported together takes 0 s
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from vdi.api.meta import Condition
from vdi.api.session import VDISession
from vdi.session.conditions import ADMITTED, HOME_BOUND, POD_READY, TEMPLATE_FOUND, Phase, Reason


class Outcome(Enum):
    """How a start can end."""

    RUNNING = "running"
    FAILED = "failed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Passed:
    """A stage that is over: what was reached, and the seconds since the stage before it (or since the start)."""

    text: str
    seconds: float


def condition(session: VDISession, kind: str) -> Condition | None:
    """The session's condition of this type, None while the operator has not written it."""
    return next((each for each in session.status.conditions if each.type == kind), None)


def _is_true(session: VDISession, kind: str) -> bool:
    found = condition(session, kind)
    return found is not None and found.status == "True"


def _home(session: VDISession) -> str | None:
    found = condition(session, HOME_BOUND)
    if found is None or found.status != "True":
        return None
    return found.message.rstrip(".") or "home volume bound"


_STAGES: dict[str, Callable[[VDISession], str | None]] = {
    "operator": lambda s: "the operator has taken it up" if s.status.conditions or s.status.phase else None,
    "template": lambda s: f"template {s.spec.template} found" if _is_true(s, TEMPLATE_FOUND) else None,
    "limits": lambda s: "within the template's limits" if _is_true(s, ADMITTED) else None,
    "home": _home,
    "node": lambda s: f"pod placed on node {s.status.node_name}" if s.status.node_name else None,
    "started": lambda s: "desktop started" if _is_true(s, POD_READY) else None,
    "running": lambda s: "session Running" if s.status.phase == Phase.RUNNING else None,
}

_HOPELESS = (TEMPLATE_FOUND, ADMITTED)
"""Conditions which, when False, only somebody's edit can change: waiting for them in front of a terminal is no use."""

_WORTH_WAITING = (Reason.HOME_IN_USE, Reason.QUOTA_EXCEEDED)
"""Except for these reasons: they end when another session does."""


class Start:
    """Follows one session from its creation until it runs or cannot. Times are seconds of any monotonic clock."""

    def __init__(self, now: float) -> None:
        self._begun = self._last = now
        self._seen: set[str] = set()
        self.passed: list[Passed] = []
        self.outcome: Outcome | None = None
        self.reason = ""
        """The sentence for the person: what is waited for now, or why it ended."""

    def observe(self, session: VDISession | None, now: float) -> list[Passed]:
        """Take the session as it is now (None: it is gone); return the stages that were passed with it."""
        if self.outcome:
            return []
        if session is None or session.metadata.deletion_timestamp:
            self._end(Outcome.GONE, "the session was deleted while it started")
            return []
        new = [
            self._pass(key, text, now)
            for key, reached in _STAGES.items()
            if (text := self._fresh(key, reached, session))
        ]
        self.reason = session.status.message
        if session.status.phase == Phase.RUNNING:
            self._end(Outcome.RUNNING, "")
        elif why := self._hopeless(session):
            self._end(Outcome.FAILED, why)
        return new

    def answered(self, text: str, now: float) -> Passed:
        """The last stage: the URL was asked, with this result."""
        return self._pass("url", text, now)

    def total(self, now: float) -> float:
        """Seconds since the start."""
        return now - self._begun

    def _fresh(self, key: str, reached: Callable[[VDISession], str | None], session: VDISession) -> str | None:
        return None if key in self._seen else reached(session)

    def _pass(self, key: str, text: str, now: float) -> Passed:
        self._seen.add(key)
        stage = Passed(text, now - self._last)
        self._last = now
        self.passed.append(stage)
        return stage

    def _end(self, outcome: Outcome, reason: str) -> None:
        self.outcome, self.reason = outcome, reason

    @staticmethod
    def _hopeless(session: VDISession) -> str | None:
        if session.status.phase == Phase.FAILED:
            return session.status.message or "the session failed, and its status does not say why"
        for kind in _HOPELESS:
            found = condition(session, kind)
            if found and found.status == "False" and found.reason not in _WORTH_WAITING:
                return found.message or session.status.message or f"condition {kind} is False: {found.reason}"
        return None
