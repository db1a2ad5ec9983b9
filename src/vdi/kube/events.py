"""Events (events.k8s.io/v1): what `kubectl describe` shows. They never block or fail the work that they tell of."""

from typing import Literal

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.meta import ObjectReference
from vdi.kube.transport import Client


class EventRecorder:
    """Sends Events in the background; repetitions become one series; under load Events are dropped, and counted."""

    def __init__(self, client: Client, *, controller: str, instance: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self.dropped = 0

    def emit(
        self, regarding: ObjectReference, type: Literal["Normal", "Warning"], reason: str, note: str, action: str
    ) -> None:
        """Tell of something, now; returns at once."""
        raise NotImplementedError

    async def run(self) -> None:
        """Send until cancelled."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Return when everything emitted so far was sent or given up."""
        raise NotImplementedError
