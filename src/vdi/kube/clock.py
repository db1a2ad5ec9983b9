"""Time as a parameter: what waits or looks at a clock here is given one, so that tests need no real time."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What the runtime asks of time."""

    def now(self) -> datetime:
        """Wall time, in UTC."""

    def monotonic(self) -> float:
        """Seconds since some fixed point, never going back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; at once when not positive."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Wall time, in UTC."""

        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`, with negative times taken as zero."""
        await asyncio.sleep(max(0.0, seconds))


SYSTEM_CLOCK = SystemClock()
