"""One desktop as the portal shows it to one user. Pure: objects and time in, values out.

A page's template reads nothing but this view, so the guests of a desktop do not reach a page of
somebody else.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from vdi.api.recording import RecordingMode
from vdi.api.session import Phase, QueueStatus, Role, SessionSpec, SessionStatus, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import format_duration, parse_duration, parse_time
from vdi.gateway.desktop.thumbnail import has_thumbnail
from vdi.gateway.queue_message import queue_message
from vdi.gateway.rights import Action, User, access_ends, enables_agents, refusal, role_in, taken_by
from vdi.gateway.web.assets import shown_icon
from vdi.gateway.web.template_filters import in_words
from vdi.session.actions import pending_request
from vdi.session.alerts import WARNING_TITLES
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import EXPIRING, TEMPLATE_FOUND, Reason
from vdi.session.effective import size_of
from vdi.session.failures import Failure, find_failure
from vdi.session.homes import files_note, keeps_files
from vdi.session.lifetime import max_timeout
from vdi.session.queueing.messages import place_in_line
from vdi.session.recording import is_recorded, recording_note, refuse_picture
from vdi.session.template_image import file_transfers

_WORDS = {
    "": "Just requested",
    Phase.PENDING: "Waiting",
    Phase.CREATING: "Starting",
    Phase.RUNNING: "Running",
    Phase.SUSPENDED: "Suspended",
    Phase.TERMINATING: "Ending",
    Phase.FAILED: "Failed",
}
# Actions that make sense in each phase; sharing, scheduling and a new size always do, until the
# end.
_ACTIONS = {
    Phase.RUNNING: {
        Action.OPEN,
        Action.BROWSE,
        Action.EXTEND,
        Action.SUSPEND,
        Action.RESTART,
        Action.END,
    },
    Phase.CREATING: {Action.OPEN, Action.EXTEND, Action.SUSPEND, Action.RESTART, Action.END},
    Phase.PENDING: {Action.OPEN, Action.SUSPEND, Action.END},
    "": {Action.OPEN, Action.SUSPEND, Action.END},
    Phase.SUSPENDED: {Action.RESUME, Action.END},
    Phase.FAILED: {Action.RESTART, Action.SUSPEND, Action.END},
    Phase.TERMINATING: set(),
}

_UNKNOWN = (None, "", "", "")
_MORE = (timedelta(hours=1), timedelta(hours=2), timedelta(hours=4), timedelta(hours=8))


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning or hint above everything else."""

    # CSS class: `warn`, `bad` or `info`.
    kind: str
    title: str
    text: str
    # Action that helps, if there is one on the page.
    action: str = ""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One option of a form's list."""

    value: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DesktopView:
    """One desktop as one user may see it: the fields of its session, and what they mean for this
    user now.
    """

    name: str
    uid: str
    created: str
    # As in the session; `access` is empty for users who may not see its guests.
    spec: SessionSpec
    status: SessionStatus
    title: str
    icon: str
    mine: bool
    # `administrator` for one who has no role in it.
    role: str
    # As in `status.phase`; Terminating as soon as it is being deleted.
    phase: str
    # The phase or the failure in words, with the position in the queue.
    state: str
    failure: Failure | None
    message: str
    notices: tuple[Notice, ...]
    # Actions that are possible now and allowed for this user, by the names in `rights.Action`.
    actions: frozenset[str]
    url: str
    gpu: int | None
    memory: str
    cpu: str
    # Limit of the node's local disk; empty: none.
    ephemeral_storage: str
    # Only for administrators.
    node: str
    expires: str
    access_ends: str
    idle_timeout: str
    # What everyone is told of its recording, before they open it; empty: it is not recorded.
    recording: str
    # The sentence of an agent that waits for a person; empty: none does.
    agent_request: str
    # Whether this user gets a small picture of its screen.
    thumbnail: bool
    # Whether its files are there again after it was suspended or restarted.
    has_home: bool
    # Whether its files are there for another desktop when it has ended.
    keeps_files: bool
    # What happens to its files, where they do not outlive it.
    files_note: str
    now: datetime

    @property
    def state_class(self) -> str:
        """CSS class of the state's badge."""
        if self.failure:
            return "failed"
        return (self.phase or Phase.PENDING).lower()

    @property
    def moving(self) -> bool:
        """Whether its state changes by itself before long."""
        return self.phase not in (Phase.RUNNING, Phase.SUSPENDED, Phase.FAILED)

    @property
    def needs_attention(self) -> bool:
        """Whether its user should do something about it: it has failed, ends soon, was lost, or
        an agent asks.
        """
        return bool(self.agent_request) or any(
            notice.kind in ("warn", "bad") for notice in self.notices
        )


