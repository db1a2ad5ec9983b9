"""A pod was made, and whoever gives room away has not heard of it: no other pod may have its room
all the same.

Here by themselves, since the mixture meets them once in hours: nine pods with GPUs at a time, with
eight GPUs.
"""

import asyncio
import json

import pytest

from chaos.fault_proxy import Call, Fault
from chaos.replicas import replicas
from chaos.world import GPUS, ChaosWorld
from support.waiting import eventually

pytestmark = pytest.mark.timeout(180)


class Blindfold:
    """One pod is made without an answer; after that no watch shows it, until the blindfold is taken
    off.
    """

    def __init__(self, world: ChaosWorld) -> None:
        self._world = world
        self.on = True
        # The pod's name.
        self.made = ""
        # Whether the operator has tried to find out.
        self.asked = False

    def __call__(self, call: Call) -> Fault | None:
        if not self.on or "/pods" not in call.path:
            return None
        if call.watch:
            return Fault.BROKEN
        if call.method == "GET":
            self.asked = True
            return Fault.BROKEN
        if call.method != "POST":
            return None
        name = json.loads(call.body)["metadata"]["name"]
        if not self.made:
            self.made = name
            self._world.proxy.cut_watches()
            return Fault.DROP_AFTER
        return Fault.BROKEN if name == self.made else None


class Deaf:
    """Watches of pods are refused, until it ends."""

    def __init__(self) -> None:
        self.on = True
        self.refused = 0

    def __call__(self, call: Call) -> Fault | None:
        if not self.on or not call.watch or "/pods" not in call.path:
            return None
        self.refused += 1
        return Fault.BROKEN


async def take_all_but_one(world: ChaosWorld, template: str) -> None:
    """Only one GPU is left."""
    names = [f"other-{number}" for number in range(GPUS - 1)]
    for name in names:
        await world.create(name, template)
    await asyncio.gather(*(world.reach(name, "Running") for name in names))


@pytest.mark.parametrize("maker", ["session", "pool"])
async def test_capacity_of_an_uncertain_pod_stays_reserved(world: ChaosWorld, maker: str) -> None:
    template = await world.with_gpu()
    async with world.stage.operator():
        await take_all_but_one(world, template)

        blindfold = world.proxy.choose = Blindfold(world)
        if maker == "session":
            await world.create("lost", template)
        else:
            await world.pool(f"{world.stage.namespace}-pool", template, ready=1)
        await eventually(lambda: bool(blindfold.made), "the pod is made")
        await world.create("next", template)
        if maker == "session":
            await world.delete("lost")
        await eventually(
            lambda: blindfold.asked or bool(world.checker.violations),
            "somebody looks for the pod, or for room",
        )
        blindfold.on = False
        await world.reach("next", "Running")
        await world.orderly()
    assert world.checker.most_gpus == GPUS


async def test_new_leader_waits_for_writes_of_the_previous(world: ChaosWorld) -> None:
    template = await world.with_gpu()
    async with replicas(world) as (leader, standby):
        await take_all_but_one(world, template)
        if world.audit.holder is standby.proxy:
            leader, standby = standby, leader

        deaf = standby.proxy.choose = Deaf()
        standby.proxy.cut_watches()
        await eventually(lambda: deaf.refused > 0, "the other one's watch of the pods is broken")
        await world.create("last", template)
        await world.reach("last", "Running")
        await world.create("next", template)
        await leader.stop()
        await eventually(lambda: world.audit.holder is standby.proxy, "the other one leads")
        deaf.on = False
        await world.delete("last")
        await world.reach("next", "Running")
        await world.orderly()
    assert world.checker.most_gpus == GPUS
