"""How the gateway hangs together: what a part offers, and the one object that holds them all.

`app.assemble` makes the parts, each through its constructor. A route finds the gateway in `request.app.state.gateway`.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from starlette.routing import BaseRoute

from vdi.gateway.settings import Settings
from vdi.kube.transport import Client

if TYPE_CHECKING:
    from vdi.gateway.actions import Actions
    from vdi.gateway.api.part import Api
    from vdi.gateway.diagnosis import Diagnosis
    from vdi.gateway.edge.part import Edge
    from vdi.gateway.history.part import History
    from vdi.gateway.limits import Limits
    from vdi.gateway.login.part import Login
    from vdi.gateway.metrics import Metrics
    from vdi.gateway.portal.part import Portal
    from vdi.gateway.probing import Prober
    from vdi.gateway.shared import Shared
    from vdi.gateway.store.audit import Audit
    from vdi.gateway.store.base import Database
    from vdi.gateway.world import World

_MISSING: Any = None
"""In the tests of one part, which make a gateway of nothing but what it needs."""


class Part:
    """What login, edge, portal, api and history offer; each overrides what it has.

    Routes are matched in the order of `Gateway.parts`. The portal's host has its own table, desktops' hosts another:
    a path of the one is never answered on the other.
    """

    def portal_routes(self) -> Sequence[BaseRoute]:
        """Answered at `https://portal.<domain>`, on the public listener."""
        return ()

    def desktop_routes(self) -> Sequence[BaseRoute]:
        """Answered at `https://<label>.<domain>`, on the public listener."""
        return ()

    def internal_routes(self) -> Sequence[BaseRoute]:
        """Answered on the internal listener, whatever the Host: for Traefik and the operator, never for browsers."""
        return ()

    async def run(self) -> None:
        """Background work until cancelled; one that ends by itself has nothing to do any more.

        Started once the watches are synced and the database is up. An exception ends the process.
        """

    def troubles(self) -> Iterator[str]:
        """Why this part of this process cannot do its work now, one line each; each makes /readyz answer 503."""
        yield from ()


@dataclass(slots=True, kw_only=True)
class Gateway:
    """Everything of one gateway process. Parts see it through `request.app.state.gateway`; nothing is global."""

    settings: Settings
    client: Client
    """The Kubernetes API, as the gateway's own account."""
    world: "World"
    shared: "Shared"
    limits: "Limits"
    metrics: "Metrics"
    actions: "Actions"
    clock: Callable[[], datetime]
    database: "Database" = _MISSING
    audit: "Audit" = _MISSING
    history: "History" = _MISSING
    login: "Login" = _MISSING
    edge: "Edge" = _MISSING
    portal: "Portal" = _MISSING
    api: "Api" = _MISSING
    diagnosis: "Diagnosis" = _MISSING
    prober: "Prober" = _MISSING
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at SIGTERM: open streams end themselves (see `streams`)."""

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts there are, in the order in which their routes are matched."""
        all_parts = (self.login, self.edge, self.api, self.history, self.portal, self.diagnosis)
        return tuple(one for one in all_parts if one is not None)
