"""Decisions about actions on a session, such as suspend, extend, resize, share and plan its end.
Pure.

The gateway (which adds rights, limits and audit) and the session commands at the API server send
the patch that `decide` returns, or show its refusal. A rule and the sentence that refuses it
therefore exist once, here.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar, Literal, get_args

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.api.meta import find_condition
from vdi.api.schedule import SessionSchedule
from vdi.api.session import (
    FULL_CONTROL,
    GUEST_ROLES,
    MAX_GUESTS,
    Access,
    AccessRequest,
    GuestRole,
    PlannedEnd,
    VDISession,
)
from vdi.api.template import VDITemplate
from vdi.cluster.units import (
    ALLOWED_DURATIONS,
    format_duration,
    format_time,
    parse_duration,
    parse_time,
)
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import HOME_BOUND, Reason
from vdi.session.effective import Blocked, resized, resolve, size_of
from vdi.session.homes import may_use, retained_claim
from vdi.session.lifetime import as_time, run_length
from vdi.session.naming import RESTARTED_AT
from vdi.session.request import Amount, Length
from vdi.session.resize import find_excess
from vdi.session.schedule import find_session_problem
from vdi.session.template_image import refuse_view_only
from vdi.session.users import AddressError, check_address, normal_user, same_user

_LONGEST_NOTICE = timedelta(hours=24)
_SHOWN_CHARACTERS = 100  # of a refused value: it may be untrusted text of any length
# The command line does not know the operator's settings. The operator applies its own maximum in
# any case.
_UNKNOWN_SETTINGS = ClusterSettings()
# An administrator's request for access lapses after this.
REQUEST_LAPSES = timedelta(minutes=1)
Address = Annotated[str, Meta(max_length=254)]
# A JSON merge patch of a VDISession; empty: there is nothing to change.
Patch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An action that is not possible: a code for programs, a message for people, and the field it
    is about.
    """

    code: Literal["Conflict", "Invalid", "NotFound", "OverLimit", "ViewOnlyUnavailable"]
    message: str
    field: str = ""
    allowed: str = ""
    value: str = ""


