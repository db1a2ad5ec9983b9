"""Current use, for the REST API and the portal: a user's amounts beside the limits, and the GPU
slots of the nodes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from vdi.api.constraints import doc
from vdi.api.session import VDISession
from vdi.gateway.cluster_cache import ClusterCache
from vdi.gateway.component import GatewayContext
from vdi.gateway.history.usage import Usage
from vdi.gateway.limits import Limit, Limits, counts, home_bytes
from vdi.gateway.rights import User
from vdi.gpu.sharing.config import RENAMED, RESOURCE
from vdi.gpu.sharing.state import GpuNode
from vdi.kube.errors import Forbidden, KubeError
from vdi.kube.resource import NODES
from vdi.session.effective import gpus_of
from vdi.session.homes import HomeSummary
from vdi.session.users import normal_user, same_user
from vdi.snapshot.objects.storage import Node

_GIB = 1 << 30


class Amount(msgspec.Struct):
    """One number and its limit."""

    used: Annotated[float, doc("Current usage.")]
    limit: Annotated[float | None, doc("The limit; null if not limited.")] = None


class Use(msgspec.Struct, rename="camel"):
    """Current usage and limits of one user."""

    sessions: Annotated[Amount, doc("Running desktops, and suspended ones with a schedule.")]
    gpus: Annotated[Amount, doc("GPUs (or shares of one) in use.")]
    hours_per_month: Annotated[
        Amount, doc("Hours that desktops have run in this calendar month (UTC).")
    ]
    gpu_hours_per_month: Annotated[
        Amount, doc("GPU hours (hours times GPUs) in this calendar month (UTC).")
    ]
    home_storage: Annotated[Amount, doc("Size of all homes together, in GiB.")]


def use_of(cluster: ClusterCache, limit: Limit, user: str, hours: float, gpu_hours: float) -> Use:
    """Current usage of a user; `hours` and `gpu_hours` of this month come from the history."""
    mine = []
    for session in cluster.sessions.values():
        if same_user(session.spec.user, user):
            mine.append(session)
    return _add_up(cluster, limit, mine, cluster.homes_of(user), hours, gpu_hours)


def uses(
    cluster: ClusterCache, limits: Limits, used: Mapping[str, Usage], others: Iterable[str] = ()
) -> dict[str, Use]:
    """The same of all users who have sessions, homes, hours in `used`, or limits of their own, and
    of `others`.

    The groups of a user are known only while they are logged in: limits of groups are not in these
    numbers.
    """
    sessions = defaultdict[str, list[VDISession]](list)
    homes = defaultdict[str, list[HomeSummary]](list)
    for session in cluster.sessions.values():
        sessions[normal_user(session.spec.user)].append(session)
    for home in cluster.all_homes():
        homes[normal_user(home.user)].append(home)

    def use(user: str) -> Use:
        month = used.get(user)
        if month:
            hours, gpu_hours = month.hours, month.gpu_hours
        else:
            hours, gpu_hours = 0.0, 0.0
        return _add_up(
            cluster, limits.of(User(user)), sessions[user], homes[user], hours, gpu_hours
        )

    return {user: use(user) for user in {*sessions, *homes, *used, *limits.users, *others} if user}


def _add_up(
    cluster: ClusterCache,
    limit: Limit,
    sessions: Iterable[VDISession],
    homes: Iterable[HomeSummary],
    hours: float,
    gpu_hours: float,
) -> Use:
    active = [session for session in sessions if counts(session)]
    gpus = sum(gpus_of(session, cluster.template(session.spec.template)) for session in active)
    stored, most = sum(home_bytes(home) for home in homes if not home.deleted), limit.home_bytes
    return Use(
        sessions=Amount(len(active), limit.sessions),
        gpus=Amount(gpus, limit.gpus),
        hours_per_month=Amount(round(hours, 2), limit.hours),
        gpu_hours_per_month=Amount(round(gpu_hours, 2), limit.gpu_hours),
        home_storage=Amount(
            round(stored / _GIB, 2), None if most is None else round(most / _GIB, 2)
        ),
    )


class NodeGpus(msgspec.Struct):
    """One node with GPUs."""

    name: Annotated[str, doc("The node.")]
    total: Annotated[int, doc("GPUs (or shares of one) that the node offers.")]
    used: Annotated[int, doc("GPUs (or shares of one) used by desktops.")]
    cordoned: Annotated[bool, doc("Whether the node accepts no new desktops.")]


@dataclass(frozen=True, slots=True)
class Slots:
    """All nodes with GPUs; or why they could not be read."""

    nodes: tuple[NodeGpus, ...] = ()
    unknown: str = ""

    @property
    def total(self) -> int | None:
        """GPUs (or shares of one) in the cluster; None: not known."""
        if self.unknown:
            return None
        return sum(node.total for node in self.nodes)


class GpuSlots:
    """Reads the GPU slots of the nodes. `total` is their number at the last reading; None: not
    known.
    """

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self.total: int | None = None

    async def read(self) -> Slots:
        """Read the nodes from the API server. Why that is not possible is in `Slots.unknown`."""
        slots = await self._read()
        self.total = slots.total
        return slots

    async def _read(self) -> Slots:
        cluster = self._context.cluster
        try:
            listed = await self._context.client.list(NODES, into=Node)
        except Forbidden as error:
            return Slots(
                unknown=(
                    f"The gateway may not read nodes: {error.message} (chart value gateway.doctor)"
                )
            )
        except (KubeError, OSError, TimeoutError) as error:
            return Slots(unknown=f"The nodes cannot be read now: {error}")
        # Counted from the sessions, not from the pods' requests, which the gateway may not read.
        used: Counter[str] = Counter()
        for session in cluster.sessions.values():
            if session.status.node_name and session.status.pod_name:
                used[session.status.node_name] += gpus_of(
                    session, cluster.template(session.spec.template)
                )
        nodes = [_slots(node, used) for node in listed]
        with_gpus = (node for node in nodes if node.total or node.used)
        return Slots(tuple(sorted(with_gpus, key=lambda node: node.name)))


def _slots(node: Node, used: Counter[str]) -> NodeGpus:
    gpus = GpuNode(node)
    total = sum(gpus.allocatable(resource) for resource in (RESOURCE, RENAMED, *gpus.mig_resources))
    return NodeGpus(gpus.name, total, used[gpus.name], node.spec.unschedulable)
