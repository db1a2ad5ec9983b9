"""Clocks of tests: one that stands still until the test moves it, and the real one put forward."""

import asyncio
import heapq
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vdi.kube.clock import SystemClock


class FakeClock:
    """Stands still until the test moves it. A test may also set wall time and monotonic time on
    their own.
    """

    def __init__(self, start: datetime = datetime(2026, 11, 20, 12, tzinfo=UTC)) -> None:
        self.wall = start
        # What `monotonic` answers.
        self.seconds = 1000.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def forward(self, **length: float) -> None:
        """Put both times forward; this wakes no sleeper."""
        span = timedelta(**length)
        self.wall += span
        self.seconds += span.total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.seconds + seconds, len(self.slept), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move on, waking every sleeper at its own moment, and let the woken ones run."""
        await settle()
        end = self.seconds + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self.forward(seconds=due - self.seconds)
            self.seconds = due  # without the rounding of the step
            future.set_result(None)
            await settle()
        self.forward(seconds=end - self.seconds)
        await settle()


class EagerClock(FakeClock):
    """Sleeping takes no time but moves the clock: for retries."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.forward(seconds=max(0.0, seconds))
        await asyncio.sleep(0)


class ShiftedClock(SystemClock):
    """The real clock, but wall time can be put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


async def settle() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def replace_sleep(
    monkeypatch: pytest.MonkeyPatch, sleep: Callable[[float], Awaitable[Any]]
) -> None:
    """Replace `asyncio.sleep` for the loop of this thread: servers of other tests have their own
    threads, and go on.
    """
    real, here = asyncio.sleep, threading.get_ident()

    async def sleep_here(seconds: float, result: Any = None) -> Any:
        if threading.get_ident() != here:
            return await real(seconds, result)
        return await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep_here)
