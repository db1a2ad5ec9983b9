"""Pools: the desktops that a pool starts in advance, which sessions they fit, and the pool's status. Pure.

    pool + template -> the desktop that it keeps ready, or why it cannot
    its pods, their nodes, the time -> PoolPlan(make, remove, ...)
    session's desktop == pool's desktop? -> the session takes a ready one, as it is

A desktop fits every session that would get a pod with the same spec. So an edit of the template that changes nothing in
the pod (its display name) wastes none, and what another operator version would build differently is replaced. A home
cannot be attached to a desktop that runs already.
"""

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from enum import StrEnum
from math import ceil

import msgspec

from vdi.api.meta import Condition, ObjectMeta
from vdi.api.pool import PoolStatus, VDIPool
from vdi.api.session import SessionSpec, VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.explain import StartState, explain
from vdi.cluster.objects import Node, Pod
from vdi.cluster.units import format_time, parse_time
from vdi.session.children import build_spec
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import READY, Reason
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.naming import POOL, SESSION_LABEL, derive_base
from vdi.session.schedule import find_problems, is_open, next_change
from vdi.session.volumes import depend_on_user

# Annotation of a pool's pod: fingerprint of the desktop that it was made from.
FITS = "vdi.kasm.io/pool-desktop"


class PoolReason(StrEnum):
    """Reasons of a pool's condition Ready, beside those of `session.conditions.Reason`."""

    FULL = "Full"
    FILLING = "Filling"
    DESKTOPS_FAIL = "DesktopsFail"
    TEMPLATE_HAS_HOME = "TemplateHasHome"
    TEMPLATE_HAS_USER_VOLUMES = "TemplateHasUserVolumes"
    INVALID_SCHEDULE = "InvalidSchedule"
    OUTSIDE_SCHEDULE = "OutsideSchedule"


# How long a started desktop may not answer until it is replaced; by then the kubelet has restarted it as well.
UNANSWERING = timedelta(seconds=90)

# How long the scheduler may find no node, although there was room, until the pod is taken back.
UNSCHEDULABLE = timedelta(seconds=15)
# Age of a pod from which on its node, if nothing is known of it, is gone and not only new.
UNKNOWN_NODE = timedelta(seconds=60)
_CRASHES = 3
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=5)

