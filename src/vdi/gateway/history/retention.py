"""What is done to the database now and then: close what was lost sight of, drop what is too old, in small batches."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from vdi.gateway.history.recorder import Recorder
from vdi.gateway.store.audit import drop_audit
from vdi.gateway.store.base import Database, DatabaseUnavailableError
from vdi.gateway.store.history import drop_ended
from vdi.kube.errors import KubeError

log = logging.getLogger(__name__)

PAUSE = 3600.0
"""Seconds between two rounds."""
SOON = 30.0
"""Seconds until the next try after one that failed."""
BATCH = 500
"""Rows that one transaction deletes: others want to write, too."""
_BREATH = 0.05
"""Seconds between two batches."""


class Retention:
    """`run` beside the recorder. Replicas may do it at once: what the one has dropped is not there for the other."""

    def __init__(self, *, database: Database, recorder: Recorder, days: int, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._recorder = recorder
        self._kept = timedelta(days=days)
        self._clock = clock

    async def run(self) -> None:
        """One round at once, then one an hour, until cancelled."""
        while True:
            done = [await self._try("closing records of deleted sessions", self._recorder.close_lost)]
            done.append(await self._try("deleting old records", self.drop_old))
            await asyncio.sleep(PAUSE if all(done) else SOON)

    async def _try(self, what: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Whether it went well; one must not keep the other from its turn."""
        try:
            await work()
        except (DatabaseUnavailableError, KubeError, SQLAlchemyError) as error:
            words = str(error) if not isinstance(error, SQLAlchemyError) else type(error).__name__
            log.warning("history: %s is put off for %.0f s: %s", what, SOON, words)
            return False
        return True

    async def drop_old(self) -> tuple[int, int]:
        """Delete what is older than is kept; gives how many sessions and how many rows of the audit.

        Raises DatabaseUnavailableError.
        """
        before = self._clock() - self._kept
        gone = await self._in_batches(before, drop_ended), await self._in_batches(before, drop_audit)
        if any(gone):
            log.info("dropped %d sessions and %d rows of the audit from before %s", *gone, before.date())
        return gone

    async def _in_batches(
        self, before: datetime, drop: Callable[[AsyncConnection, datetime, int], Awaitable[int]]
    ) -> int:
        total = 0
        while True:
            async with self._database.begin() as connection:
                dropped = await drop(connection, before, BATCH)
            total += dropped
            if dropped < BATCH:
                return total
            await asyncio.sleep(_BREATH)
