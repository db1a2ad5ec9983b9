"""When a session has to be looked at again although nothing will have changed but the time. Pure."""

from collections.abc import Iterator
from datetime import datetime

from vdi.session.alerts import closing_of, evictable_at, find_idle
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import Observed
from vdi.session.failures import (
    SCHEDULER_TIMEOUT,
    START_TIMEOUT,
    current_failures,
    home_bound_at,
    in_vain_since,
    retry_at,
    stable_at,
    unscheduled_since,
)
from vdi.session.lifetime import expires_at, warned_at
from vdi.session.schedule import start_due_at


def next_requeue(observed: Observed, settings: ClusterSettings, now: datetime) -> datetime | None:
    """The next moment at which something begins or ends by itself; None when nothing will."""
    return min((moment for moment in _moments(observed, settings, now) if moment and moment > now), default=None)


def _moments(observed: Observed, settings: ClusterSettings, now: datetime) -> Iterator[datetime | None]:
    session, pod = observed.session, observed.pod
    yield start_due_at(session, now)
    if not session.spec.suspended:
        yield expires_at(session, observed.template, pod, settings)
        yield warned_at(session, observed.template, pod, settings)
    if pod is None:
        failures = current_failures(session)
        yield retry_at(failures) if failures else None
        return
    yield evictable_at(observed, settings)
    if idle := find_idle(observed, now):
        yield idle.warn_at
        yield idle.over_at
    if closing := closing_of(observed, now):
        yield closing.warn_at
        yield closing.over_at
        yield closing.given_up_at
    if session.status.failures and session.status.failures.count:
        yield stable_at(pod)
    unscheduled = unscheduled_since(pod)
    yield unscheduled + SCHEDULER_TIMEOUT if unscheduled else None
    bound_at = home_bound_at(session) if unscheduled else None
    yield bound_at + SCHEDULER_TIMEOUT if bound_at else None
    in_vain = in_vain_since(pod)
    yield in_vain + START_TIMEOUT if in_vain else None
