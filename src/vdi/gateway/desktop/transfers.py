"""Transfers in the audit: clipboard, files, prints and connections, as the agents in the desktops
report them.

Selkies reports to the agent beside it, which keeps up to 2,048 events until they are written here.
This module reads them with the session's own credential, so a desktop needs no way out. A request
waits in the agent for the next event. Replicas read the same events: the database keeps each once.

A report is untrusted input: bounded, typed, printable, and at most EVENTS_PER_SECOND of one desktop
on average. Whose desktop it is comes from the session whose agent was asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated

import msgspec

from vdi.api.session import FULL_CONTROL, VDISession
from vdi.cluster.units import format_time
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.active_grants import ActiveGrants
from vdi.gateway.desktop.agent import DesktopAgent, poll_agents
from vdi.gateway.store.audit import Act, Audit, act_on, event_act, show_name
from vdi.printable import escape
from vdi.session.status import is_running
from vdi.session.template_image import takes_tokens

# A request waits in the agent for 20 s. Between two of them events become one transaction.
ANSWER_SECONDS, PAUSE_SECONDS = 25.0, 1.0
EVENTS_PER_SECOND = 5
# A desktop whose agent does not respond for so long may be hiding transfers; a row says so every so
# many seconds.
SILENT_AFTER, SILENT_SECONDS = timedelta(minutes=1), 3600.0
MAX_BYTES = 1 << 20
# Actions of the audit by the names of Selkies' events (`selkies/audit.py`, 2.1.0). Others are no
# transfers.
ACTIONS = {kind: kind for kind in ("clipboard.receive", "clipboard.send", "print.document")} | {
    "file.upload.end": "files.upload",
    "file.upload.error": "files.upload-error",
    "file.download": "files.download",
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
    # How long those took that are lost.
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class Report(msgspec.Struct):
    """An agent's response: events in ascending order."""

    log: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$", max_length=16)]
    events: Annotated[tuple[Event, ...], msgspec.Meta(max_length=100)]


def describe(event: Event, *, is_hashed: bool) -> dict[str, str]:
    """The details of an event for the audit. `is_hashed`: names of files."""
    detail = {
        "path": show_name(event.filename, is_hashed=is_hashed) if event.filename else "",
        "bytes": "" if event.size_bytes is None else str(event.size_bytes),
        "type": escape(event.mime_type)[:100],
        # The message of a refused upload names the file, too.
        "error": escape(event.error)[:200] if not is_hashed else "",
        "role": escape(event.role)[:20],
        "count": "" if event.count is None else str(event.count),
    }
    return {name: text for name, text in detail.items() if text}


@dataclass(eq=False, kw_only=True)
class TransferCollector(Component):
    """Reads events of the desktops that somebody has opened into the audit. `pause`: seconds, for
    tests.
    """

    context: GatewayContext
    agent: DesktopAgent
    active: ActiveGrants
    audit: Audit
    pause: float = PAUSE_SECONDS
    # By session uid, while it is read: log and number of the last event that is written, and when
    # it was read last.
    _written: dict[str, tuple[str, int]] = field(default_factory=dict, init=False)
    _read: dict[str, datetime] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        await poll_agents("transfers", self._opened, self.read, self.pause)

    def _opened(self) -> Iterator[VDISession]:
        cluster = self.context.cluster
        opened = {grant.session_uid for grant in self.active.find()}
        for uid in opened | self._written.keys():
            session = cluster.by_uid(uid)
            if session is None or not is_running(session):
                self._forget(uid)
                continue
            template = cluster.template(session.spec.template)
            if template is None or takes_tokens(template.spec):
                yield session

    async def read(self, session: VDISession) -> float:
        """Write what is new; seconds until more of this desktop is read. Raises what `poll_agents`
        allows.
        """
        try:
            report = await self._ask(session)
        except (ActionDenied, ValueError):
            await self._note_silence(session)
            raise
        await self._write(session, report)
        return len(report.events) / EVENTS_PER_SECOND

    async def _ask(self, session: VDISession) -> Report:
        log, number = self._written.get(session.metadata.uid, ("", 0))
        path = f"/transfers?{log}&{number}"
        answer = await self.agent.ask(
            session, "GET", path, seconds=ANSWER_SECONDS, max_bytes=MAX_BYTES
        )
        if answer.status != HTTPStatus.OK:
            raise ActionDenied("Unavailable", f"its agent responds with {answer.status}")
        return answer.json(Report)

    async def _write(self, session: VDISession, report: Report) -> None:
        uid, now = session.metadata.uid, self.context.clock()
        self._read[uid] = now
        acts = {}
        for event in report.events:
            if event.event in ACTIONS:
                happened = now - timedelta(seconds=event.age)
                act = self._act(session, event, happened)
                acts[event_act(report.log, event.number)] = act, happened
        # Another replica may have read the same events: only those that are new are counted.
        written = await self.audit.add_events(acts) if acts else ()
        metrics = self.context.metrics
        for key in written:
            act, _ = acts[key]
            metrics.transfers.labels(act.action).inc()
            metrics.transfer_bytes.labels(act.action).inc(int(act.detail.get("bytes", 0)))
        if report.events:
            self._written[uid] = report.log, report.events[-1].number
        elif not self.active.find(session_uid=uid):
            self._forget(uid)  # a connection that was ended has been reported by now

    async def _note_silence(self, session: VDISession) -> None:
        """Write once an hour that a desktop no longer reports: it may end before it does again."""
        uid, now = session.metadata.uid, self.context.clock()
        since = self._read.setdefault(uid, now)
        if now - since < SILENT_AFTER:
            return
        if await self.context.shared.take_once(f"transfers-silent/{uid}", SILENT_SECONDS):
            detail = {"from": format_time(since), "error": "the agent does not respond"}
            await self.audit.record(act_on(session, "", "transfers.dropped", detail))

    def _forget(self, uid: str) -> None:
        self._written.pop(uid, None)
        self._read.pop(uid, None)

    def _act(self, session: VDISession, event: Event, happened: datetime) -> Act:
        grants = self.active.find(session_uid=session.metadata.uid)
        # Selkies names no one. A transfer takes full control; of several who have it, one did it.
        controls = event.role != "viewer"
        users = sorted({grant.user for grant in grants if (grant.role in FULL_CONTROL) == controls})
        action = ACTIONS[event.event]
        detail = describe(event, is_hashed=self.context.settings.hash_file_names)
        if event.seconds:
            detail["from"] = format_time(happened - timedelta(seconds=event.seconds))
            detail["to"] = format_time(happened)
        if len(users) > 1:
            detail["users"] = ", ".join(users)
        if len(users) != 1 or action.startswith("transfers."):
            actor = ""
        else:
            actor = users[0]
        return act_on(session, actor, action, detail)
