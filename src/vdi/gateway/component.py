"""The interface of the gateway's components, and the context that each of them is built with.

`app` builds the components once per process. Every component may override its routes and its background work.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from starlette.routing import BaseRoute

from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedState
from vdi.gateway.store.database import Database
from vdi.kube.transport import Client


class Component:
    """Each component overrides what it has. `app` builds them, and matches their routes in the order of its list.

    The portal's host has its own route table, the hosts of desktops have another: a path of one is never answered on
    the other.
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
        """Background work until cancelled; returns early without any.

        Started once the watches are synced and the database is up. An exception ends the process.
        """

    def problems(self) -> Iterator[str]:
        """Why this component cannot do its work in this process, one line each; each makes /readyz answer 503."""
        yield from ()

    async def external_problems(self) -> Sequence[str]:
        """Problems outside of this process, one line each. They are logged; they do not make the process unready."""
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayContext:
    """One per process; nothing of it is global."""

    settings: Settings
    # The Kubernetes API, with the gateway's own service account.
    client: Client
    cluster: ClusterCache
    database: Database
    shared: SharedState
    metrics: Metrics
    clock: Callable[[], datetime]
    # Set at SIGTERM: open event streams then end.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
