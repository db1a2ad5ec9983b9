"""Kills for want of memory in the audit: what the operator's condition `OutOfMemory` says of a
session, once each.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from sqlalchemy.exc import SQLAlchemyError

from vdi.api.meta import find_condition
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.store.audit import OUT_OF_MEMORY_ACT, Act, Audit, act_on
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.session.conditions import OUT_OF_MEMORY

log = logging.getLogger(__name__)

# The condition stays for an hour, so a database that is down for less loses none.
ROUND_SECONDS = 10.0


@dataclass(eq=False, kw_only=True)
class MemoryKills(Component):
    """Writes each kill that a session says. Replicas write the same: the database keeps each
    once.
    """

    context: GatewayContext
    audit: Audit
    # Acts of sessions that say so now, and that are written.
    _written: set[str] = field(default_factory=set, init=False)

    async def run(self) -> None:
        while True:
            try:
                await self.record()
            except (DatabaseUnavailableError, SQLAlchemyError) as error:
                log.warning(
                    "kills for want of memory are not in the audit yet: %s", type(error).__name__
                )
            await asyncio.sleep(ROUND_SECONDS)

    async def record(self) -> None:
        """Write what is new. Raises DatabaseUnavailableError."""
        shown: dict[str, tuple[Act, datetime]] = {}
        for session in self.context.cluster.sessions.values():
            if condition := find_condition(session.status.conditions, OUT_OF_MEMORY):
                detail = {"reason": condition.reason, "message": condition.message}
                act = act_on(session, "vdi-operator", OUT_OF_MEMORY_ACT, detail)
                # The message has the time of the kill.
                key = sha256(f"{session.metadata.uid} {condition.message}".encode()).hexdigest()[
                    :32
                ]
                shown[key] = act, self.context.clock()
        new = {key: shown[key] for key in shown.keys() - self._written}
        if new:
            await self.audit.add_events(new)
        self._written = set(shown)
