"""What most components of the operator work with, since these always travel together."""

from dataclasses import dataclass

from vdi.kube.clock import Clock
from vdi.kube.transport import Client
from vdi.operator.caches import Caches
from vdi.session.cluster_settings import ClusterSettings


@dataclass(frozen=True, slots=True)
class ClusterContext:
    """The cluster as one operator sees and changes it."""

    client: Client
    """Refuses to write while this process does not lead."""
    caches: Caches
    settings: ClusterSettings
    clock: Clock
    namespaces: tuple[str, ...]
    """Where sessions live. The first has what there is once: Lease, key of the host labels, reservations of hosts."""