class SessionAction(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An action on a session, as data.

    The struct is the body of the REST API's `POST /sessions/{name}/{action}`, its docstring that
    operation's description. The portal's forms, the bar over a desktop and `vdi session` fill in
    the same struct, and the audit keeps its fields.
    """

    # As in addresses and in the audit (`session.extend`); a `vdi.gateway.rights.Action`.
    action: ClassVar[str]


class Suspend(SessionAction):
    """Stop the desktop and free its GPU; home and address are kept."""

    action = "suspend"


class Resume(SessionAction):
    """Start a suspended desktop again: a new run.

    It counts in the limits of the desktop's owner, unless an administrator resumes it.
    """

    action = "resume"


class Restart(SessionAction):
    """Restart the desktop on the same home, for example after it hangs or fails."""

    action = "restart"


class Extend(SessionAction):
    """Set the length of the whole run."""

    action = "extend"

    timeout: Annotated[Length, doc("Length of the whole run, such as 10h.")]


class Resize(SessionAction):
    """Set memory and CPU without a restart; what is omitted stays as it is.

    Until that is done, condition ResizePending says why. Also starts a desktop that waits for GPUs
    with fewer of them.
    """

    action = "resize"

    memory: Annotated[Amount | None, doc("An amount of memory, such as 8Gi.")] = None
    cpu: Annotated[Amount | None, doc("A number of CPUs, such as 2 or 1500m.")] = None
    gpu: Annotated[
        Annotated[int, Meta(ge=0, le=9999)],
        doc("Fewer GPUs, at most `status.queue.availableGPU`; 0: as many as before."),
    ] = 0


class Schedule(SessionSchedule, rename="camel", forbid_unknown_fields=True):
    """Times at which the desktop is resumed and suspended by itself."""


class SetSchedule(SessionAction):
    """Resume the desktop by itself at set times, and suspend it at their end.

    A scheduled desktop counts as running in the limits of its owner. Someone whose hours are
    limited cannot schedule; an administrator can do it for them.
    """

    action = "schedule"

    schedule: Annotated[Schedule | None, doc("The times; null: remove them.")]


class Share(SessionAction):
    """Share the desktop with a guest; replaces an existing share with the same guest."""

    action = "share"

    user: Annotated[Address, doc("The guest's e-mail address.")]
    role: Annotated[GuestRole, doc(GUEST_ROLES)]
    expires: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        doc("When the access ends, such as 2026-12-24T18:00:00Z. Default: when the session ends."),
    ] = None
    length: Annotated[Length | None, doc("In place of `expires`: a duration, such as 8h.")] = None


class Unshare(SessionAction):
    """End a share; the guest is disconnected."""

    action = "unshare"

    user: Annotated[Address, doc("The guest's e-mail address.")]


class AnnouncedEnd(PlannedEnd, rename="camel", forbid_unknown_fields=True):
    """An announced end of the desktop."""


class PlanEnd(SessionAction):
    """Announce in the desktop that it is suspended or deleted, and do so at that time.

    Within the next 24 hours. For administrators.
    """

    action = "plan-end"

    end: Annotated[AnnouncedEnd | None, doc("The end; null: the desktop goes on.")]


class RequestAccess(SessionAction):
    """Ask the owner of a desktop to share it with you, for a time. For administrators and for
    guests with view only.

    The owner answers over the desktop, in the portal or with this API, within a minute; then the
    request lapses.
    """

    action = "request-access"

    role: Annotated[GuestRole, doc(GUEST_ROLES)] = GuestRole.VIEWER
    length: Annotated[str, doc("How long the access lasts if it is allowed: 1m to 8h.")] = "30m"


class AnswerAccess(SessionAction):
    """Allow or refuse an administrator's request for access to your desktop.

    Requires the login cookie: an API token does not consent.
    """

    action = "answer-access"

    request: Annotated[str, doc("`expires` of the request, as in `spec.accessRequest`.")]
    allow: Annotated[bool, doc("true: share the desktop as requested. false: refuse.")]


class Drive(SessionAction):
    """Take over from the programs that drive the desktop, or give back. For people only."""

    action = "drive"

    human: Annotated[bool, doc("true: agents wait until someone gives back. false: give back.")]


class Record(SessionAction):
    """Start or end a recording of a desktop that is recorded on demand."""

    action = "record"

    on: Annotated[bool, doc("true: record from now on. false: end the recording.")]


class End(SessionAction):
    """End the desktop. Its home is kept for the next one of the same template, unless it is of this
    session alone.
    """

    action = "end"

    delete_home: Annotated[bool, doc("true: also delete the home with all files in it.")] = False


# Actions that are one patch of the session, which `decide` makes.
PatchAction = (
    Suspend
    | Resume
    | Restart
    | Extend
    | Resize
    | SetSchedule
    | Share
    | Unshare
    | PlanEnd
    | RequestAccess
    | AnswerAccess
)
AnyAction = PatchAction | Drive | Record | End
ACTIONS: Mapping[str, type[AnyAction]] = {shape.action: shape for shape in get_args(AnyAction)}


def decide(
    session: VDISession,
    template: VDITemplate | None,
    action: PatchAction,
    now: datetime,
    settings: ClusterSettings = _UNKNOWN_SETTINGS,
    *,
    by: str = "",
) -> Patch | Refusal:
    """The patch that carries out the action, or why it is refused.

    `session` as just read from the API server; `template` None: it does not exist; `by`: the user
    who requests access.
    """
    meta = session.metadata
    if meta.deletion_timestamp:
        return Refusal(
            "Conflict", f"The desktop {meta.name!r} is ending and can no longer be changed."
        )
    match action:
        case Suspend():
            change: Patch | Refusal = (
                {} if session.spec.suspended else {"spec": {"suspended": True}}
            )
        case Resume():
            if session.spec.suspended:
                change = {"spec": {"suspended": False}}
            else:
                change = {}
        case Restart():
            change = _restart(session, now)
        case Extend(timeout):
            change = _extend(session, template, timeout, now, settings)
        case Resize():
            change = _resize(session, template, action, settings)
        case SetSchedule(schedule):
            problem = check_schedule(schedule) if schedule else None
            wanted = msgspec.to_builtins(schedule)
            same = wanted == msgspec.to_builtins(session.spec.schedule)
            change = problem or ({} if same else {"spec": {"schedule": wanted}})
        case Share():
            change = _share(session, template, action, now)
        case Unshare(user):
            change = _unshare(session, user)
        case RequestAccess():
            change = _request_access(session, template, action, by, now)
        case AnswerAccess():
            change = _answer_access(session, template, action, now)
        case PlanEnd(end):
            change = _plan_end(session, end, now)
    if isinstance(change, Refusal) or not change:
        return change
    # With its UID in the patch, the API server refuses to change a later session of the same name,
    # about which nothing has been decided.
    return {**change, "metadata": {"uid": meta.uid, **change.get("metadata", {})}}


def lengthen(session: VDISession, template: VDITemplate | None, by: timedelta) -> str:
    """The timeout of a run that lasts longer by this much than it would now, for `Extend`."""
    return format_duration((run_length(session, template, _UNKNOWN_SETTINGS) or timedelta()) + by)


def check_schedule(schedule: SessionSchedule) -> Refusal | None:
    """The refusal of a schedule that cannot be used; also called before its text is written to an
    audit.
    """
    problem = find_session_problem(schedule)
    if problem is None:
        return None
    field, value, allowed = problem[0], problem[1][:_SHOWN_CHARACTERS], problem[2]
    return Refusal(
        "Invalid", f"{field}: {value!r} is not allowed; allowed: {allowed}.", field, allowed, value
    )


def find_home_to_delete(session: VDISession, others: Iterable[VDISession]) -> str | Refusal | None:
    """The claim to delete after the session, when its files are to go too. None: no claim outlives
    the session.

    `others`: all sessions whose home it could be; those of other namespaces are ignored, since a
    claim of the same name there is another home.
    """
    name, namespace = session.metadata.name, session.metadata.namespace
    bound = find_condition(session.status.conditions, HOME_BOUND)
    claim = retained_claim(session)
    if claim is None or (bound and bound.reason == Reason.NO_HOME):
        return None
    for other in others:
        if (
            other.metadata.namespace == namespace
            and other.metadata.name != name
            and may_use(other, claim)
        ):
            return Refusal(
                "Conflict",
                f"The desktops {name!r} and {other.metadata.name!r} share their files, so nothing"
                f" was deleted. End {other.metadata.name!r} first, or keep the files.",
            )
    return claim


def is_expired(access: Access, now: datetime) -> bool:
    """Whether this share has ended. An end that cannot be read is no permission to stay."""
    try:
        return bool(access.expires) and parse_time(access.expires or "") <= now
    except ValueError:
        return True


def pending_request(session: VDISession, now: datetime) -> AccessRequest | None:
    """The request that the owner can answer now."""
    request = session.spec.access_request
    ends = as_time(request.expires) if request else None
    return request if ends and ends > now else None


def drop_expired(
    session: VDISession, now: datetime
) -> tuple[Patch, list[tuple[str, dict[str, str]]]]:
    """A patch without ended shares and a lapsed request, and these as acts with their details."""
    kept = tuple(access for access in session.spec.access if not is_expired(access, now))
    gone = [access.user for access in session.spec.access if access not in kept]
    ended = [("unshare", {"user": user[:254], "reason": "expired"}) for user in gone]
    patch, lapsed = _guests(session, kept), session.spec.access_request
    if lapsed and not pending_request(session, now):
        patch["spec"]["accessRequest"] = None
        ended.append(("answer-access", {"user": lapsed.user[:254], "answer": "lapsed"}))
    patch["metadata"]["uid"] = session.metadata.uid
    return patch, [] if session.metadata.deletion_timestamp else ended


def _request_access(
    session: VDISession,
    template: VDITemplate | None,
    request: RequestAccess,
    user: str,
    now: datetime,
) -> Patch | Refusal:
    length = timedelta()
    if pending := pending_request(session, now):
        return Refusal(
            "Conflict", f"{pending.user} is asking for access to this desktop. Wait for the answer."
        )
    with suppress(ValueError):
        length = parse_duration(request.length)
    if not timedelta(minutes=1) <= length <= timedelta(hours=8):
        allowed, shown = "1m to 8h", request.length[:_SHOWN_CHARACTERS]
        return Refusal(
            "Invalid",
            f"length: {shown!r} is not allowed; allowed: {allowed}.",
            "length",
            allowed,
            shown,
        )
    patch = _share(session, template, Share(user, request.role, now + length), now)
    if not isinstance(patch, Refusal):
        expires = format_time(now + REQUEST_LAPSES)
        asked = AccessRequest(
            normal_user(user), str(request.role), format_duration(length), expires
        )
        # With the resource version: of two requests at once, the later one must not replace what
        # the owner reads.
        patch = _guests(session, session.spec.access) | {
            "spec": {"accessRequest": msgspec.to_builtins(asked)}
        }
    return patch


def _answer_access(
    session: VDISession, template: VDITemplate | None, answer: AnswerAccess, now: datetime
) -> Patch | Refusal:
    pending = pending_request(session, now)
    if pending is None or pending.expires != answer.request:
        return Refusal("Conflict", "This request for access has lapsed or was answered already.")
    patch: Patch | Refusal = _guests(session, session.spec.access)
    if answer.allow:
        ends = now + parse_duration(pending.length)
        patch = _share(session, template, Share(pending.user, GuestRole(pending.role), ends), now)
    if not isinstance(patch, Refusal):
        patch["spec"]["accessRequest"] = None
    return patch


def _restart(session: VDISession, now: datetime) -> Patch | Refusal:
    if session.spec.suspended:
        name = session.metadata.name
        return Refusal(
            "Conflict",
            f"The desktop {name!r} is suspended, so there is nothing to restart. Resume it"
            " instead.",
        )
    return {"metadata": {"annotations": {RESTARTED_AT: format_time(now)}}}


def _extend(
    session: VDISession,
    template: VDITemplate | None,
    timeout: str,
    now: datetime,
    settings: ClusterSettings,
) -> Patch | Refusal:
    try:
        length = parse_duration(timeout)
    except ValueError as why:
        return Refusal("Invalid", f"timeout: {why}.", "timeout", ALLOWED_DURATIONS, timeout)
    extended = msgspec.structs.replace(
        session, spec=msgspec.structs.replace(session.spec, timeout=timeout)
    )
    most = run_length(extended, template, settings) or length
    if most < length:
        allowed = f"at most {format_duration(most)}"
        return Refusal(
            "OverLimit",
            f"timeout: {timeout} is more than {format_duration(most)}, the maximum for template "
            f"{session.spec.template!r}.",
            "timeout", allowed, timeout,
        )  # fmt: skip
    start = None
    if session.status.start_time:
        start = parse_time(session.status.start_time)
    if start and start + length <= now:
        ran = format_duration(now - start)
        return Refusal(
            "Invalid",
            f"timeout: {timeout} is too short, because this run has already lasted {ran}; allowed: more than that. "
            "To stop the desktop, suspend or end it.",
            "timeout", f"more than {ran}", timeout,
        )  # fmt: skip
    return {"spec": {"timeout": timeout}}


def _resize(
    session: VDISession, template: VDITemplate | None, request: Resize, settings: ClusterSettings
) -> Patch | Refusal:
    if template is None:
        return Refusal(
            "Conflict",
            f"The template {session.spec.template!r} cannot be read, so its limits are unknown.",
        )
    # The API server sets defaults of its own beside a resource that is named; the template's are
    # kept.
    present, queue = size_of(session.spec, template.spec.resources), session.status.queue
    if request.gpu and not (
        queue and request.gpu <= queue.available_gpu and request.gpu < present.gpu
    ):
        why = (
            f"no longer starts at once with fewer GPUs ({request.gpu}): they are taken, or it has"
            " started."
        )
        return Refusal("Conflict", f"The desktop {session.metadata.name!r} {why}")
    size = {
        "gpu": request.gpu or present.gpu,
        "memory": request.memory or present.memory,
        "cpu": request.cpu,
    }
    size = {name: value for name, value in size.items() if value}
    changed = resized(session, size)
    problem = resolve(changed, template, settings)
    if isinstance(problem, Blocked) and problem.errors:
        error, is_over = problem.errors[0], problem.reason == Reason.OVER_LIMIT
        field = error.field.removeprefix("spec.resources.")
        return Refusal(
            "OverLimit" if is_over else "Invalid",
            problem.message,
            field,
            error.allowed,
            str(error.value),
        )
    if changed.spec.resources == session.spec.resources:
        return {}
    if excess := find_excess(template, {"memory": request.memory, "cpu": request.cpu}):
        field, value, most = excess
        name = session.spec.template
        why = (
            f"{field}: {value} is more than the {most} of the largest node that can run template"
            f" {name!r}."
        )
        return Refusal("OverLimit", why, field, f"at most {most}", value)
    # Memory is named that may not be asked for. So of two requests at once, the later one is
    # decided again.
    return {
        "metadata": {"resourceVersion": session.metadata.resource_version},
        "spec": {"resources": size},
    }


def _plan_end(session: VDISession, end: PlannedEnd | None, now: datetime) -> Patch | Refusal:
    if end is None:
        if session.spec.planned_end:
            return {"spec": {"plannedEnd": None}}
        return {}
    time = as_time(end.time)
    if time is None or not now < time <= now + _LONGEST_NOTICE:
        allowed = f"a time within the next 24h, such as {format_time(now + _LONGEST_NOTICE)}"
        shown = end.time[:40]
        return Refusal(
            "Invalid",
            f"time: {shown!r} is not allowed; allowed: {allowed}.",
            "time",
            allowed,
            shown,
        )
    # A merge patch keeps what it does not name: the message of an earlier plan.
    plan = {"time": format_time(time), "action": str(end.action), "message": end.message or None}
    return {"spec": {"plannedEnd": plan}}


def _share(
    session: VDISession, template: VDITemplate | None, request: Share, now: datetime
) -> Patch | Refusal:
    if request.role not in FULL_CONTROL and (why := refuse_view_only(template)):
        return Refusal("ViewOnlyUnavailable", why, "role", GuestRole.COLLABORATOR, request.role)
    try:
        guest = check_address(request.user)
    except AddressError as error:
        return Refusal("Invalid", f"user: {error}.", "user", error.allowed, error.shown)
    if same_user(session.spec.user, guest):
        return Refusal("Invalid", f"user: {guest} owns this desktop and cannot be its guest.")
    ends = request.expires
    if request.length:
        if ends:
            why = "length: a share has a length or an end, not both."
            return Refusal("Invalid", why, "length", "no length beside `expires`", request.length)
        try:
            ends = now + parse_duration(request.length)
        except ValueError as error:
            allowed = ALLOWED_DURATIONS
            return Refusal("Invalid", f"length: {error}.", "length", allowed, request.length)
    expires = format_time(ends) if ends else None
    # Stored in whole seconds: an end within this second would be over when it is stored.
    if ends and ends <= now + timedelta(seconds=1):
        allowed = "a time in the future, or none"
        return Refusal(
            "Invalid",
            f"expires: {expires} is in the past; allowed: {allowed}.",
            "expires",
            allowed,
            expires or "",
        )
    # Ended shares would count in the maximum.
    others = tuple(
        access
        for access in session.spec.access
        if not same_user(access.user, guest) and not is_expired(access, now)
    )
    if len(others) >= MAX_GUESTS:
        return Refusal(
            "OverLimit",
            f"A desktop can be shared with at most {MAX_GUESTS} users. End one of these shares"
            " first.",
        )
    return _guests(session, (*others, Access(guest, str(request.role), expires)))


def _unshare(session: VDISession, user: str) -> Patch | Refusal:
    # Any text is accepted: an entry from before a rule for addresses must be removable.
    left = tuple(access for access in session.spec.access if not same_user(access.user, user))
    if len(left) == len(session.spec.access):
        guests = ", ".join(access.user for access in left) or "no one"
        return Refusal(
            "NotFound",
            f"This desktop is not shared with {normal_user(user)}. It is shared with {guests}.",
        )
    return _guests(session, left)


def _guests(session: VDISession, guests: tuple[Access, ...]) -> Patch:
    # A merge patch replaces the whole list, so two edits at once would lose one of them. With the
    # resource version in the patch the API server refuses the later one (409), and its caller reads
    # the session and decides again.
    version = session.metadata.resource_version
    return {
        "metadata": {"resourceVersion": version},
        "spec": {"access": msgspec.to_builtins(guests)},
    }
