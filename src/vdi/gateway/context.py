"""What all components of one gateway process stand on."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.metrics import Metrics
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedState
from vdi.gateway.store.base import Database
from vdi.kube.transport import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayContext:
    """One per process; nothing of it is global."""

    settings: Settings
    client: Client
    """The Kubernetes API, with the gateway's own service account."""
    cluster: ClusterCache
    database: Database
    shared: SharedState
    metrics: Metrics
    clock: Callable[[], datetime]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at SIGTERM: open event streams then end."""
