"""What the operations of the API are made with."""

from dataclasses import dataclass, field

from vdi.gateway.actions import Actions
from vdi.gateway.context import GatewayContext
from vdi.gateway.doctor_runs import DoctorRunner
from vdi.gateway.gpu_slots import GpuSlots
from vdi.gateway.history.component import History
from vdi.gateway.limits import Limits
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.login.sign_out import SignOut
from vdi.gateway.probing import Prober
from vdi.gateway.startup_scripts import StartupScripts
from vdi.gateway.store.audit import Audit
from vdi.gateway.web.streams import StreamLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    """One per gateway."""

    context: GatewayContext
    guard: Guard
    logins: Logins
    sign_out: SignOut
    limits: Limits
    actions: Actions
    history: History
    audit: Audit
    prober: Prober
    startup_scripts: StartupScripts
    doctor: DoctorRunner
    gpu_slots: GpuSlots
    streams: StreamLimit = field(default_factory=StreamLimit)