FindNode = Callable[[str], Node | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a waiting desktop is to be replaced."""

    pod: Pod
    words: str
    # The desktop itself does not work: the next one, made at once, would not either.
    of_desktop: bool = True


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What is to be done for a pool now."""

    # How many desktops to start, room permitting.
    make: int = 0
    # Surplus, or made from what the template was before.
    remove: tuple[Pod, ...] = ()
    # To be removed too.
    faults: tuple[Fault, ...] = ()
    ready: tuple[Pod, ...] = ()
    starting: tuple[Pod, ...] = ()
    # Kept until new ones are ready; the first to go when there is no room for those.
    outdated: tuple[Pod, ...] = ()
    # When patience with one of them ends.
    look_again: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long no desktop is made after some have failed in a row. Starts again with another desktop."""

    count: int = 0
    until: datetime | None = None
    why: str = ""

    def after(self, fault: str, now: datetime) -> "Backoff":
        """The pause after one more failure."""
        length = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self.count, 16))
        return Backoff(self.count + 1, now + length, fault)

    def left(self, now: datetime) -> timedelta | None:
        """How much of it is left; None when it is over."""
        return self.until - now if self.until and self.until > now else None


def pool_desktop(pool: VDIPool, template: VDITemplate | None, settings: ClusterSettings) -> Desktop | Blocked:
    """What the pool keeps ready: the desktop of a session that asks for nothing but the template."""
    name = pool.spec.template
    if pool.spec.schedule and (problems := list(find_problems(pool.spec.schedule, "spec.schedule"))):
        return Blocked(PoolReason.INVALID_SCHEDULE, "; ".join(problems) + ".", needs_change=True)
    if template is None:
        words = f"There is no template {name!r}. The pool starts its desktops when it is created."
        return Blocked(Reason.TEMPLATE_NOT_FOUND, words)
    if template.spec.persistence.enabled:
        words = (
            f"Desktops of the template {name!r} have a home volume, which cannot be attached to a running desktop. "
            "Set spec.persistence.enabled: false in the template, or use spec.prePull there instead of a pool."
        )
        return Blocked(PoolReason.TEMPLATE_HAS_HOME, words, needs_change=True)
    if depend_on_user(template.spec):
        words = (
            f"Desktops of the template {name!r} have volumes of their user or group, which cannot be attached to a "
            "desktop that runs already. Remove groups and {user} from spec.volumes of the template, or use "
            "spec.prePull there instead of a pool."
        )
        return Blocked(PoolReason.TEMPLATE_HAS_USER_VOLUMES, words, needs_change=True)
    plain = VDISession(ObjectMeta(pool.metadata.name), SessionSpec(user="pool@vdi.localhost", template=name))
    return resolve(plain, template, settings)


def desired_ready(pool: VDIPool, now: datetime) -> int:
    """How many desktops are to be ready now: none outside the pool's schedule, or with one that cannot be read."""
    schedule = pool.spec.schedule
    return pool.spec.replicas if schedule is None or is_open(schedule, now) else 0


def fingerprint(template: str, desktop: Desktop, settings: ClusterSettings, key: bytes) -> str:
    """Equal for two desktops of which one can take the other's place: with tokens of the same key, too."""
    spec = build_spec(desktop, "", settings.agent_port)
    parts = msgspec.json.encode((template, spec, desktop.pod_template.metadata), order="deterministic")
    return hmac.digest(key, parts, "sha256").hex()[:16]


def pool_of(pod: Pod) -> str | None:
    """The name of the pool that made this pod, whoever has it now."""
    return pod.metadata.annotations.get(POOL)


def maker_uid(pod: Pod) -> str | None:
    """The uid of the pool that still has this pod."""
    return next((owner.uid for owner in pod.metadata.owner_references if owner.kind == "VDIPool"), None)


def is_waiting(pod: Pod) -> bool:
    """Whether no session has claimed this desktop of a pool yet."""
    return maker_uid(pod) is not None


def takes_desktops(node: Node | None) -> bool:
    """Whether somebody may be given a desktop there: one that is about to be drained has no future."""
    return node is not None and node.ready and not node.spec.unschedulable


def can_serve(pod: Pod, desired: str, find_node: FindNode) -> bool:
    """Whether this desktop can be given to a session whose desktop has the fingerprint `desired`."""
    fits = is_waiting(pod) and pod.ready and pod.metadata.annotations.get(FITS) == desired
    return fits and takes_desktops(find_node(pod.spec.node_name))


def explain_unserved(desktop: Desktop, pool: str, offered: Desktop, *, has_password: bool) -> str | None:
    """Why a pool of the session's template has nothing for it, however many desktops are ready; None when it has.

    `has_password`: the session has had a desktop before, whose password it keeps.
    """
    if has_password:
        return (
            f"A new desktop is started: desktops of the pool {pool!r} already run, each with its own password, and "
            "this session keeps its first password."
        )
    if desktop.home:
        return (
            f"A new desktop is started: desktops of the pool {pool!r} already run, and a home volume cannot be "
            "attached to them. A session with spec.persistence.enabled: false gets one immediately."
        )
    names = [one.name for one in fields(Desktop) if one.name not in ("home", "template_revision")]
    differing = [name for name in names if getattr(desktop, name) != getattr(offered, name)]
    if not differing:
        return None
    asked = ", ".join(f"{name} {getattr(desktop, name)} instead of {getattr(offered, name)}" for name in differing)
    return (
        f"A new desktop is started: the session requests other settings than the desktops of pool {pool!r} have "
        f"({asked}). Without spec.resources it gets one immediately."
    )


@dataclass(slots=True)
class _Sorted:
    """The live, unclaimed desktops of a pool."""

    ready: list[Pod] = field(default_factory=list)
    starting: list[Pod] = field(default_factory=list)
    outdated: list[Pod] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    look_again: timedelta | None = None


def plan(desired: int, fits: str | None, pods: Iterable[Pod], find_node: FindNode, now: datetime) -> PoolPlan:
    """What to make and to remove so that `desired` desktops with the fingerprint `fits` wait (None: it can have none).

    `pods`: the unclaimed ones of this pool.
    """
    live = [pod for pod in pods if not pod.metadata.deletion_timestamp]
    if fits is None:
        return PoolPlan(remove=tuple(live))
    sorted_ = _sort(live, fits, find_node, now)
    fresh = sorted_.ready + sorted_.starting
    kept, surplus = fresh[:desired], fresh[desired:]
    ready = tuple(pod for pod in kept if pod.ready)
    # Rolling: those of before stay until as many new ones are ready. If those never are, an edit back saves the rest.
    most = desired + max(1, ceil(desired / 4))  # as in a Deployment
    outdated = [pod for pod in sorted_.outdated if pod.ready][: max(0, min(desired - len(ready), most - len(kept)))]
    surplus += [pod for pod in sorted_.outdated if pod not in outdated]
    room = most - len(kept) - len(outdated)
    return PoolPlan(
        make=max(0, min(desired - len(kept), room)),
        remove=tuple(surplus),
        faults=tuple(sorted_.faults),
        ready=ready,
        starting=tuple(pod for pod in kept if not pod.ready),
        outdated=tuple(outdated),
        look_again=sorted_.look_again,
    )


def _sort(live: list[Pod], fits: str, find_node: FindNode, now: datetime) -> _Sorted:
    groups = _Sorted()
    for pod in sorted(live, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name)):
        patience = _patience(pod, now)
        if fault := _fault(pod, find_node, patience, now):
            groups.faults.append(fault)
        elif pod.metadata.annotations.get(FITS) != fits:
            groups.outdated.append(pod)
        elif pod.ready:
            groups.ready.append(pod)
        else:
            groups.starting.append(pod)
        if patience and patience > timedelta():
            groups.look_again = min(patience, groups.look_again or patience)
    return groups


