"""Warnings before a desktop ends: an announced end, time limit, working hours, idleness, a drain of
its node. Pure.

And one afterwards: the kernel has killed the desktop, or a program in it, since its memory was used
up.

The operator publishes each warning as a condition that is there only while it holds, as an Event
when it begins, and as a notice inside the desktop.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from vdi.api.meta import find_condition
from vdi.api.schedule import TemplateSchedule
from vdi.api.session import VDISession
from vdi.api.template import IdleAction, TimeoutAction, VDITemplate
from vdi.cluster.explain import was_out_of_memory
from vdi.cluster.units import format_duration, format_time, parse_time
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import (
    CLOSING,
    DRAINING,
    EXPIRING,
    IDLE,
    OUT_OF_MEMORY,
    PLANNED_END,
    RESIZE_PENDING,
    SIZE_WAITS,
    WARNING_TYPES,
    Reason,
)
from vdi.session.decide import Observed
from vdi.session.lifetime import (
    LONGEST_WARNING,
    Idle,
    as_time,
    evaluate_idle,
    expires_at,
    idle_action,
    idle_timeout,
    is_capped,
    planned_at,
    run_length,
    started_at,
    timeout_action,
    warned_at,
    warning_time,
)
from vdi.session.schedule import Closing, find_closing, working_hours

WARNING_TITLES = {
    # No verb: the message says whether the desktop ends or is suspended.
    PLANNED_END: "Announced by an administrator",
    EXPIRING: "The time limit is near",
    CLOSING: "Working hours end soon",
    IDLE: "This desktop is idle",
    DRAINING: "This desktop will move",
    RESIZE_PENDING: "The new size is not applied yet",
    OUT_OF_MEMORY: "This desktop ran out of memory",
}
# A desktop that ran out of memory says so for this long: its user may be away.
MEMORY_KILL_SHOWN = timedelta(hours=1)
# Software agents learn of a time limit or a planned end this long before.
_ANNOUNCED_BEFORE = timedelta(minutes=15)
_END_CAUSES = {
    PLANNED_END: "an administrator has planned this",
    EXPIRING: "its time limit is reached",
    CLOSING: "working hours end",
    IDLE: "it is idle; actions prevent this",
}
# A new size that was waited for is announced in the desktop for this long.
_RESIZED_SHOWN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Alert:
    """A warning of something that is about to happen."""

    # Type of the condition.
    type: str
    reason: str
    message: str
    # RFC 3339; empty if that is not known.
    until: str = ""
    # Whether input prevents it.
    until_input: bool = False
    # A condition that is older than this announced another end: its transition time moves.
    begins: datetime | None = None


def find_alerts(observed: Observed, settings: ClusterSettings, now: datetime) -> tuple[Alert, ...]:
    """All alerts that hold for a desktop that runs."""
    if observed.pod is None or observed.pod.terminating or observed.session.spec.suspended:
        return ()
    alerts = (
        _planned_end(observed.session),
        _expiring(observed, settings, now),
        _closing(observed, now),
        _idle(observed, now),
        _draining(observed, settings, now),
        find_memory_kill(observed, now),
    )
    return tuple(alert for alert in alerts if alert)


def find_idle(observed: Observed, now: datetime) -> Idle | None:
    """The idle state of a desktop; None: it is not running, has no idle timeout, or its agent does
    not respond.
    """
    session = observed.session
    timeout = idle_timeout(session, observed.template)
    started = started_at(session, observed.pod)
    if timeout is None or started is None or observed.pod is None or not observed.pod.ready:
        return None
    since = _since(observed.session, IDLE)
    return evaluate_idle(
        started=started, activity=observed.activity, timeout=timeout, warned_at=since, now=now
    )


def closing_of(observed: Observed, now: datetime) -> Closing | None:
    """The first end of working hours, of the template or of the session's own schedule; None: there
    is none.
    """
    session = observed.session
    schedules = schedules_of(session, observed.template)
    started = started_at(session, observed.pod)
    if not schedules or started is None or observed.pod is None:
        return None
    known = session.status.last_activity_time
    closings = (
        find_closing(
            schedule,
            started=started,
            activity=observed.activity,
            last_known_activity=parse_time(known) if known else None,
            warned_at=_since(observed.session, CLOSING),
            now=now,
        )
        for schedule in schedules
    )
    return min(
        (closing for closing in closings if closing),
        key=lambda closing: closing.over_at,
        default=None,
    )


def schedules_of(session: VDISession, template: VDITemplate | None) -> list[TemplateSchedule]:
    """Working hours of the desktop: those of its template, and its own."""
    own = None
    if session.spec.schedule:
        own = working_hours(session.spec.schedule)
    return [
        schedule for schedule in (template.spec.schedule if template else None, own) if schedule
    ]


def evictable_at(observed: Observed, settings: ClusterSettings) -> datetime | None:
    """The time from which a drain may evict the desktop; None while its node is not being
    drained.
    """
    if observed.node is None or not observed.node.spec.unschedulable:
        return None
    since = _since(observed.session, DRAINING)
    return since + settings.drain_notice if since else None


def _planned_end(session: VDISession) -> Alert | None:
    planned, end = session.spec.planned_end, planned_at(session)
    if planned is None or end is None:
        return None
    message = (
        f"An administrator has set this: the desktop {describe_end(planned.action)} at"
        f" {clock_time(end)}."
    )
    return Alert(
        PLANNED_END, Reason.END_PLANNED, f"{message} {planned.message}".rstrip(), format_time(end)
    )


def _expiring(observed: Observed, settings: ClusterSettings, now: datetime) -> Alert | None:
    session, template, pod = observed.session, observed.template, observed.pod
    begins = warned_at(session, template, pod, settings)
    end = expires_at(session, template, pod, settings)
    length = run_length(session, template, settings)
    if begins is None or end is None or length is None or now < begins:
        return None
    what = describe_end(timeout_action(session, template))
    if is_capped(session, template, settings):
        longer = ""
    else:
        longer = "; a longer spec.timeout extends it"
    message = f"After {format_duration(length)} this desktop {what} at {clock_time(end)}{longer}."
    return Alert(EXPIRING, Reason.EXPIRING_SOON, message, format_time(end))


def _closing(observed: Observed, now: datetime) -> Alert | None:
    closing = closing_of(observed, now)
    if closing is None or not closing.is_warned(now):
        return None
    cancels = closing.can_cancel
    unless = " unless someone uses mouse or keyboard" if cancels else ""
    message = (
        f"Working hours end: this desktop is suspended at {clock_time(closing.over_at)}{unless}."
    )
    return Alert(
        CLOSING,
        Reason.CLOSING_SOON,
        message,
        format_time(closing.over_at),
        cancels,
        closing.warn_at,
    )


def _idle(observed: Observed, now: datetime) -> Alert | None:
    idle = find_idle(observed, now)
    if idle is None or not idle.warned(now):
        return None
    what = describe_end(idle_action(observed.session, observed.template))
    message = (
        f"This desktop has been idle since {clock_time(idle.last_use)}; it {what} at"
        f" {clock_time(idle.over_at)} unless someone uses mouse or keyboard."
    )
    # A warning from before the last use announced another end, which that use prevented.
    return Alert(
        IDLE,
        Reason.IDLE,
        message,
        format_time(idle.over_at),
        until_input=True,
        begins=idle.last_use,
    )


def describe_end(action: TimeoutAction | IdleAction) -> str:
    """The end of a run as a verb: the desktop "is suspended" or "ends"."""
    match action:
        case TimeoutAction.SUSPEND | IdleAction.SUSPEND:
            return "is suspended"
        case TimeoutAction.TERMINATE | IdleAction.TERMINATE:
            return "ends"


def _draining(observed: Observed, settings: ClusterSettings, now: datetime) -> Alert | None:
    node = observed.node
    if node is None or not node.spec.unschedulable:
        return None
    free_from = (_since(observed.session, DRAINING) or now) + settings.drain_notice
    if observed.pod and observed.pod.home_claim:
        keeps = "The files in the home are kept"
    else:
        keeps = "Save your work"
    message = (
        f"Node {node.metadata.name} is being taken out of service: from {clock_time(free_from)} on"
        f" this desktop may be stopped and started again on another node. {keeps}."
    )
    return Alert(DRAINING, Reason.NODE_CORDONED, message, format_time(free_from))


def find_memory_kill(observed: Observed, now: datetime) -> Alert | None:
    """The alert after the kernel has killed the desktop, or a program in it, because its memory was
    used up.
    """
    killed = _desktop_killed_at(observed)
    if killed and now < killed + MEMORY_KILL_SHOWN:
        what = "it was stopped and started again"
        return _memory_kill(Reason.DESKTOP_KILLED, what, killed, killed + MEMORY_KILL_SHOWN)
    # While one kill is shown, later ones are not: whatever a desktop reports, it costs one status
    # an hour.
    shown = find_condition(observed.session.status.conditions, OUT_OF_MEMORY)
    since = _since(observed.session, OUT_OF_MEMORY)
    if (
        shown
        and since
        and shown.reason == Reason.PROGRAM_KILLED
        and now < since + MEMORY_KILL_SHOWN
    ):
        return Alert(
            OUT_OF_MEMORY, shown.reason, shown.message, format_time(since + MEMORY_KILL_SHOWN)
        )
    killed = observed.activity.memory_kill if observed.activity else None
    if killed is None or now >= killed + MEMORY_KILL_SHOWN:
        return None
    what = "a program in it was ended without a warning"
    return replace(
        _memory_kill(Reason.PROGRAM_KILLED, what, killed, now + MEMORY_KILL_SHOWN), begins=now
    )


def _desktop_killed_at(observed: Observed) -> datetime | None:
    """When the last container of the pod that ended was killed for want of memory; None: it was
    not.
    """
    desktop = observed.pod.desktop if observed.pod else None
    ended = None
    if desktop:
        ended = desktop.state.terminated or desktop.last_state.terminated
    if ended and was_out_of_memory(ended):
        return as_time(ended.finished_at or "")
    return None


def _memory_kill(reason: Reason, what: str, killed: datetime, until: datetime) -> Alert:
    advice = "Close programs that you do not need, or give it more memory."
    message = f"The desktop used up its memory at {clock_time(killed)}: {what}. {advice}"
    return Alert(OUT_OF_MEMORY, reason, message, format_time(until))


def _since(session: VDISession, kind: str) -> datetime | None:
    """The time since when this warning is shown."""
    up = find_condition(session.status.conditions, kind)
    if up and up.status == "True" and up.last_transition_time:
        return parse_time(up.last_transition_time)
    return None


@dataclass(frozen=True, slots=True)
class AnnouncedEnd:
    """The next end of a run, which the gateway announces to software agents that act in it."""

    at: datetime
    # Type of the condition that warns of it.
    type: str

    @property
    def message(self) -> str:
        """One sentence for a model."""
        return f"This desktop stops at {clock_time(self.at)}: {_END_CAUSES[self.type]}."


def announced_end(
    session: VDISession, template: VDITemplate | None, now: datetime
) -> AnnouncedEnd | None:
    """The first end that is near or that a condition warns of; None: there is none. From the status
    alone: the gateway does not have the reports of desktops.
    """
    ends = []
    end, planned = as_time(session.status.expires_at), planned_at(session)
    if end and end <= now + _ANNOUNCED_BEFORE:
        ends.append(AnnouncedEnd(end, PLANNED_END if planned and planned <= end else EXPIRING))
    # These ends follow their warnings by as much as `evaluate_idle` and `find_closing` say.
    timeout, warned = idle_timeout(session, template), _since(session, IDLE)
    if timeout and warned:
        ends.append(AnnouncedEnd(warned + warning_time(timeout), IDLE))
    started, warned = as_time(session.status.start_time), _since(session, CLOSING)
    if started and warned:
        ends.append(AnnouncedEnd(warned + min(LONGEST_WARNING, warned - started), CLOSING))
    return min(ends, key=lambda end: end.at, default=None)


def clock_time(moment: datetime) -> str:
    """`16:05 UTC`: for people, who read it on the same day."""
    return f"{moment:%H:%M} UTC"


@dataclass(frozen=True, slots=True)
class Notice:
    """A message shown in the desktop. One with the same `id` replaces it; an empty `text` withdraws
    it.
    """

    id: str
    title: str = ""
    text: str = ""
    # RFC 3339; empty: until it is withdrawn.
    until: str = ""
    # Whether it disappears at the next input.
    until_input: bool = False


def find_notices(before: VDISession, alerts: Sequence[Alert], now: datetime) -> list[Notice]:
    """The notices to show now, and an empty one for each warning that no longer holds."""
    shown = [
        Notice(
            alert.type, WARNING_TITLES[alert.type], alert.message, alert.until, alert.until_input
        )
        for alert in alerts
        if alert.reason != Reason.PROGRAM_KILLED  # the agent in the desktop has said so at once
    ]
    was = set()
    for condition in before.status.conditions:
        if condition.type in WARNING_TYPES:
            was.add(condition.type)
    over = [Notice(kind) for kind in sorted(was - {alert.type for alert in alerts})]
    # A size that waited is applied without anyone's doing: by the node, when programs use less
    # memory, for example.
    waited, size = find_condition(before.status.conditions, RESIZE_PENDING), before.spec.resources
    is_same = before.status.observed_generation == before.metadata.generation
    if (
        waited
        and waited.reason in SIZE_WAITS
        and is_same
        and size
        and Notice(RESIZE_PENDING) in over
    ):
        over.remove(Notice(RESIZE_PENDING))
        until = format_time(now + _RESIZED_SHOWN)
        text = f"This desktop has {size.memory} of memory now."
        shown.append(Notice(RESIZE_PENDING, "The new size is applied", text, until))
    return shown + over
