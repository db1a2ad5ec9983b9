"""What the session's controller asks of its dependencies: room, ready-made desktops, and the agents in the desktops."""

from dataclasses import dataclass
from typing import Protocol

from vdi.api.session import QueueStatus, VDISession
from vdi.session.activity import Activity
from vdi.session.decide import Observed
from vdi.session.effective import Blocked, Desktop
from vdi.session.notices import Notice
from vdi.session.observed import PersistentVolumeClaim, Pod


@dataclass(frozen=True, slots=True)
class Waiting:
    """There is no room now."""

    blocked: Blocked
    """Why, with a reason of `conditions.QUEUE_REASONS`; makes Admitted False."""
    queue: QueueStatus


class CapacityQueue(Protocol):
    """Who may have room on which node."""

    def request(self, session: VDISession, desktop: Desktop, home: PersistentVolumeClaim | None) -> Waiting | None:
        """None: start; capacity is reserved until the pod is in the caches, or `withdraw`. Else wait to be enqueued."""

    def withdraw(self, uid: str) -> None:
        """The session wants no room any more, or not now: out of the queue, its room is free."""

    def forget(self, uid: str) -> None:
        """The session is gone: the same, and nothing is remembered of it."""


class Pools(Protocol):
    """Desktops that run already and wait for somebody."""

    async def claim(self, observed: Observed, desktop: Desktop) -> Pod | None:
        """Make one of them this session's; None when no desktop fits. The pod carries `run_annotations`.

        Raises KubeError when it is not known whether it has worked: the caller tries again later.
        """


class EndReports(Protocol):
    """Tells the gateway of sessions that end, for its history."""

    def seconds_to_wait(self, session: VDISession) -> float | None:
        """How long this session has to wait for its report at most, after which it is woken; None: it may go."""


class Desktops(Protocol):
    """The agents in the desktops."""

    def report(self, uid: str) -> Activity | None:
        """What the agent of this session's desktop said last; None when it could not be asked."""

    def notify(self, session: VDISession, pod: Pod, notice: Notice) -> None:
        """Show a notice in the desktop, once; one without text withdraws it. Returns at once."""
