"""What the portal shows of one desktop, for one person. Pure: objects and time in, plain values out.

A page's template reads nothing but this, so what a person may not know of does not reach it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from vdi.api.session import Phase, QueueStatus, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import format_duration, parse_duration, parse_time
from vdi.gateway.queue_message import queue_message
from vdi.gateway.rights import Action, User, access_ends, refusal, role_in
from vdi.gateway.thumbnails import has_thumbnail
from vdi.gateway.web.assets import shown_icon
from vdi.gateway.web.template_filters import left, ordinal
from vdi.session.actions import is_expired
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import CLOSING, DRAINING, EXPIRING, IDLE, TEMPLATE_FOUND, Reason
from vdi.session.homes import resolve_home, retained_claim
from vdi.session.lifetime import max_timeout
from vdi.session.schedule import describe_schedule
from vdi.session.streaming import describe_encoder, describe_renderer

_WARNINGS = {
    EXPIRING: "This desktop ends soon",
    CLOSING: "Working hours end soon",
    IDLE: "This desktop is idle",
    DRAINING: "The node of this desktop is going into maintenance",
}
_WORDS = {
    "": "Just requested",
    Phase.PENDING: "Waiting",
    Phase.CREATING: "Starting",
    Phase.RUNNING: "Running",
    Phase.SUSPENDED: "Suspended",
    Phase.TERMINATING: "Ending",
    Phase.FAILED: "Failed",
}
# What makes sense in each phase; sharing and scheduling always do, until the end.
_ACTIONS = {
    Phase.RUNNING: {Action.OPEN, Action.EXTEND, Action.SUSPEND, Action.RESTART, Action.END},
    Phase.CREATING: {Action.OPEN, Action.EXTEND, Action.SUSPEND, Action.RESTART, Action.END},
    Phase.PENDING: {Action.OPEN, Action.SUSPEND, Action.END},
    "": {Action.OPEN, Action.SUSPEND, Action.END},
    Phase.SUSPENDED: {Action.RESUME, Action.END},
    Phase.FAILED: {Action.RESTART, Action.SUSPEND, Action.END},
    Phase.TERMINATING: set(),
}

_MORE = (timedelta(hours=1), timedelta(hours=2), timedelta(hours=4), timedelta(hours=8))


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should read before anything else."""

    # `warn`, `bad` or `info`: how it looks.
    kind: str
    title: str
    text: str
    # What helps, if it can be done here.
    action: str = ""


@dataclass(frozen=True, slots=True)
class Guest:
    """Somebody a desktop is shared with."""

    user: str
    role: str
    # RFC 3339; empty: until it is taken back.
    expires: str
    over: bool


@dataclass(frozen=True, slots=True)
class Extension:
    """A longer run that can be chosen."""

    # Of the whole run, as `spec.timeout` takes it.
    length: str
    words: str
    # RFC 3339.
    ends: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DesktopView:
    """One desktop, ready to be shown."""

    name: str
    uid: str
    title: str
    icon: str
    owner: str
    mine: bool
    role: str
    # As in `status.phase`; Terminating as soon as it is being deleted.
    phase: str
    # The phase in a word for people, with the place in line.
    state: str
    message: str
    notices: tuple[Notice, ...]
    # What this person may do now, by the names in `rights.Action`.
    actions: frozenset[str]
    url: str
    template: str
    gpu: int | None
    memory: str
    cpu: str
    # Limit of the node's local disk; empty: none.
    ephemeral_storage: str
    # What draws OpenGL, with the reason where it is software; empty while it is not known.
    renderer: str
    encoder: str
    display: str
    node: str
    created: str
    started: str
    expires: str
    access_ends: str
    timeout: str
    idle_timeout: str
    earliest_slot: str
    # Its schedule in words; empty: it has none.
    schedule: str
    # When its schedule has it ready next, RFC 3339.
    next_start: str
    guests: tuple[Guest, ...]
    # Whether this person gets a small picture of its screen.
    thumbnail: bool
    # Whether its files are there again after it was suspended or restarted.
    has_home: bool
    # Whether its files are there for another desktop when it has ended.
    keeps_files: bool
    now: datetime

    @property
    def state_class(self) -> str:
        """How the state's badge looks."""
        return (self.phase or Phase.PENDING).lower()

    @property
    def moving(self) -> bool:
        """Whether its state changes by itself before long."""
        return self.phase not in (Phase.RUNNING, Phase.SUSPENDED, Phase.FAILED)

    @property
    def needs_attention(self) -> bool:
        """Whether its user should do something about it: it has failed, ends soon, or was lost."""
        return any(notice.kind in ("warn", "bad") for notice in self.notices)

    @property
    def left(self) -> str:
        """The time that is left of this run, in words; empty while it has no end."""
        return left(self.expires, self.now)


