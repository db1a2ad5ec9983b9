"""The context that the gateway's components are built with, and what `app` asks of each of them.

`app` builds one `GatewayContext` and one of each component per process. Only the edge has routes on
the hosts of desktops and reasons for /readyz, so `app` and `health` ask it for them by name.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from starlette.routing import BaseRoute

from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.database_wait import DatabaseWait
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedState
from vdi.gateway.store.database import Database, DatabaseUnavailableError
from vdi.kube.errors import KubeError
from vdi.kube.transport import Client

log = logging.getLogger(__name__)

# Pause after background work has failed.
AGAIN_SECONDS = 2.0


class Component:
    """A part of the gateway with routes or background work. Each overrides what it has."""

    def portal_routes(self) -> Sequence[BaseRoute]:
        """Answered at `https://portal.<domain>`, on the public listener, and never on the hosts of
        desktops.
        """
        return ()

    def internal_routes(self) -> Sequence[BaseRoute]:
        """Answered on the internal listener, whatever the Host: for Traefik and the operator, never
        for browsers.
        """
        return ()

    async def run(self) -> None:
        """Background work until cancelled; returns early without any.

        Started once the watches are synced and the database is up. An exception ends the process.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayContext:
    """Objects that every component shares. There is one per process, and nothing of it is
    global.
    """

    settings: Settings
    # The Kubernetes API, with the gateway's own service account.
    client: Client
    cluster: ClusterCache
    database: Database
    shared: SharedState
    metrics: Metrics
    clock: Callable[[], datetime]
    database_wait: DatabaseWait = field(default_factory=DatabaseWait)
    # Set at SIGTERM: open event streams then end.
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


async def repeat(what: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    """Do background work again and again, until cancelled; what fails outside is tried again."""
    failing = False
    while True:
        try:
            await work()
            pause, failing = seconds, False
        except (DatabaseUnavailableError, KubeError, OSError) as error:
            log.log(logging.DEBUG if failing else logging.WARNING, "%s: %s", what, error)
            pause, failing = max(seconds, AGAIN_SECONDS), True
        await asyncio.sleep(pause)
