"""Renders sessions: table rows, and the details of `show`. Pure: objects and time in, lines out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from vdi.api.meta import Condition, find_condition
from vdi.api.session import FailureStatus, QueueStatus, SessionSpec, SessionStatus, VDISession
from vdi.api.template import VDITemplate
from vdi.cli.output import age, columns, condition_lines, duration, fact_lines, parse_time
from vdi.printable import escape
from vdi.session.conditions import (
    ADMITTED,
    CLOSING,
    DRAINING,
    EXPIRING,
    IDLE,
    OUT_OF_MEMORY,
    PLANNED_END,
    RESIZE_PENDING,
    WARNING_TYPES,
    Reason,
)
from vdi.session.effective import size_of
from vdi.session.failures import find_failure
from vdi.session.homes import own_claim
from vdi.session.queueing.messages import place_in_line
from vdi.session.schedule import describe_schedule
from vdi.session.template_image import describe_encoder, describe_renderer


@dataclass(frozen=True, slots=True)
class SessionDetails:
    """All that `show` prints about one session."""

    session: VDISession
    template: VDITemplate | None = None  # it does not exist, or may not be read
    objects: Sequence[tuple[str, str, str, str]] = ()  # kind, name, state, time of creation
    events: Sequence[tuple[str, str, str]] = ()  # time, kind of the object, text
    # Why the desktop is not ready, from its pod, volume and events; empty while it is, or has no
    # pod.
    explanation: str = ""
    # What could not be read, and why: an empty list above would otherwise look like an empty
    # cluster.
    unreadable: Sequence[str] = ()


def session_table(
    sessions: Iterable[VDISession], now: datetime, *, wide: bool, all_namespaces: bool
) -> list[str]:
    """The lines of `ls`."""
    header = ["NAME", "USER", "TEMPLATE", "PHASE", "NOTE", "AGE", "URL"]
    if wide:
        header += ["NODE", "EXPIRES IN", "MESSAGE"]
    if all_namespaces:
        header.insert(0, "NAMESPACE")
    return columns(header, [_row(session, now, wide, all_namespaces) for session in sessions])


def _row(session: VDISession, now: datetime, wide: bool, all_namespaces: bool) -> list[str]:
    meta, spec, status = session.metadata, session.spec, session.status
    note = _notes(session, now) or "-"
    row = [
        meta.name,
        spec.user,
        spec.template,
        phase(session),
        note,
        age(meta.creation_timestamp, now),
    ]
    row.append(status.url or "-")
    if wide:
        row += [status.node_name or "-", expires_in(session, now), status.message or "-"]
    if all_namespaces:
        return [meta.namespace, *row]
    return row


def phase(session: VDISession) -> str:
    """The phase; `-` until the operator has written one."""
    if session.metadata.deletion_timestamp:
        return "Terminating"
    return session.status.phase or "-"


def _notes(session: VDISession, now: datetime) -> str:
    """Short notes beside the phase: failure, queue, warnings, losses."""
    status, failure = session.status, find_failure(session)
    notes = [failure.title.lower()] if failure else []
    if status.queue:
        notes.append(place_in_line(status.queue.position))
        if status.queue.node_request_time:
            notes.append(f"node requested {age(status.queue.node_request_time, now)} ago")
    admitted = find_condition(status.conditions, ADMITTED)
    if admitted and admitted.reason == Reason.HOME_IN_USE:
        notes.append("files in use")
    warnings = {
        PLANNED_END: f"planned end in {expires_in(session, now)}",
        EXPIRING: f"ends in {expires_in(session, now)}",
        CLOSING: "working hours end",
        IDLE: "idle",
        DRAINING: "node drains",
        RESIZE_PENDING: "resize pending",
        OUT_OF_MEMORY: "ran out of memory",
    }
    notes += [note for kind, note in warnings.items() if holds(session, kind)]
    if status.failures and status.failures.count:
        notes.append(f"lost {status.failures.count}x")
    return ", ".join(notes)


def expires_in(session: VDISession, now: datetime) -> str:
    """The time that is left of this run."""
    end = parse_time(session.status.expires_at)
    if end is None:
        return "-"
    if end > now:
        return duration((end - now).total_seconds())
    return "over"


def watch_line(session: VDISession | None, name: str, now: datetime) -> str:
    """One change in one line, for `ls --watch` where nothing can be redrawn."""
    clock = now.strftime("%H:%M:%SZ")
    if session is None:
        return f"{clock}  {name}  deleted"
    status = session.status
    parts = (clock, name, phase(session), _notes(session, now), status.url, status.message)
    return "  ".join(escape(part) for part in parts if part)


def details_lines(page: SessionDetails, now: datetime) -> list[str]:
    """The lines of `show`."""
    lines = _facts(page.session, page.template, now)
    if page.explanation != page.session.status.message:
        lines += fact_lines({"Why": page.explanation})
    if page.session.status.conditions:
        lines += condition_lines(page.session.status.conditions, now)
    else:
        lines += [
            "",
            "No conditions yet: the operator has not processed the session. Is it running?",
        ]
    if page.objects:
        rows = [
            [kind, name, state, age(created, now)] for kind, name, state, created in page.objects
        ]
        lines += [
            "",
            "Objects",
            *(f"  {line}" for line in columns(["KIND", "NAME", "STATE", "AGE"], rows)),
        ]
    if page.events:
        rows = [[f"{age(when, now)} ago", about, text] for when, about, text in page.events]
        lines += ["", "Events", *(f"  {line}" for line in columns(["WHEN", "ABOUT", "WHAT"], rows))]
    lines += [f"\nCould not check {escape(refusal)}" for refusal in page.unreadable]
    return lines


def _facts(session: VDISession, template: VDITemplate | None, now: datetime) -> list[str]:
    meta, spec, status = session.metadata, session.spec, session.status
    revision = ""
    if status.template_revision:
        revision = f" (revision {status.template_revision})"
    return fact_lines(
        {
            "Session": f"{meta.namespace}/{meta.name}",
            "User": spec.user,
            "Template": f"{spec.template}{revision}",
            "Phase": phase(session),
            "Message": status.message,
            **_troubles(session, now),
            "URL": status.url,
            "Resources": _resources(spec, template),
            "Home": _home(session),
            "Priority": str(spec.priority or ""),
            **_times(session, now),
            **_display(status),
            "Node": status.node_name,
            "Pod": status.pod_name,
        }
    )


def _troubles(session: VDISession, now: datetime) -> dict[str, str]:
    """Facts about what keeps the session from running."""
    status, facts = session.status, {}
    if failure := find_failure(session):
        began = ""
        if failure.since:
            began = f"{failure.since} ({age(failure.since, now)} ago)"
        facts["Failure"] = f"{failure.title} since {began}. {failure.advice}"
    if status.queue:
        facts["Queue"] = _queue(status.queue, now)
    warnings = []
    for state in status.conditions:
        if state.type in WARNING_TYPES and state.status == "True":
            warnings.append(state.message or state.reason)
    facts["Warnings"] = "; ".join(warnings)
    if status.failures and status.failures.count:
        facts["Failures"] = _failures(status.failures, now)
    return facts


def _times(session: VDISession, now: datetime) -> dict[str, str]:
    """Facts about when the session began, was used and ends."""
    spec, status = session.spec, session.status

    def since(time: str, more: str = "") -> str:
        if time:
            return f"{time} ({age(time, now)} ago{more})"
        return ""

    began, ready = parse_time(status.start_time), parse_time(status.ready_time)
    took = ""
    if began and ready:
        took = f", ready after {duration((ready - began).total_seconds())}"
    facts = {
        "Created": since(session.metadata.creation_timestamp),
        "Started": since(status.start_time, took),
    }
    if status.expires_at:
        left = expires_in(session, now)
        facts["Expires"] = f"{status.expires_at} (in {left}; timeout {spec.timeout})"
    if spec.idle_timeout:
        facts["Idle"] = f"after {spec.idle_timeout} without use"
    if spec.schedule:
        if status.next_start:
            next_start = f"; next {status.next_start}"
        else:
            next_start = ""
        facts["Schedule"] = describe_schedule(spec.schedule) + next_start
    facts["Last used"] = since(status.last_activity_time)
    return facts


def _display(status: SessionStatus) -> dict[str, str]:
    """Facts about how the desktop runs, as it says itself."""
    facts = {}
    if status.graphics:
        facts["Display"] = status.graphics.display
        facts["OpenGL"] = describe_renderer(status.graphics)
        facts["Encoder"] = describe_encoder(status.graphics)
    if status.isolation:
        facts["Isolation"] = status.isolation.message or "user namespace"
    if recording := status.recording:
        described = f"{recording.state} ({recording.mode}) {recording.message}"
        facts["Recording"] = described.strip()
    return facts


def _queue(queue: QueueStatus, now: datetime) -> str:
    place = place_in_line(queue.position)
    slot = ""
    if queue.earliest_slot:
        slot = f", capacity expected by {queue.earliest_slot}"
    requested = ""
    if queue.node_request_time:
        requested = f", node requested {age(queue.node_request_time, now)} ago"
    return f"{place}{slot}{requested} ({queue.reason})"


def _failures(failures: FailureStatus, now: datetime) -> str:
    when = f" ({age(failures.time, now)} ago)" if failures.time else ""
    return (
        f"lost {failures.count} times in a row, last{when}: {failures.message or failures.reason}"
    )


def _resources(spec: SessionSpec, template: VDITemplate | None) -> str:
    if template is None:
        return "unknown: the template cannot be read"
    size = size_of(spec, template.spec.resources)
    disk = ""
    if size.ephemeral_storage:
        disk = f", {size.ephemeral_storage} local disk"
    return f"{size.gpu or 'no'} GPU, {size.memory} memory, {size.cpu} CPU{disk}"


def _home(session: VDISession) -> str:
    request = session.spec.persistence
    if own_claim(session):
        kept = "deleted with the session"
    else:
        kept = "kept after the session ends"
    # The operator names the home before a run starts; a template may have none.
    if (request and request.enabled is False) or (
        session.status.start_time and not session.status.home_claim
    ):
        return "none: files are deleted with the session"
    if request is None:
        return f"template's value, {kept}"
    return f"{request.size or 'size of the template'}, {kept}"


def condition(session: VDISession, kind: str) -> Condition | None:
    """The session's condition of this type, None while the operator has not written it."""
    return find_condition(session.status.conditions, kind)


def condition_reason(session: VDISession, kind: str) -> str:
    """The reason of a condition, empty without one."""
    one = condition(session, kind)
    return one.reason if one else ""


def holds(session: VDISession, kind: str) -> bool:
    """Whether the condition is there and True."""
    one = condition(session, kind)
    return one is not None and one.status == "True"
