"""Pools: the desktops that a pool starts in advance, which sessions they fit, and the pool's
status. Pure.

    pool + template -> the desktop that it keeps ready, or why it cannot
    its pods, their nodes, the time -> PoolPlan(make, remove, ...)
    session's desktop == pool's desktop? -> the session takes a ready one, as it is

A desktop fits every session that would get a pod with the same spec. So an edit of the template
that changes nothing in the pod (its display name) wastes none, and what another operator version
would build differently is replaced. A home cannot be attached to a desktop that runs already.
"""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.api.pool import PoolStatus, VDIPool
from vdi.api.session import SessionSpec, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.explain import StartState, explain, find_idmap_error
from vdi.cluster.objects import Node, Pod
from vdi.cluster.units import format_time, parse_time, pause_after
from vdi.session.children import build_spec
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import READY, Reason, renew_condition
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.naming import POOL, SESSION_LABEL, derive_base
from vdi.session.schedule import find_problems, is_open, next_change
from vdi.session.volumes import depend_on_user

# Annotation of a pool's pod: fingerprint of the desktop that it was made from.
FITS = "vdi.kasm.io/pool-desktop"
# A started desktop that has not responded for so long is replaced. By then the kubelet has
# restarted it as well.
UNANSWERING = timedelta(seconds=90)
# A pod for which the scheduler has found no node for so long is deleted, although the queue had
# found capacity.
UNSCHEDULABLE = timedelta(seconds=15)
# A node that is unknown counts as gone only for pods older than this: it may be as new as the pod.
UNKNOWN_NODE = timedelta(seconds=60)
_CRASHES = 3
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=5)


class PoolReason(StrEnum):
    """Reasons of a pool's condition Ready, beside those of `session.conditions.Reason`."""

    FULL = "Full"
    FILLING = "Filling"
    DESKTOPS_FAIL = "DesktopsFail"
    TEMPLATE_HAS_HOME = "TemplateHasHome"
    TEMPLATE_HAS_USER_VOLUMES = "TemplateHasUserVolumes"
    INVALID_SCHEDULE = "InvalidSchedule"
    OUTSIDE_SCHEDULE = "OutsideSchedule"