def desktop_view(
    session: VDISession,
    template: VDITemplate | None,
    user: User,
    now: datetime,
    cluster: ClusterSettings,
    *,
    icon_origins: Collection[str] = (),
) -> DesktopView:
    """The session as this person may see it. Whether they may see it at all has been asked before."""
    spec, status, meta = session.spec, session.status, session.metadata
    phase = Phase.TERMINATING if meta.deletion_timestamp else status.phase
    role = role_in(session, user.email, now)
    ends = access_ends(session, user.email) if role and role is not Role.OWNER else None
    gpu, memory, cpu, ephemeral_storage = _size(session, template)
    owns = role is Role.OWNER or user.admin
    has_home, keeps_files = _files(session, template)
    return DesktopView(
        name=meta.name,
        uid=meta.uid,
        title=template_title(template, spec.template),
        icon=shown_icon(template.spec.icon if template else "", icon_origins),
        owner=spec.user,
        mine=role is Role.OWNER,
        role=role.value if role else "administrator",
        phase=phase,
        state=_state(phase, status.queue),
        message=status.message if user.admin else queue_message(session),
        notices=tuple(_notices(session, phase, template, cluster, now)),
        actions=frozenset(_actions(session, phase, user, now)),
        url=status.url if status.url.startswith("https://") else "",
        template=spec.template,
        gpu=gpu,
        memory=memory,
        cpu=cpu,
        ephemeral_storage=ephemeral_storage,
        renderer=describe_renderer(status.graphics) if status.graphics else "",
        encoder=describe_encoder(status.graphics) if status.graphics else "",
        display=status.graphics.display if status.graphics else "",
        node=status.node_name if user.admin else "",
        created=meta.creation_timestamp,
        started=status.start_time,
        expires=status.expires_at if phase in (Phase.RUNNING, Phase.CREATING) else "",
        access_ends=ends.isoformat() if ends else "",
        timeout=spec.timeout,
        idle_timeout=spec.idle_timeout or (template.spec.lifecycle.idle_timeout if template else None) or "",
        earliest_slot=status.queue.earliest_slot if status.queue else "",
        schedule=describe_schedule(spec.schedule) if spec.schedule else "",
        next_start=status.next_start if spec.schedule else "",
        guests=tuple(guests(session, now)) if owns else (),
        thumbnail=has_thumbnail(session, template, role),
        has_home=has_home,
        keeps_files=keeps_files,
        now=now,
    )


def _files(session: VDISession, template: VDITemplate | None) -> tuple[bool, bool]:
    """Whether it has a home, and whether that outlives it."""
    if session.status.home_claim or template is None:
        retained = retained_claim(session) is not None
        return retained or bool(session.status.home_claim), retained
    home = resolve_home(session, template, {})
    return home is not None, home is not None and home.retain


def template_title(template: VDITemplate | None, name: str) -> str:
    """What a template is called by people."""
    return (template.spec.display_name if template else "") or name


