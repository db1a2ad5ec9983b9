"""Writes a session's status when it says something new, and not more often than a person can read."""

from typing import Any

import msgspec

from vdi.api.session import SessionStatus, VDISession
from vdi.kube.clock import Clock
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.operator.kinds import SESSIONS
from vdi.session.conditions import ADMITTED, READY, TEMPLATE_FOUND

PROGRESS_PAUSE = 3.0
"""Seconds between two notes on progress. A start that is quicker writes two statuses: it began, it runs."""


class StatusWriter:
    """The only writer of `status`."""

    def __init__(self, client: Client, sessions: Store[VDISession], clock: Clock) -> None:
        self._client = client
        self._sessions = sessions
        self._clock = clock
        # By uid: when we last wrote. Lives as long as the session; after a restart the next note comes at once.
        self._written: dict[str, float] = {}

    async def write(self, session: VDISession, wanted: SessionStatus) -> tuple[VDISession, float | None]:
        """Patch what has changed, if anything; gives the session as it is now, and the seconds until a note is due."""
        if wanted == session.status:
            return session, None
        wait = self._written.get(session.metadata.uid, float("-inf")) + PROGRESS_PAUSE - self._clock.monotonic()
        if wait > 0 and not _is_news(session.status, wanted):
            return session, wait
        meta = session.metadata
        patch = {"metadata": {"uid": meta.uid}, "status": difference(session.status, wanted)}
        patched = await self._client.patch(
            SESSIONS, meta.name, patch, namespace=meta.namespace, subresource="status", into=VDISession
        )
        self._written[meta.uid] = self._clock.monotonic()
        self._sessions.remember(patched)
        return patched, None

    def forget(self, uid: str) -> None:
        """The session is gone."""
        self._written.pop(uid, None)


def _is_news(before: SessionStatus, now: SessionStatus) -> bool:
    """What people and programs wait for is written at once; the rest is a note on progress."""
    return before.phase != now.phase or any(
        _holds(before, kind) != _holds(now, kind) for kind in (READY, ADMITTED, TEMPLATE_FOUND)
    )


def _holds(status: SessionStatus, kind: str) -> str | None:
    return next((one.status for one in status.conditions if one.type == kind), None)


def difference(before: SessionStatus, now: SessionStatus) -> dict[str, Any]:
    """A merge patch from one status to another: fields that have become empty are removed."""
    old, new = msgspec.to_builtins(before), msgspec.to_builtins(now)
    changed = {name: value for name, value in new.items() if old.get(name) != value}
    return changed | {name: None for name in old if name not in new}
