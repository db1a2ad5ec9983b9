"""The operator killed with SIGKILL at each write of each flow in turn: it converges, without orphan
and duplicate.

The line is cut at the n-th write, before the API server sees it or before the operator has its
answer, and the process is killed and started again; n = 1, 2, ... until a run gets through
untouched.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Literal

import pytest

from chaos.flows import FLOWS, Flow
from chaos.machine import Machine
from chaos.world import ChaosWorld
from vdi.devcluster.cluster import Cluster

pytestmark = pytest.mark.timeout(900)
# More than any flow makes: the loop ends by itself, or the test fails.
MOST_WRITES = 40
Moment = Literal["before", "after"]


async def play(
    world: ChaosWorld, flow: Flow, name: str, write: int, moment: Moment, machine: Machine
) -> bool:
    """One session through its flow, with a kill at its n-th write; False when it got through
    without.
    """
    async with world.stage.operator_process() as operator:
        await flow.prepare(world, name)
        world.proxy.cut_at(write, moment)
        cut = asyncio.create_task(world.proxy.cut.wait())
        whole = asyncio.create_task(flow.play(world, name))
        # Else the garbage collector may have done all before the operator writes anything.
        alone = (
            machine.stopped("kube-controller-manager")
            if flow.helped and write == 1
            else nullcontext()
        )
        with alone:
            await asyncio.wait((cut, whole), return_when=asyncio.FIRST_COMPLETED)
        was_cut = cut.done()
        cut.cancel()
        await operator.kill()
    world.proxy.repair()
    if was_cut:
        async with world.stage.operator_process():
            await whole
    else:
        await whole
    return was_cut


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
async def test_kill_at_every_write(
    world: ChaosWorld,
    flow: Flow,
    moment: Moment,
    control_plane: Cluster,
    tell: Callable[[str], None],
) -> None:
    began = time.monotonic()
    machine = Machine(control_plane.name)
    for write in range(1, MOST_WRITES):
        was_cut = await play(world, flow, f"{flow.name}-{write}-{moment}", write, moment, machine)
        await world.orderly()
        if not was_cut:
            break
    else:
        raise AssertionError(f"{flow.name}: still writing after {MOST_WRITES} writes")
    assert write > 1, f"{flow.name}: the operator has written nothing"
    tell(
        f"{flow.name}: killed {moment} each of {write - 1} writes, {time.monotonic() - began:.0f} s"
    )
