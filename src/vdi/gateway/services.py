"""The objects that REST API and portal are made with: one set per gateway process, built by `app`.

Both render the same calls: an operation of the API and a page that do the same thing call the same
object here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vdi.gateway.actions import Actions
from vdi.gateway.cluster_cache import Subscriptions
from vdi.gateway.component import GatewayContext
from vdi.gateway.current_use import GpuSlots
from vdi.gateway.desktop.agent_requests import AgentRequests
from vdi.gateway.desktop.computer import Computer
from vdi.gateway.desktop.recordings import Recordings
from vdi.gateway.doctor import DoctorRunner
from vdi.gateway.history.component import History
from vdi.gateway.in_flight import TokenRequests, WaitingCalls
from vdi.gateway.limits import Limits
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.local_users import LocalUsers
from vdi.gateway.login.logins import Logins, SignOut
from vdi.gateway.session_actions import SessionActions
from vdi.gateway.starting import HomesAhead
from vdi.gateway.store.audit import Audit
from vdi.gateway.web.streams import StreamLimit


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that an operation or a page may call."""

    context: GatewayContext
    guard: Guard
    logins: Logins
    sign_out: SignOut
    local: LocalUsers
    limits: Limits
    actions: Actions
    session_actions: SessionActions
    history: History
    homes_ahead: HomesAhead
    audit: Audit
    agents: AgentRequests
    computer: Computer
    doctor: DoctorRunner
    recordings: Recordings
    gpu_slots: GpuSlots
    subscriptions: Subscriptions
    # Why this process is not ready, one line each; administrators see them on the overview.
    problems: Callable[[], Iterable[str]]
    streams: StreamLimit = field(default_factory=StreamLimit)
    token_requests: TokenRequests = field(default_factory=TokenRequests)
    waiting: WaitingCalls = field(default_factory=WaitingCalls)
