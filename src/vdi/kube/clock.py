"""Time as a parameter: code that waits or reads a clock gets a `Clock`, so that tests need no real
time.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, monotonic time and sleep."""

    def now(self) -> datetime:
        """Wall time, in UTC. It may jump either way; use `monotonic` for durations."""

    def monotonic(self) -> float:
        """Seconds since some fixed point, never going back."""

    async def sleep(self, seconds: float) -> None:
        """Return after that many seconds; at once when not positive."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


SYSTEM_CLOCK = SystemClock()
