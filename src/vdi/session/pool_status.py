"""What a pool's status says: how many desktops are ready, how many are on their way, and why not all are. Pure."""

from dataclasses import dataclass, field
from datetime import datetime

from vdi.api.meta import Condition
from vdi.api.pool import PoolStatus, VDIPool
from vdi.session.conditions import READY
from vdi.session.effective import Blocked
from vdi.session.identity import POOL, SESSION_LABEL
from vdi.session.naming import derive_base
from vdi.session.pool import Backoff, PoolPlan, PoolReason, desired_ready
from vdi.session.schedule import next_change
from vdi.session.times import format_time


@dataclass(frozen=True, slots=True)
class Obstacles:
    """What keeps a pool from having all its desktops."""

    impossible: Blocked | None = None
    """It can have none at all."""
    blocked: Blocked | None = None
    """There is no room for more, or the API server refuses the next one."""
    pause: Backoff = field(default_factory=Backoff)
    slow: str = ""
    """Why the first of those that are starting does not get on, in a sentence."""


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
