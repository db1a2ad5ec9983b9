"""The world breaks under a burst: API server and etcd killed, watches cut and expired, the leader
felled.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from chaos.fault_proxy import Call, Fault
from chaos.machine import Machine
from chaos.replicas import Replica, replicas
from chaos.world import ChaosWorld
from support.waiting import eventually
from vdi.devcluster.cluster import Cluster

pytestmark = pytest.mark.timeout(400)
Tell = Callable[[str], None]
Blow = Callable[[Replica], Awaitable[None]]


async def burst(world: ChaosWorld, count: int, prefix: str = "desk") -> list[str]:
    template = await world.plain()
    names = [f"{prefix}-{number}" for number in range(count)]
    await asyncio.gather(*(world.create(name, template) for name in names))
    return names


def running(world: ChaosWorld) -> int:
    return sum(session.status.phase == "Running" for session in world.checker.sessions.values())


async def all_run(world: ChaosWorld, names: list[str], seconds: float = 180.0) -> None:
    """All of them, each with one of each child, and nothing else."""
    await eventually(lambda: running(world) == len(names), f"{len(names)} run", seconds)
    await world.orderly()


@pytest.mark.parametrize(
    "victims", [("kube-apiserver",), ("etcd",), ("etcd", "kube-apiserver")], ids="+".join
)
async def test_control_plane_is_killed_during_a_burst(
    world: ChaosWorld, control_plane: Cluster, tell: Tell, victims: tuple[str, ...]
) -> None:
    machine = Machine(control_plane.name)
    async with world.stage.operator():
        began = time.monotonic()
        making = asyncio.create_task(burst(world, 100))
        await eventually(lambda: running(world) >= 20, "the burst is under way", 60)
        for victim in victims:
            machine.kill(victim)
        killed_at = running(world)
        names = await making
        await all_run(world, names)
        await eventually(machine.is_back, "the control plane is whole", 60)
    tell(
        f"{'+'.join(victims)} killed when {killed_at} of 100 ran; all run after"
        f" {time.monotonic() - began:.1f} s"
    )


async def test_watches_are_cut_and_expired_during_a_burst(world: ChaosWorld, tell: Tell) -> None:
    rng = random.Random(7)

    def expire(call: Call) -> Fault | None:
        return rng.choice((Fault.GONE, Fault.GONE, Fault.DROP_BEFORE, None)) if call.watch else None

    async with world.stage.operator():
        making = asyncio.create_task(burst(world, 50))
        world.proxy.choose = expire
        cut = 0
        for _ in range(10):
            cut += world.proxy.cut_watches()
            await asyncio.sleep(0.3)
        world.proxy.choose = lambda _: None
        names = await making
        await all_run(world, names)
        await asyncio.gather(*(world.delete(name) for name in names))
        cut += world.proxy.cut_watches()
        await eventually(lambda: not world.checker.sessions.values(), "all are gone", 60)
        await world.orderly()
    tell(f"{cut} watches cut, {world.proxy.injected[Fault.GONE]} answered with 410")


async def test_changes_in_a_compacted_gap_are_seen(
    world: ChaosWorld, control_plane: Cluster, tell: Tell
) -> None:
    """Compaction, and a new API server whose memory begins after the change: a real 410, nothing
    injected.
    """
    machine = Machine(control_plane.name)
    async with world.stage.operator():
        names = await burst(world, 10)
        await all_run(world, names)
        world.proxy.choose = lambda _: Fault.DROP_BEFORE
        world.proxy.cut_watches()
        for name in names[:5]:
            await world.delete(name)
        more = await burst(world, 5, "late")
        revision = await machine.compact()
        machine.kill("kube-apiserver")
        await eventually(machine.is_back, "the API server is back", 60)
        world.proxy.passed.clear()
        world.proxy.choose = lambda _: None
        await eventually(
            lambda: all(world.session(name) is None for name in names[:5]),
            "the deleted are gone",
            90,
        )
        await all_run(world, [*names[5:], *more])
        lists = [read for read in world.proxy.reads() if read.path.endswith("/vdisessions")]
        assert lists, "the operator has listed the sessions anew"
    tell(f"compacted at revision {revision}; {len(world.proxy.reads())} reads to catch up")


@pytest.mark.parametrize("write", [1, 10, 40])
@pytest.mark.parametrize("blow", [Replica.kill, Replica.freeze], ids=["killed", "frozen"])
async def test_leader_is_killed_during_a_reconcile(
    world: ChaosWorld, tell: Tell, blow: Blow, write: int
) -> None:
    async with replicas(world) as both:
        await eventually(lambda: world.audit.holder is not None, "somebody leads")
        leader = next(one for one in both if one.proxy is world.audit.holder)
        await eventually(
            lambda: "standing by:" in "".join(one.log() for one in both), "the other stands by"
        )
        leader.proxy.cut_at(write, "after")
        making = asyncio.create_task(burst(world, 30))
        await asyncio.wait_for(leader.proxy.cut.wait(), 30)
        fallen = time.monotonic()
        await blow(leader)
        await eventually(
            lambda: world.audit.holder not in (None, leader.proxy), "the other leads", 60
        )
        took = time.monotonic() - fallen
        leader.proxy.repair()
        await leader.start()  # a frozen one wakes up and believes that nothing has happened
        names = await making
        await all_run(world, names)
    tell(f"leader {blow.__name__} at write {write}: the other led after {took:.1f} s")
