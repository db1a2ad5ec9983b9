"""Nodes, waiters and a small world for the tests of the queue."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from support.builders import GPU, a_node
from vdi.cluster.capacity import Demand, NodeCapacity, demand_of, read_capacity
from vdi.cluster.objects import NodeSelectorTerm
from vdi.session.queueing.groups import PendingSession
from vdi.session.queueing.queue import Grant, Queue

MINUTE = 60_000


def a_room(name: str, **allocatable: str) -> NodeCapacity:
    return read_capacity(
        a_node(
            name,
            allocatable={GPU if key == "gpu" else key: value for key, value in allocatable.items()},
        )
    )


def pinned_to(node: str) -> tuple[NodeSelectorTerm, ...]:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return msgspec.convert([{"matchExpressions": [expression]}], tuple[NodeSelectorTerm, ...])


def a_demand(gpu: int = 1, cpu: int = 250, memory: int = 2**30, **placement: Any) -> Demand:
    return demand_of({GPU: gpu, "cpu": cpu, "memory": memory, "pods": 1}, **placement)


def a_waiter(
    uid: str, since: int = 0, *, user: str = "", priority: int = 0, demand: Demand | None = None
) -> PendingSession:
    return PendingSession(uid, user or uid, priority, since, demand or a_demand())


@dataclass
class QueueSimulation:
    """Time goes on, desktops start and end; every step is checked against what the nodes have."""

    queue: Queue
    now: int = 0
    running: dict[str, tuple[PendingSession, str]] = field(default_factory=dict)

    def arrive(self, pending: PendingSession) -> list[Grant]:
        self.queue.enter(pending, self.now)
        return self.settle()

    def end(self, uid: str) -> list[Grant]:
        del self.running[uid]
        self.queue.remove(uid, self.now)
        return self.settle()

    def try_pool(self, uid: str, demand: Demand, *, instead_of: str = "") -> list[Grant]:
        """A pool asks for room for one of its pods, just as a desktop ends."""
        if instead_of:
            del self.running[instead_of]
            self.queue.remove(instead_of, self.now)
        if node := self.queue.try_bind(uid, demand, self.now):
            self.running[uid] = a_waiter(uid, self.now, demand=demand), node
        return self.settle()

    def lose_node(self, node: str) -> list[Grant]:
        """A node goes, and after it what ran there."""
        self.queue.remove_node(node)
        granted = []
        for uid in [uid for uid, (_, where) in self.running.items() if where == node]:
            granted += self.queue.grant(self.now)
            self.queue.remove(uid, self.now)
            del self.running[uid]
        for grant in granted:
            self.running[grant.pending.uid] = grant.pending, grant.node
        return granted + self.settle()

    def pass_time(self, length: int) -> list[Grant]:
        self.now += length
        self.queue.tick(self.now)
        return self.settle()

    def settle(self) -> list[Grant]:
        granted = self.queue.grant(self.now)
        for grant in granted:
            assert grant.pending.uid not in self.running
            self.running[grant.pending.uid] = grant.pending, grant.node
        self.check()
        return granted

    def check(self) -> None:
        """Reckoned again from who runs where: nothing is given twice, and the books are right."""
        used: dict[str, dict[str, int]] = {name: {} for name in self.queue.capacities}
        for pending, node in self.running.values():
            for name, number in pending.demand.takes:
                used[node][name] = used[node].get(name, 0) + number
        for name, room in self.queue.capacities.items():
            for resource, number in used[name].items():
                assert number <= room.allocatable.get(resource, 0), f"{name}: {number} {resource}"
                assert room.free[resource] == room.allocatable.get(resource, 0) - number
