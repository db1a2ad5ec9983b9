"""What the portal's pages are made with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vdi.gateway.actions import Actions
from vdi.gateway.context import GatewayContext
from vdi.gateway.doctor_runs import DoctorRunner
from vdi.gateway.gpu_slots import GpuSlots
from vdi.gateway.history.component import History
from vdi.gateway.homes_ahead import HomesAhead
from vdi.gateway.limits import Limits
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.portal.subscriptions import Subscriptions
from vdi.gateway.startup_scripts import StartupScripts
from vdi.gateway.store.audit import Audit
from vdi.gateway.thumbnails import Thumbnails


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalServices:
    """One per gateway."""

    context: GatewayContext
    guard: Guard
    logins: Logins
    limits: Limits
    actions: Actions
    history: History
    homes_ahead: HomesAhead
    audit: Audit
    doctor: DoctorRunner
    gpu_slots: GpuSlots
    subscriptions: Subscriptions
    problems: Callable[[], Iterable[str]]
    """Why this process is not ready, one line each."""
    thumbnails: Thumbnails
    startup_scripts: StartupScripts
