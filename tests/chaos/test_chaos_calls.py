"""Every fault at every call of every flow: each session of a batch meets its own, all side by
side.
"""

import asyncio
import time
from collections.abc import Callable

import pytest

from chaos.fault_proxy import AT_A_CALL, Fault, FaultsByName
from chaos.flows import FLOWS, Flow
from chaos.machine import Machine
from chaos.world import ChaosWorld
from support.waiting import eventually
from vdi.devcluster.cluster import Cluster

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
async def test_every_fault_at_every_call(
    world: ChaosWorld, flow: Flow, control_plane: Cluster, tell: Callable[[str], None]
) -> None:
    faults = FaultsByName(world.subject_of)
    world.proxy.choose = faults
    began = time.monotonic()

    async def play_alone(name: str, what: str, reached: Callable[[], object]) -> None:
        """With the garbage collector stopped until `reached`: it may do all before the operator
        calls anybody.
        """
        with Machine(control_plane.name).stopped("kube-controller-manager"):
            await flow.act(world, name)
            await eventually(reached, f"{name}: {what}")
        await flow.settle(world, name)

    async with world.stage.operator():
        clean = f"{flow.name}-0"
        await flow.prepare(world, clean)
        faults.calls[clean] = []
        if flow.helped:
            await play_alone(clean, "the operator has called somebody", lambda: faults.calls[clean])
        else:
            await flow.play(world, clean)
        calls = list(faults.calls[clean])
        assert calls, f"{flow.name}: the operator has called nobody"
        if flow.helped:  # of the batch's faults none may strike
            alone = f"{flow.name}-alone"
            await flow.prepare(world, alone)
            faults.plan(alone, 1, Fault.BROKEN)
            await play_alone(alone, "its fault has struck", lambda: alone in faults.struck)
        batch = {
            f"{flow.name}-{n}-{fault}": (n, fault)
            for n in range(1, len(calls) + 1)
            for fault in AT_A_CALL
        }
        gate = asyncio.Semaphore(flow.at_once)

        async def play(name: str) -> None:
            async with gate:
                await flow.prepare(world, name)
                faults.plan(name, *batch[name])
                try:
                    await flow.play(world, name)
                except AssertionError as failure:
                    raise AssertionError(
                        f"{failure}\nits calls: {faults.calls.get(name)}"
                    ) from None

        await asyncio.gather(*(play(name) for name in batch))
        await world.orderly()
    missed = sorted(set(batch) - set(faults.struck))
    tell(
        f"{flow.name}: {len(faults.struck)} faults at {len(calls)} calls,"
        f" {time.monotonic() - began:.0f} s"
    )
    assert flow.helped or len(missed) <= len(batch) // 4, f"faults that never struck: {missed}"