FindNode = Callable[[str], Node | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A desktop that waits for a session and has to be replaced."""

    pod: Pod
    words: str
    # The desktop itself does not work. The next one, created at once, would not work either.
    of_desktop: bool = True


@dataclass(frozen=True, slots=True)
class PoolPlan:
    # Number of desktops to start, if there is capacity.
    make: int = 0
    # Surplus, or outdated.
    remove: tuple[Pod, ...] = ()
    # Removed as well.
    faults: tuple[Fault, ...] = ()
    ready: tuple[Pod, ...] = ()
    starting: tuple[Pod, ...] = ()
    # Made from an earlier template. Kept until new ones are ready; the first to go when those lack
    # capacity.
    outdated: tuple[Pod, ...] = ()
    # Time until the next timeout of one of them.
    look_again: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pause after desktops that failed in a row. It starts again with another desktop."""

    count: int = 0
    until: datetime | None = None
    why: str = ""

    def after(self, fault: str, now: datetime) -> "Backoff":
        """The pause after one more failure."""
        count = self.count + 1
        return Backoff(count, now + pause_after(count, _FIRST_PAUSE, _LONGEST_PAUSE), fault)

    def left(self, now: datetime) -> timedelta | None:
        """The remaining time; None when the pause is over."""
        if self.until and self.until > now:
            return self.until - now
        return None


def pool_desktop(
    pool: VDIPool, template: VDITemplate | None, settings: ClusterSettings
) -> Desktop | Blocked:
    """The desktop that the pool keeps ready: that of a session which requests nothing but the
    template.
    """
    name = pool.spec.template
    if pool.spec.schedule and (problems := list(find_problems(pool.spec.schedule))):
        return Blocked(PoolReason.INVALID_SCHEDULE, "; ".join(problems) + ".", needs_change=True)
    if template is None:
        message = f"There is no template {name!r}. The pool starts its desktops when it is created."
        return Blocked(Reason.TEMPLATE_NOT_FOUND, message)
    if template.spec.persistence.enabled:
        message = (
            f"Desktops of the template {name!r} have a home volume, which cannot be attached to a"
            " running desktop. Set spec.persistence.enabled: false in the template, or use"
            " spec.prePull there instead of a pool."
        )
        return Blocked(PoolReason.TEMPLATE_HAS_HOME, message, needs_change=True)
    if depend_on_user(template.spec):
        message = (
            f"Desktops of the template {name!r} have volumes of their user or group, which cannot"
            " be attached to a desktop that runs already. Remove groups and {user} from"
            " spec.volumes of the template, or use spec.prePull there instead of a pool."
        )
        return Blocked(PoolReason.TEMPLATE_HAS_USER_VOLUMES, message, needs_change=True)
    plain = VDISession(
        ObjectMeta(pool.metadata.name), SessionSpec(user="pool@vdi.localhost", template=name)
    )
    return resolve(plain, template, settings)


def desired_ready(pool: VDIPool, now: datetime) -> int:
    """The number of desktops to keep ready now: none outside the pool's schedule, or if that cannot
    be read.
    """
    schedule = pool.spec.schedule
    if schedule is None or is_open(schedule, now):
        return pool.spec.replicas
    return 0


def fingerprint(template: str, desktop: Desktop, settings: ClusterSettings, key: bytes) -> str:
    """Equal for two desktops that can replace each other. The key is part of it: their tokens come
    from it, too.

    The time zone is no part of it: almost every session has one, and a desktop at once is worth
    more.
    """
    spec = build_spec(replace(desktop, time_zone=""), "", settings.agent_port)
    parts = msgspec.json.encode(
        (template, spec, desktop.pod_template.metadata), order="deterministic"
    )
    return hmac.digest(key, parts, "sha256").hex()[:16]


def pool_of(pod: Pod) -> str | None:
    """The name of the pool that created this pod, also after a session has taken it."""
    return pod.metadata.annotations.get(POOL)


def maker_uid(pod: Pod) -> str | None:
    """The uid of the pool that still has this pod."""
    return next(
        (owner.uid for owner in pod.metadata.owner_references if owner.kind == "VDIPool"), None
    )


def is_waiting(pod: Pod) -> bool:
    """Whether no session has claimed this desktop of a pool yet."""
    return maker_uid(pod) is not None


def takes_desktops(node: Node | None) -> bool:
    """Whether a session may be given a desktop there: a cordoned node is about to be drained."""
    return node is not None and node.ready and not node.spec.unschedulable


def can_serve(pod: Pod, desired: str, find_node: FindNode) -> bool:
    """Whether this desktop can be given to a session whose desktop has the fingerprint
    `desired`.
    """
    fits = is_waiting(pod) and pod.ready and pod.metadata.annotations.get(FITS) == desired
    return fits and takes_desktops(find_node(pod.spec.node_name))


def explain_unserved(
    desktop: Desktop, pool: str, offered: Desktop, *, has_password: bool
) -> str | None:
    """The reason why a pool of the session's template cannot serve it, however many desktops are
    ready, or None.

    `has_password`: the session has had a desktop before, whose password it keeps.
    """
    if has_password:
        return (
            f"A new desktop is started: desktops of the pool {pool!r} already run, each with its"
            " own password, and this session keeps its first password."
        )
    if desktop.home:
        return (
            f"A new desktop is started: desktops of the pool {pool!r} already run, and a home"
            " volume cannot be attached to them. A session with spec.persistence.enabled: false"
            " gets one immediately."
        )
    names = []
    for one in fields(Desktop):
        if one.name not in ("home", "template_revision", "time_zone"):
            names.append(one.name)
    differing = []
    for name in names:
        if getattr(desktop, name) != getattr(offered, name):
            differing.append(name)
    if not differing:
        return None
    asked = ", ".join(
        f"{name} {getattr(desktop, name)} instead of {getattr(offered, name)}" for name in differing
    )
    return (
        "A new desktop is started: the session requests other settings than the desktops of pool"
        f" {pool!r} have ({asked}). Without spec.resources it gets one immediately."
    )


def plan(
    desired: int, fits: str | None, pods: Iterable[Pod], find_node: FindNode, now: datetime
) -> PoolPlan:
    """The step towards `desired` ready desktops with the fingerprint `fits` (None: the pool can
    have none).

    `pods`: the unclaimed ones of this pool.
    """
    live = [pod for pod in pods if not pod.metadata.deletion_timestamp]
    if fits is None:
        return PoolPlan(remove=tuple(live))
    ready: list[Pod] = []
    starting: list[Pod] = []
    old: list[Pod] = []
    faults: list[Fault] = []
    timeouts: list[timedelta] = []
    for pod in sorted(live, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name)):
        patience = _patience(pod, now)
        if fault := _fault(pod, find_node, patience, now):
            faults.append(fault)
        elif pod.metadata.annotations.get(FITS) != fits:
            old.append(pod)
        else:
            (ready if pod.ready else starting).append(pod)
        if patience and patience > timedelta():
            timeouts.append(patience)
    fresh = ready + starting
    kept, surplus = fresh[:desired], fresh[desired:]
    ready = [pod for pod in kept if pod.ready]
    # A rolling update with a surge of a quarter, as in a Deployment. Outdated desktops stay until
    # as many new ones are ready: if the new ones never become ready, sessions still get a desktop,
    # and undoing the edit saves the rest.
    most = desired + max(1, ceil(desired / 4))
    outdated = [pod for pod in old if pod.ready][
        : max(0, min(desired - len(ready), most - len(kept)))
    ]
    surplus += [pod for pod in old if pod not in outdated]
    return PoolPlan(
        make=max(0, min(desired - len(kept), most - len(kept) - len(outdated))),
        remove=tuple(surplus),
        faults=tuple(faults),
        ready=tuple(ready),
        starting=tuple(pod for pod in kept if not pod.ready),
        outdated=tuple(outdated),
        look_again=min(timeouts, default=None),
    )