def desktop_view(
    session: VDISession,
    template: VDITemplate | None,
    user: User,
    now: datetime,
    cluster: ClusterSettings,
    *,
    icon_origins: Collection[str] = (),
) -> DesktopView:
    """The session as this user may see it. The caller has checked whether they may see it at
    all.
    """
    spec, status, meta = session.spec, session.status, session.metadata
    phase = Phase.TERMINATING if meta.deletion_timestamp else status.phase
    role = role_in(session, user.email, now)
    ends = None
    if role and role is not Role.OWNER:
        ends = access_ends(session, user.email)
    gpu, memory, cpu, ephemeral_storage = _size(session, template)
    sees_guests = role is Role.OWNER or user.admin
    has_home, outlives = keeps_files(session, template)
    failure, driver = find_failure(session), taken_by(session)
    message = status.message if user.admin else queue_message(session)
    notices = _notices(session, phase, template, cluster, now)
    if failure:
        if user.admin:
            text = message
        else:
            text = f"{failure.what or message} {failure.advice}"
        notices.append(Notice("bad", failure.title, text, failure=failure))
    return DesktopView(
        name=meta.name,
        uid=meta.uid,
        created=meta.creation_timestamp,
        spec=spec if sees_guests else msgspec.structs.replace(spec, access=(), access_request=None),
        status=status,
        title=template_title(template, spec.template),
        icon=shown_icon(template.spec.icon if template else "", icon_origins),
        mine=role is Role.OWNER,
        role=role.value if role else "administrator",
        phase=phase,
        state=failure.title if failure else _state(phase, status.queue),
        failure=failure,
        message=message,
        notices=tuple(notices),
        actions=frozenset(_actions(session, phase, template, user, now)),
        # It becomes a link: an address such as javascript:... must not.
        url=status.url if status.url.startswith("https://") else "",
        gpu=gpu,
        memory=memory,
        cpu=cpu,
        ephemeral_storage=ephemeral_storage,
        node=status.node_name if user.admin else "",
        expires=status.expires_at if phase in (Phase.RUNNING, Phase.CREATING) else "",
        access_ends=ends.isoformat() if ends else "",
        idle_timeout=spec.idle_timeout
        or (template.spec.lifecycle.idle_timeout if template else None)
        or "",
        recording=_recording(session, template),
        agent_request=driver.line if role and driver and driver.state == "Parked" else "",
        thumbnail=has_thumbnail(session, template, role),
        has_home=has_home,
        keeps_files=outlives,
        files_note=files_note(session, template),
        now=now,
    )


def _recording(session: VDISession, template: VDITemplate | None) -> str:
    given = template.spec.recording if template else None
    if given and given.mode is RecordingMode.ALWAYS:
        return recording_note(template)
    if is_recorded(session):
        return "This desktop is being recorded, picture and sound."
    return ""


def template_title(template: VDITemplate | None, name: str) -> str:
    """Display name of a template, or its name."""
    return (template.spec.display_name if template else "") or name


def extensions(
    session: VDISession, template: VDITemplate | None, cluster: ClusterSettings, now: datetime
) -> list[Choice]:
    """Longer runs that can be chosen, none beyond `max_timeout`, by their `spec.timeout`; none
    before a run began.
    """
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
        Choice(format_duration(length), f"{in_words(length - present)} more")
        for length in sorted(set(lengths))
        if begun + length > now
    ]


def _state(phase: str, queue: QueueStatus | None) -> str:
    if phase == Phase.PENDING and queue:
        return place_in_line(queue.position).capitalize()
    return _WORDS.get(phase, phase)


def _actions(
    session: VDISession, phase: str, template: VDITemplate | None, user: User, now: datetime
) -> set[Action]:
    sensible = set(_ACTIONS.get(phase, ()))
    if not file_transfers(template) or refuse_picture(session):
        sensible.discard(Action.BROWSE)
    if phase == Phase.RUNNING and enables_agents(template):
        sensible.add(Action.DRIVE)
    recording = session.status.recording
    if recording and recording.mode == RecordingMode.ON_DEMAND:
        sensible.add(Action.RECORD)
    if phase != Phase.TERMINATING:
        sensible |= {Action.SHARE, Action.UNSHARE, Action.SCHEDULE, Action.RESIZE}
    if pending_request(session, now):
        sensible.add(Action.ANSWER_ACCESS)
    elif phase == Phase.RUNNING and role_in(session, user.email, now) is not Role.OWNER:
        sensible.add(Action.REQUEST_ACCESS)
    return {action for action in sensible if refusal(user, action, session, now) is None}


def _notices(
    session: VDISession,
    phase: str,
    template: VDITemplate | None,
    cluster: ClusterSettings,
    now: datetime,
) -> list[Notice]:
    if phase == Phase.TERMINATING:
        return []
    status = session.status
    notices = []
    for condition in status.conditions:
        if condition.type not in WARNING_TITLES or condition.status != "True":
            continue
        text, action = condition.message, ""
        if condition.type == EXPIRING:
            if extensions(session, template, cluster, now):
                action = Action.EXTEND
            else:
                text += f" It already has the maximum of {max_timeout(template, cluster)}."
        notices.append(Notice("warn", WARNING_TITLES[condition.type], text, action))
    if status.failures and status.failures.count and phase != Phase.FAILED:
        if status.failures.count == 1:
            times = "once"
        else:
            times = f"{status.failures.count} times in a row"
        notices.append(Notice("warn", f"It failed {times}", status.failures.message))
    notices += [
        Notice("info", "A newer version is ready", "Restart the desktop to get it.")
        for condition in status.conditions
        if condition.type == TEMPLATE_FOUND and condition.reason == Reason.NEWER_REVISION
    ]
    return notices


def _size(session: VDISession, template: VDITemplate | None) -> tuple[int | None, str, str, str]:
    """GPU, memory, CPU and local disk, as far as they are known: the session's own, else the
    template's.
    """
    chosen = session.spec.resources
    if template is None:
        if chosen:
            return (chosen.gpu, chosen.memory, chosen.cpu or "", chosen.ephemeral_storage or "")
        return _UNKNOWN
    size = size_of(session.spec, template.spec.resources)
    return size.gpu, size.memory, size.cpu, size.ephemeral_storage or ""
