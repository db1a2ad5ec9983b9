"""Transfers in the audit: clipboard, files, prints and connections, as the agents in the desktops report them.

Selkies reports to the agent beside it, which keeps the last 2,048 events under consecutive numbers. This module reads
them with the session's own credential, so a desktop needs no way out. A request waits in the agent for the next event.
Only desktops with a connection are followed, from its WebSocket handshake at this replica on; a sweep finds those of a
replica that has ended. Two replicas may read the same events: the database keeps each once.

A report is untrusted input: bounded, typed, printable, and at most EVENTS_PER_SECOND of one desktop on average. Whose
desktop it is comes from the session whose agent was asked.
"""

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from vdi.api.session import FULL_CONTROL, VDISession
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop_agent import DesktopAgent, is_running
from vdi.gateway.edge.revocation import ActiveGrants
from vdi.gateway.settings import TransferAudit
from vdi.gateway.store.audit import Act, Audit, event_act, show_name
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.http_client import BadResponseError
from vdi.printable import escape
from vdi.session.streaming import takes_tokens

log = logging.getLogger(__name__)

# How long a request waits in the agent for an event.
WAIT_SECONDS = 20.0
# Between two requests to one desktop: events in between are one transaction.
PAUSE_SECONDS = 1.0
EVENTS_PER_SECOND = 5
MAX_BYTES = 1 << 20
# Pauses after a failure; after the last one the next handshake or sweep tries again.
RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 30.0)
# In so many seconds each desktop that somebody has opened is looked at once.
SWEEP_SECONDS = 300.0
# Actions of the audit by the names of Selkies' events (`selkies/audit.py`, 2.1.0). Others are no transfers.
ACTIONS = {
    "clipboard.receive": "clipboard.receive",
    "clipboard.send": "clipboard.send",
    "file.upload.end": "files.upload",
    "file.upload.error": "files.upload-error",
    "file.download": "files.download",
    "print.document": "print.document",
    "session.connect": "viewer.connect",
    "session.disconnect": "viewer.disconnect",
    "log.begin": "transfers.begin",
    "audit.dropped": "transfers.dropped",
}
_Text = Annotated[str, msgspec.Meta(max_length=512)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Event(msgspec.Struct):
    """One event in an agent's report. `age`: seconds since it happened."""

    number: Annotated[int, msgspec.Meta(ge=1, le=1 << 53)]
    age: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    event: _Text
    filename: _Text = ""
    mime_type: _Text = ""
    error: _Text = ""
    role: _Text = ""
    size_bytes: _Number | None = None
    count: _Number | None = None


class Report(msgspec.Struct):
    """An agent's response: events in ascending order, and the number of pages that are connected."""

    log: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$", max_length=16)]
    connected: _Number
    events: Annotated[tuple[Event, ...], msgspec.Meta(max_length=100)]


def describe(event: Event, mode: TransferAudit) -> dict[str, str]:
    """The details of an event for the audit."""
    detail = {
        "path": show_name(event.filename, mode) if event.filename else "",
        "bytes": "" if event.size_bytes is None else str(event.size_bytes),
        "type": escape(event.mime_type)[:100],
        # The message of a refused upload names the file, too.
        "error": escape(event.error)[:200] if mode is not TransferAudit.HASHED else "",
        "role": escape(event.role)[:20],
        "count": "" if event.count is None else str(event.count),
    }
    return {name: text for name, text in detail.items() if text}


def with_gaps(events: tuple[Event, ...], after: int) -> Iterator[Event]:
    """The events after this number, and one for each gap: the agent had to drop what was not read in time."""
    for event in events:
        if event.number <= after:
            continue
        if event.number > after + 1:
            yield Event(event.number - 1, event.age, "audit.dropped", count=event.number - 1 - after)
        yield event
        after = event.number


@dataclass(eq=False, kw_only=True)
class TransferCollector(Component):
    """Reads events of desktops in use into the audit. `pause`: seconds, for tests."""

    context: GatewayContext
    agent: DesktopAgent
    active: ActiveGrants
    audit: Audit
    pause: float = PAUSE_SECONDS
    # While `run` does.
    _group: asyncio.TaskGroup | None = field(default=None, init=False)
    # Uids of sessions that are followed, and of those with a handshake since the last request.
    _followed: set[str] = field(default_factory=set, init=False)
    _wanted: set[str] = field(default_factory=set, init=False)

    def follow(self, session: VDISession, wait: float = WAIT_SECONDS) -> None:
        """Read this desktop's events while someone is connected, who may need `wait` seconds to be."""
        uid, template = session.metadata.uid, self.context.cluster.template(session.spec.template)
        if self._group is None or (template and not takes_tokens(template.spec)):
            return
        if wait:
            self._wanted.add(uid)
        if uid not in self._followed:
            self._followed.add(uid)
            self._group.create_task(self._follow(uid, wait), name=f"transfers of {uid}")

    async def run(self) -> None:
        """Sweep the desktops that somebody has opened, until cancelled."""
        if self.context.settings.transfer_audit is TransferAudit.NONE:
            return
        async with asyncio.TaskGroup() as self._group:
            while True:
                uids = {grant.session_uid for grant in self.active.find()}
                for uid in uids:
                    if (session := self.context.cluster.by_uid(uid)) and is_running(session):
                        self.follow(session, wait=0)
                    await asyncio.sleep(SWEEP_SECONDS / len(uids))
                if not uids:
                    await asyncio.sleep(WAIT_SECONDS)

    async def _follow(self, uid: str, wait: float) -> None:
        read, retries = ("", 0), iter(RETRY_SECONDS)
        try:
            while (session := self.context.cluster.by_uid(uid)) and is_running(session):
                self._wanted.discard(uid)
                try:
                    report = await self._ask(session, read, wait)
                    read, count = await self._write(session, report, read)
                except (ActionDenied, BadResponseError, DatabaseUnavailableError, SQLAlchemyError) as error:
                    if (seconds := next(retries, None)) is None:
                        why = type(error).__name__ if isinstance(error, SQLAlchemyError) else error
                        log.warning("transfers of session %s cannot be read: %s", session.metadata.name, why)
                        return
                    await asyncio.sleep(seconds)
                    continue
                if not (count or report.connected or uid in self._wanted):
                    return
                wait, retries = WAIT_SECONDS, iter(RETRY_SECONDS)
                await asyncio.sleep(max(self.pause, count / EVENTS_PER_SECOND))
        finally:
            self._wanted.discard(uid)
            self._followed.discard(uid)

    async def _ask(self, session: VDISession, read: tuple[str, int], wait: float) -> Report:
        """Raises ActionDenied, BadResponseError."""
        query = urlencode({"log": read[0], "after": read[1], "wait": wait})
        answer = await self.agent.ask(
            session, "GET", f"/transfers?{query}", seconds=WAIT_SECONDS + 5, max_bytes=MAX_BYTES
        )
        if answer.status != HTTPStatus.OK:
            raise ActionDenied("Unavailable", f"its agent responds with {answer.status}")
        return answer.json(Report)

    async def _write(self, session: VDISession, report: Report, read: tuple[str, int]) -> tuple[tuple[str, int], int]:
        """Write what is new; returns the place in the log, and how many events there were.

        Raises DatabaseUnavailableError.
        """
        after = read[1] if read[0] == report.log else await self.audit.last_event(report.log)
        mode, now = self.context.settings.transfer_audit, self.context.clock()
        found = {event_act(report.log, event.number): event for event in with_gaps(report.events, after)}
        acts = {
            key: (self._act(session, event, mode), now - timedelta(seconds=event.age))
            for key, event in found.items()
            if event.event in ACTIONS
        }
        for key in await self.audit.add_events(acts) if acts else ():
            kind, event = acts[key][0].action, found[key]
            self.context.metrics.transfers.labels(kind).inc()
            self.context.metrics.transfer_bytes.labels(kind).inc(event.size_bytes or 0)
        return (report.log, max([after, *(event.number for event in found.values())])), len(found)

    def _act(self, session: VDISession, event: Event, mode: TransferAudit) -> Act:
        meta, owner = session.metadata, session.spec.user
        # Selkies names no one. A transfer takes full control; of several who have it, one did it.
        controls = event.role != "viewer"
        users = sorted({g.user for g in self.active.find(session_uid=meta.uid) if (g.role in FULL_CONTROL) == controls})
        action, detail = ACTIONS[event.event], describe(event, mode)
        if len(users) > 1:
            detail["users"] = ", ".join(users)
        is_of_desktop = action.startswith("transfers.")
        actor = "" if len(users) != 1 or is_of_desktop else users[0]
        return Act(actor=actor, action=action, target=meta.name, uid=meta.uid, owner=owner, detail=detail)
