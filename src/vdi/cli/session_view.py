"""How sessions look: table rows, the page of `show`, the words around them. Pure: objects and time in, lines out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from vdi.api.session import VDISession
from vdi.cli.output import age, columns, duration, parse_time


@dataclass(frozen=True, slots=True)
class Child:
    """An object that belongs to a session, in one line."""

    kind: str
    name: str
    state: str
    created: str = ""


@dataclass(frozen=True, slots=True)
class Happening:
    """An Event, already in words."""

    when: str
    about: str
    text: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Page:
    """All that `show` prints about one session."""

    session: VDISession
    children: Sequence[Child] = ()
    happenings: Sequence[Happening] = ()
    explanation: str = ""
    """Why the desktop is not ready, from its pod, volume and events; empty while it is, or has no pod."""
    unreadable: Sequence[str] = field(default=())
    """What could not be read, and why: an empty list below would otherwise look like an empty cluster."""


def session_table(sessions: Iterable[VDISession], now: datetime, *, wide: bool, all_namespaces: bool) -> list[str]:
    """The lines of `ls`."""
    header = ["NAME", "USER", "TEMPLATE", "PHASE", "AGE", "URL"]
    if wide:
        header += ["NODE", "EXPIRES IN", "MESSAGE"]
    if all_namespaces:
        header.insert(0, "NAMESPACE")
    return columns(header, [_row(each, now, wide, all_namespaces) for each in sessions])


def _row(session: VDISession, now: datetime, wide: bool, all_namespaces: bool) -> list[str]:
    meta, spec, status = session.metadata, session.spec, session.status
    row = [meta.name, spec.user, spec.template, phase(session), age(meta.creation_timestamp, now), status.url or "-"]
    if wide:
        row += [status.node_name or "-", expires_in(session, now), status.message or "-"]
    return [meta.namespace, *row] if all_namespaces else row


def phase(session: VDISession) -> str:
    """The phase; a session that nobody has taken up yet has none."""
    if session.metadata.deletion_timestamp:
        return "Terminating"
    return session.status.phase or "-"


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
    return "  ".join(part for part in (clock, name, phase(session), status.url, status.message) if part)


def page_lines(page: Page, now: datetime) -> list[str]:
    """The lines of `show`."""
    lines = _facts(page.session, now)
    if page.explanation and page.explanation != page.session.status.message:
        lines.append(f"{'Why:':<11}{page.explanation}")
    lines += _conditions(page.session, now)
    if page.children:
        lines += ["", "Objects"]
        rows = [[c.kind, c.name, c.state, age(c.created, now)] for c in page.children]
        lines += [f"  {line}" for line in columns(["KIND", "NAME", "STATE", "AGE"], rows)]
    if page.happenings:
        lines += ["", "Events"]
        lines += [f"  {line}" for line in _happenings(page.happenings, now)]
    lines += [f"\nCould not look at {each}" for each in page.unreadable]
    return lines


def _facts(session: VDISession, now: datetime) -> list[str]:
    meta, spec, status = session.metadata, session.spec, session.status
    ask = spec.resources
    wanted = (
        f"{ask.gpu} GPU, {ask.memory} memory" + (f", {ask.cpu} CPU" if ask.cpu else "") if ask else "the template's"
    )
    facts = {
        "Session": f"{meta.namespace}/{meta.name}",
        "User": spec.user,
        "Template": spec.template + (f" (revision {status.template_revision})" if status.template_revision else ""),
        "Phase": phase(session),
        "Message": status.message,
        "URL": status.url,
        "Resources": wanted,
        "Home": _home(session),
        "Created": f"{meta.creation_timestamp} ({age(meta.creation_timestamp, now)} ago)",
        "Started": _started(session, now),
        "Expires": f"{status.expires_at} (in {expires_in(session, now)}; timeout {spec.timeout})"
        if status.expires_at
        else "",
        "Node": status.node_name,
        "Pod": status.pod_name,
    }
    return [f"{name + ':':<11}{value}" for name, value in facts.items() if value]


def _started(session: VDISession, now: datetime) -> str:
    status = session.status
    begun, ready = parse_time(status.start_time), parse_time(status.ready_time)
    if begun is None:
        return ""
    took = f", ready after {duration((ready - begun).total_seconds())}" if ready else ""
    return f"{status.start_time} ({age(status.start_time, now)} ago{took})"


def _home(session: VDISession) -> str:
    wish = session.spec.persistence
    if wish is None:
        return "as the template says, kept when the session goes"
    if wish.enabled is False:
        return "none: files are gone with the session"
    kept = "kept when the session goes" if wish.retain else "deleted with the session"
    return f"{wish.size or 'size of the template'}, {kept}"


def _conditions(session: VDISession, now: datetime) -> list[str]:
    if not session.status.conditions:
        return ["", "No conditions yet: the operator has not taken the session up. Is it running?"]
    rows = [
        [c.type, c.status, c.reason, age(c.last_transition_time, now), c.message or "-"]
        for c in session.status.conditions
    ]
    return [
        "",
        "Conditions",
        *(f"  {line}" for line in columns(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows)),
    ]


def _happenings(happenings: Sequence[Happening], now: datetime) -> list[str]:
    rows = [
        [
            f"{age(each.when, now)} ago" if each.when else "-",
            each.about,
            each.text + (f" (x{each.count})" if each.count > 1 else ""),
        ]
        for each in happenings
    ]
    return columns(["WHEN", "ABOUT", "WHAT"], rows)


def condition_reason(session: VDISession, kind: str) -> str:
    """The reason of a condition, empty while there is none."""
    return next((each.reason for each in session.status.conditions if each.type == kind), "")
