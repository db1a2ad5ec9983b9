"""What the pages of the login are made with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from vdi.gateway.context import GatewayContext
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.local import LocalUsers
from vdi.gateway.login.logins import Logins
from vdi.gateway.login.oidc.provider import Provider
from vdi.gateway.login.sign_out import SignOut
from vdi.gateway.login.throttle import Throttle
from vdi.gateway.store.audit import Audit


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginServices:
    """One per gateway."""

    context: GatewayContext
    logins: Logins
    guard: Guard
    sign_out: SignOut
    audit: Audit
    local: LocalUsers
    throttle: Throttle
    provider: Provider | None
    """None: single sign-on is not set up."""
    sleep: Callable[[float], Awaitable[None]]
