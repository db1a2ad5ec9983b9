"""Renders sessions: table rows, and the details of `show`. Pure: objects and time in, lines out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vdi.api.meta import Condition
from vdi.api.session import QueueStatus, SessionResources, VDISession
from vdi.cli.output import age, columns, condition_lines, duration, fact_lines, parse_time
from vdi.printable import escape
from vdi.session.conditions import CLOSING, DRAINING, EXPIRING, IDLE, WARNING_TYPES
from vdi.session.homes import own_claim
from vdi.session.schedule import describe_schedule
from vdi.session.streaming import describe_encoder, describe_renderer


@dataclass(frozen=True, slots=True)
class SessionObject:
    """An object that belongs to a session, in one line."""

    kind: str
    name: str
    state: str
    created: str = ""


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """An Event with its text."""

    when: str
    about: str
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """All that `show` prints about one session."""

    session: VDISession
    children: Sequence[SessionObject] = ()
    events: Sequence[SessionEvent] = ()
    # Why the desktop is not ready, from its pod, volume and events; empty while it is, or has no pod.
    explanation: str = ""

    # What could not be read, and why: an empty list below would otherwise look like an empty cluster.
    unreadable: Sequence[str] = field(default=())


def session_table(sessions: Iterable[VDISession], now: datetime, *, wide: bool, all_namespaces: bool) -> list[str]:
    """The lines of `ls`."""
    header = ["NAME", "USER", "TEMPLATE", "PHASE", "NOTE", "AGE", "URL"]
    if wide:
        header += ["NODE", "EXPIRES IN", "MESSAGE"]
    if all_namespaces:
        header.insert(0, "NAMESPACE")
    return columns(header, [_row(session, now, wide, all_namespaces) for session in sessions])


def _row(session: VDISession, now: datetime, wide: bool, all_namespaces: bool) -> list[str]:
    meta, spec, status = session.metadata, session.spec, session.status
    note = ", ".join(notes(session, now)) or "-"
    row = [meta.name, spec.user, spec.template, phase(session), note, age(meta.creation_timestamp, now)]
    row.append(status.url or "-")
    if wide:
        row += [status.node_name or "-", expires_in(session, now), status.message or "-"]
    return [meta.namespace, *row] if all_namespaces else row


def phase(session: VDISession) -> str:
    """The phase; `-` until the operator has written one."""
    if session.metadata.deletion_timestamp:
        return "Terminating"
    return session.status.phase or "-"


def notes(session: VDISession, now: datetime) -> list[str]:
    """Short notes besides the phase: queue, warnings, failures."""
    status, said = session.status, []
    if status.queue:
        target = status.queue.position
        said.append(f"number {target} in line" if target else "no node")
        if status.queue.node_request_time:
            said.append(f"node requested {age(status.queue.node_request_time, now)} ago")
    if holds(session, EXPIRING):
        said.append(f"ends in {expires_in(session, now)}")
    if holds(session, CLOSING):
        said.append("working hours end")
    if holds(session, IDLE):
        said.append("idle")
    if holds(session, DRAINING):
        said.append("node drains")
    if status.failures and status.failures.count:
        said.append(f"lost {status.failures.count}x")
    return said


def queue_words(queue: QueueStatus, now: datetime) -> str:
    """The position in the queue."""
    target = f"number {queue.position} in line" if queue.position else "no node can ever run it"
    slot = f", capacity expected by {queue.earliest_slot}" if queue.earliest_slot else ""
    requested = f", node requested {age(queue.node_request_time, now)} ago" if queue.node_request_time else ""
    return f"{target}{slot}{requested} ({queue.reason})"


def expires_in(session: VDISession, now: datetime) -> str:
    """The time that is left of this run."""
    end = parse_time(session.status.expires_at)
    if end is None:
        return "-"
    return duration((end - now).total_seconds()) if end > now else "over"


def watch_line(session: VDISession | None, name: str, now: datetime) -> str:
    """One change in one line, for `ls --watch` where nothing can be redrawn."""
    clock = now.strftime("%H:%M:%SZ")
    if session is None:
        return f"{clock}  {name}  deleted"
    status = session.status
    note = ", ".join(notes(session, now))
    parts = (clock, name, phase(session), note, status.url, status.message)
    return "  ".join(escape(part) for part in parts if part)


def details_lines(page: SessionDetails, now: datetime) -> list[str]:
    """The lines of `show`."""
    lines = _facts(page.session, now)
    if page.explanation != page.session.status.message:
        lines += fact_lines({"Why": page.explanation})
    lines += _conditions(page.session, now)
    if page.children:
        lines += ["", "Objects"]
        rows = [[c.kind, c.name, c.state, age(c.created, now)] for c in page.children]
        lines += [f"  {line}" for line in columns(["KIND", "NAME", "STATE", "AGE"], rows)]
    if page.events:
        lines += ["", "Events"]
        lines += [f"  {line}" for line in _happenings(page.events, now)]
    lines += [f"\nCould not check {escape(refusal)}" for refusal in page.unreadable]
    return lines


def _facts(session: VDISession, now: datetime) -> list[str]:
    meta, spec, status = session.metadata, session.spec, session.status
    facts = {
        "Session": f"{meta.namespace}/{meta.name}",
        "User": spec.user,
        "Template": spec.template + (f" (revision {status.template_revision})" if status.template_revision else ""),
        "Phase": phase(session),
        "Message": status.message,
        "Queue": queue_words(status.queue, now) if status.queue else "",
        "Warnings": "; ".join(warning.message or warning.reason for warning in _warnings(session)),
        "Failures": _failures(session, now),
        "URL": status.url,
        "Resources": _resources(spec.resources),
        "Home": _home(session),
        "Priority": str(spec.priority or ""),
        "Created": f"{meta.creation_timestamp} ({age(meta.creation_timestamp, now)} ago)",
        "Started": _started(session, now),
        "Expires": f"{status.expires_at} (in {expires_in(session, now)}; timeout {spec.timeout})"
        if status.expires_at
        else "",
        "Idle": f"after {spec.idle_timeout} without use" if spec.idle_timeout else "",
        "Schedule": _schedule(session),
        "Last used": f"{status.last_activity_time} ({age(status.last_activity_time, now)} ago)"
        if status.last_activity_time
        else "",
        "Display": status.graphics.display if status.graphics else "",
        "OpenGL": describe_renderer(status.graphics) if status.graphics else "",
        "Encoder": describe_encoder(status.graphics) if status.graphics else "",
        "Node": status.node_name,
        "Pod": status.pod_name,
    }
    return fact_lines(facts)


def _schedule(session: VDISession) -> str:
    if session.spec.schedule is None:
        return ""
    following = f"; next {session.status.next_start}" if session.status.next_start else ""
    return describe_schedule(session.spec.schedule) + following


def _resources(chosen: SessionResources | None) -> str:
    if chosen is None:
        return "the template's"
    parts = [f"{chosen.gpu} GPU", f"{chosen.memory} memory"]
    parts += [f"{chosen.cpu} CPU"] if chosen.cpu else []
    parts += [f"{chosen.ephemeral_storage} local disk"] if chosen.ephemeral_storage else []
    return ", ".join(parts)


def _started(session: VDISession, now: datetime) -> str:
    status = session.status
    begun, ready = parse_time(status.start_time), parse_time(status.ready_time)
    if begun is None:
        return ""
    took = f", ready after {duration((ready - begun).total_seconds())}" if ready else ""
    return f"{status.start_time} ({age(status.start_time, now)} ago{took})"


def _warnings(session: VDISession) -> list[Condition]:
    return [
        condition
        for condition in session.status.conditions
        if condition.type in WARNING_TYPES and condition.status == "True"
    ]


def _failures(session: VDISession, now: datetime) -> str:
    lost = session.status.failures
    if not lost or not lost.count:
        return ""
    when = f" ({age(lost.time, now)} ago)" if lost.time else ""
    return f"lost {lost.count} times in a row, last{when}: {lost.message or lost.reason}"


def _home(session: VDISession) -> str:
    request = session.spec.persistence
    kept = "deleted with the session" if own_claim(session) else "kept after the session ends"
    if request is None:
        return f"template's value, {kept}"
    if request.enabled is False:
        return "none: files are deleted with the session"
    return f"{request.size or 'size of the template'}, {kept}"


def _conditions(session: VDISession, now: datetime) -> list[str]:
    if not session.status.conditions:
        return ["", "No conditions yet: the operator has not processed the session. Is it running?"]
    return condition_lines(session.status.conditions, now)


def _happenings(events: Sequence[SessionEvent], now: datetime) -> list[str]:
    rows = [
        [
            f"{age(event.when, now)} ago" if event.when else "-",
            event.about,
            event.text + (f" (x{event.count})" if event.count > 1 else ""),
        ]
        for event in events
    ]
    return columns(["WHEN", "ABOUT", "WHAT"], rows)


def condition(session: VDISession, kind: str) -> Condition | None:
    """The session's condition of this type, None while the operator has not written it."""
    return next((condition for condition in session.status.conditions if condition.type == kind), None)


def condition_reason(session: VDISession, kind: str) -> str:
    """The reason of a condition, empty without one."""
    found = condition(session, kind)
    return found.reason if found else ""


def holds(session: VDISession, kind: str) -> bool:
    """Whether the condition is there and True."""
    found = condition(session, kind)
    return found is not None and found.status == "True"