def _fault(
    pod: Pod, find_node: FindNode, patience: timedelta | None, now: datetime
) -> Fault | None:
    name, node_name = pod.metadata.name, pod.spec.node_name
    node = find_node(node_name)
    if node_name and not takes_desktops(node) and not (node is None and _is_new(pod, now)):
        if node is None:
            state = "is gone"
        elif node.ready:
            state = "accepts no new desktops"
        else:
            state = "does not respond"
        return Fault(pod, f"The node {node_name} of the desktop {name} {state}.", of_desktop=False)
    if pod.status.phase in ("Failed", "Succeeded"):
        return Fault(
            pod, f"The desktop {name} has ended ({pod.status.reason or pod.status.phase})."
        )
    if find_idmap_error(pod):
        return Fault(pod, explain(StartState(pod)).sentence, of_desktop=False)
    desktop = pod.desktop
    if desktop and not pod.ready and desktop.restart_count >= _CRASHES:
        return Fault(
            pod,
            f"The desktop {name} was restarted {desktop.restart_count} times."
            f" {explain(StartState(pod)).sentence}",
        )
    if patience == timedelta() and node_name:
        return Fault(
            pod, f"The desktop {name} has not responded for {UNANSWERING.total_seconds():.0f} s."
        )
    if patience == timedelta():
        return Fault(pod, explain(StartState(pod)).sentence)
    return None


def _is_new(pod: Pod, now: datetime) -> bool:
    """Whether its node may be unknown only because it is as new as the pod."""
    return parse_time(pod.metadata.creation_timestamp) + UNKNOWN_NODE > now


def _patience(pod: Pod, now: datetime) -> timedelta | None:
    """The time until a desktop that makes no progress is replaced, at least zero; None: nothing is
    overdue.
    """
    if pod.ready or pod.gated:
        return None
    scheduled, ready, desktop = pod.condition("PodScheduled"), pod.condition("Ready"), pod.desktop
    if scheduled and scheduled.status == "False":
        since, limit = pod.metadata.creation_timestamp, UNSCHEDULABLE
    elif desktop and desktop.state.running and desktop.state.running.started_at:
        seen = ready.last_transition_time if ready else ""
        since, limit = max(desktop.state.running.started_at, seen), UNANSWERING
    else:
        return None
    return max(timedelta(), parse_time(since) + limit - now)


@dataclass(frozen=True, slots=True)
class Obstacles:
    """The reasons why a pool does not have all its desktops."""

    # The pool can have no desktop at all.
    impossible: Blocked | None = None
    # There is no capacity for another one, or the API server refuses it.
    blocked: Blocked | None = None
    pause: Backoff = field(default_factory=Backoff)
    # A sentence about the first starting desktop that makes no progress.
    slow: str = ""


def summarise(
    pool: VDIPool, plan: PoolPlan, claimed: int, obstacles: Obstacles, now: datetime
) -> PoolStatus:
    """The status of a pool. `claimed`: running sessions whose desktop came from it."""
    reason, message = _summary(pool, plan, obstacles, now)
    holds = reason in (PoolReason.FULL, PoolReason.OUTSIDE_SCHEDULE)
    generation = pool.metadata.generation
    ready = renew_condition(
        pool.status.conditions, READY, holds, reason, message, now, generation=generation
    )
    return PoolStatus(
        ready=len(plan.ready),
        starting=len(plan.starting),
        claimed=claimed,
        message=message,
        selector=f"{POOL}={derive_base(pool.metadata.name)},!{SESSION_LABEL}",
        observed_generation=generation,
        conditions=(ready,),
    )


def _summary(pool: VDIPool, plan: PoolPlan, obstacles: Obstacles, now: datetime) -> tuple[str, str]:
    """Reason of the condition, and the sentence."""
    if obstacles.impossible:
        return obstacles.impossible.reason, obstacles.impossible.message
    ready, desired = len(plan.ready), desired_ready(pool, now)
    if desired == 0 < pool.spec.replicas and pool.spec.schedule:
        opens = next_change(pool.spec.schedule, now)
        again = "The schedule has no further start."
        if opens:
            again = f"The next ones are started at {format_time(opens)}."
        return (
            PoolReason.OUTSIDE_SCHEDULE,
            f"No desktops are kept ready now: it is outside the pool's schedule. {again}",
        )
    if ready >= desired:
        return PoolReason.FULL, ""
    count = f"{ready} of {desired} desktops {'is' if ready == 1 else 'are'} ready"
    if obstacles.pause.left(now) and obstacles.pause.until:
        again = format_time(obstacles.pause.until)
        return (
            PoolReason.DESKTOPS_FAIL,
            f"{count}. {obstacles.pause.why} The next one is started at {again}.",
        )
    if obstacles.blocked:
        return obstacles.blocked.reason, f"{count}. {obstacles.blocked.message}"
    on_the_way = "."
    if plan.starting:
        on_the_way = f", {len(plan.starting)} starting."
    return PoolReason.FILLING, f"{count}{on_the_way}{' ' if obstacles.slow else ''}{obstacles.slow}"
