"""The work queue and the loop around `reconcile`: keys in, one of four outcomes out."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass

from vdi.kube.clock import SYSTEM_CLOCK, Clock

Key = Hashable


@dataclass(frozen=True, slots=True)
class Result:
    """What a reconcile wants next: nothing, or to be called again after `requeue_after` seconds."""

    requeue_after: float | None = None


class TerminalError(Exception):
    """Raised by a reconcile when trying again cannot help until something changes."""


class WorkQueue:
    """Keys that need work: each at most once in the queue, and never worked on twice at the same time."""


class Controller:
    """Workers that take keys from a queue and reconcile them."""

    def __init__(
        self,
        name: str,
        reconcile: Callable[[Key], Awaitable[Result]],
        *,
        workers: int = 4,
        clock: Clock = SYSTEM_CLOCK,
        on_outcome: Callable[[str, float], None] | None = None,
    ) -> None:
        self.name = name
        self.outcomes: dict[str, int] = dict.fromkeys(("done", "requeue_after", "retry", "terminal"), 0)

    def enqueue(self, key: Key) -> None:
        """This key needs work."""
        raise NotImplementedError

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """This key needs work then; the earliest of several times counts."""
        raise NotImplementedError

    async def run(self) -> None:
        """Work until `stop` (the reconciles under way are finished first) or until cancelled (they are cancelled too)."""
        raise NotImplementedError

    def stop(self) -> None:
        """Take no further key; `run` returns when the reconciles under way have ended."""
        raise NotImplementedError