def _fault(pod: Pod, find_node: FindNode, patience: timedelta | None, now: datetime) -> Fault | None:
    name, node_name = pod.metadata.name, pod.spec.node_name
    node = find_node(node_name)
    if node_name and not takes_desktops(node) and not (node is None and _is_new(pod, now)):
        state = "is gone" if node is None else ("accepts no new desktops" if node.ready else "does not respond")
        return Fault(pod, f"The node {node_name} of the desktop {name} {state}.", of_desktop=False)
    if pod.status.phase in ("Failed", "Succeeded"):
        return Fault(pod, f"The desktop {name} has ended ({pod.status.reason or pod.status.phase}).")
    desktop = pod.desktop
    if desktop and not pod.ready and desktop.restart_count >= _CRASHES:
        return Fault(
            pod, f"The desktop {name} was restarted {desktop.restart_count} times. {explain(StartState(pod)).sentence}"
        )
    if patience == timedelta() and node_name:
        return Fault(pod, f"The desktop {name} has not responded for {UNANSWERING.total_seconds():.0f} s.")
    if patience == timedelta():
        return Fault(pod, explain(StartState(pod)).sentence)
    return None


def _is_new(pod: Pod, now: datetime) -> bool:
    """Whether its node may be unknown only because it is as new as the pod."""
    return parse_time(pod.metadata.creation_timestamp) + UNKNOWN_NODE > now


def _patience(pod: Pod, now: datetime) -> timedelta | None:
    """How long a desktop that should be further on is still waited for, at least zero; None: nothing is overdue."""
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
    """What keeps a pool from having all its desktops."""

    # It can have none at all.
    impossible: Blocked | None = None
    # There is no room for more, or the API server refuses the next one.
    blocked: Blocked | None = None
    pause: Backoff = field(default_factory=Backoff)
    # Why the first of those that are starting does not get on, in a sentence.
    slow: str = ""


def summarise(pool: VDIPool, plan: PoolPlan, claimed: int, obstacles: Obstacles, now: datetime) -> PoolStatus:
    """The status of a pool. `claimed`: running sessions whose desktop came from it."""
    reason, message = _summary(pool, plan, obstacles, now)
    return PoolStatus(
        ready=len(plan.ready),
        starting=len(plan.starting),
        claimed=claimed,
        message=message,
        selector=f"{POOL}={derive_base(pool.metadata.name)},!{SESSION_LABEL}",
        observed_generation=pool.metadata.generation,
        conditions=(_condition(pool, reason, message, now),),
    )


def _summary(pool: VDIPool, plan: PoolPlan, obstacles: Obstacles, now: datetime) -> tuple[str, str]:
    """Reason of the condition, and the sentence."""
    if obstacles.impossible:
        return obstacles.impossible.reason, obstacles.impossible.message
    ready, desired = len(plan.ready), desired_ready(pool, now)
    if desired == 0 < pool.spec.replicas and pool.spec.schedule:
        opens = next_change(pool.spec.schedule, now)
        again = f"The next ones are started at {format_time(opens)}." if opens else "The schedule has no further start."
        return PoolReason.OUTSIDE_SCHEDULE, (
            f"No desktops are kept ready now: it is outside the pool's schedule. {again}"
        )
    if ready >= desired:
        return PoolReason.FULL, ""
    count = f"{ready} of {desired} desktops {'is' if ready == 1 else 'are'} ready"
    if obstacles.pause.left(now) and obstacles.pause.until:
        again = format_time(obstacles.pause.until)
        return PoolReason.DESKTOPS_FAIL, f"{count}. {obstacles.pause.why} The next one is started at {again}."
    if obstacles.blocked:
        return obstacles.blocked.reason, f"{count}. {obstacles.blocked.message}"
    on_the_way = f", {len(plan.starting)} starting." if plan.starting else "."
    return PoolReason.FILLING, f"{count}{on_the_way}{' ' if obstacles.slow else ''}{obstacles.slow}"


def _condition(pool: VDIPool, reason: str, message: str, now: datetime) -> Condition:
    status = "True" if reason in (PoolReason.FULL, PoolReason.OUTSIDE_SCHEDULE) else "False"
    before = next((condition for condition in pool.status.conditions if condition.type == READY), None)
    moved = before is None or before.status != status
    return Condition(
        type=READY,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=format_time(now) if before is None or moved else before.last_transition_time,
        observed_generation=pool.metadata.generation,
    )