def guests(session: VDISession, now: datetime) -> list[Guest]:
    """Whom the desktop is shared with, in the order of the object."""
    return [
        Guest(access.user, access.role, access.expires or "", is_expired(access, now)) for access in session.spec.access
    ]


def extensions(
    session: VDISession, template: VDITemplate | None, cluster: ClusterSettings, now: datetime
) -> list[Extension]:
    """The longer runs that can be chosen, none beyond `max_timeout`; only for a run that has begun."""
    if not session.status.start_time:
        return []
    begun = parse_time(session.status.start_time)
    limit = max_timeout(template, cluster)
    longest = parse_duration(limit) if limit else None
    present = parse_duration(session.spec.timeout)
    if longest:
        present = min(present, longest)
    lengths = [present + more for more in _MORE if longest is None or present + more <= longest]
    if longest and present < longest and longest not in lengths:
        lengths.append(longest)
    return [
        Extension(format_duration(length), _more(length - present), (begun + length).isoformat())
        for length in sorted(set(lengths))
        if begun + length > now
    ]


def _more(span: timedelta) -> str:
    hours, minutes = divmod(int(span.total_seconds()) // 60, 60)
    parts = ((hours, "hour"), (minutes, "minute"))
    return " ".join(f"{number} {unit}{'s' * (number > 1)}" for number, unit in parts if number) + " more"


def _state(phase: str, queue: QueueStatus | None) -> str:
    if phase == Phase.PENDING and queue:
        return f"{ordinal(queue.position)} in line" if queue.position else "No capacity"
    return _WORDS.get(phase, phase)


def _actions(session: VDISession, phase: str, user: User, now: datetime) -> set[Action]:
    sensible = set(_ACTIONS.get(phase, ()))
    if phase != Phase.TERMINATING:
        sensible |= {Action.SHARE, Action.UNSHARE, Action.SCHEDULE}
    return {action for action in sensible if refusal(user, action, session, now) is None}


def _notices(
    session: VDISession, phase: str, template: VDITemplate | None, cluster: ClusterSettings, now: datetime
) -> list[Notice]:
    if phase == Phase.TERMINATING:
        return []
    status = session.status
    found = []
    for condition in status.conditions:
        if condition.type not in _WARNINGS or condition.status != "True":
            continue
        text, action = condition.message, ""
        if condition.type == EXPIRING:
            can_extend = bool(extensions(session, template, cluster, now))
            action = Action.EXTEND if can_extend else ""
            text += "" if can_extend else f" It already has the maximum of {max_timeout(template, cluster)}."
        found.append(Notice("warn", _WARNINGS[condition.type], text, action))
    if phase == Phase.FAILED:
        found.append(Notice("bad", "This desktop cannot run", status.message))
    elif status.failures and status.failures.count:
        times = "once" if status.failures.count == 1 else f"{status.failures.count} times in a row"
        found.append(Notice("warn", f"It failed {times}", status.failures.message))
    found += [
        Notice("info", "A newer version is ready", condition.message)
        for condition in status.conditions
        if condition.type == TEMPLATE_FOUND and condition.reason == Reason.NEWER_REVISION
    ]
    return found


def _size(session: VDISession, template: VDITemplate | None) -> tuple[int | None, str, str, str]:
    """GPU, memory, CPU and local disk, as far as they are known: the session's own, else the template's."""
    chosen = session.spec.resources
    cpu, disk = (chosen.cpu, chosen.ephemeral_storage) if chosen else (None, None)
    if template is None:
        return (chosen.gpu, chosen.memory, cpu or "", disk or "") if chosen else (None, "", "", "")
    offer = template.spec.resources
    gpu = 0 if offer.default_gpu == 0 else (chosen.gpu if chosen else offer.default_gpu)
    memory = chosen.memory if chosen else offer.default_memory
    return gpu, memory, cpu or offer.default_cpu, disk or offer.default_ephemeral_storage or ""
