"""Outcome of the last write to a server, for health: a full or read-only server still responds to
every read.

Database and shared state record the writes of requests here. Health writes only where there was no
recent one.
"""

import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

# Seconds for which a write is the proof of what the server does with the next one.
RECENT_SECONDS = 5.0


class LastWrite:
    """Used only from the event loop's thread. `unavailable`: the error of a server that cannot work
    now.
    """

    def __init__(
        self, unavailable: type[Exception], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._unavailable = unavailable
        self._now = monotonic
        self._at = -math.inf
        # Message of the error; empty: it worked.
        self._failure = ""

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the outcome of the write inside. Other errors, and a cancellation, prove
        nothing.
        """
        try:
            yield
        except self._unavailable as error:
            self._at, self._failure = self._now(), str(error)
            raise
        self._at, self._failure = self._now(), ""

    async def check(self, write: Callable[[], Awaitable[None]]) -> None:
        """Raise the error of the last write of a request; without a recent one, `write` decides."""
        if self._now() - self._at <= RECENT_SECONDS:
            if self._failure:
                raise self._unavailable(self._failure)
            return
        try:
            await write()
        except self._unavailable:
            # The next check writes again, and so notices at once that the server is back.
            self._at = -math.inf
            raise
