"""Every fault at every call of every flow: each session of a batch meets its own, all side by side."""

import asyncio
import sys
import time

import pytest

from chaos.fault_proxy import AT_A_CALL, FaultsByName
from chaos.flows import FLOWS, Flow
from chaos.world import ChaosWorld

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
async def test_every_fault_at_every_call(world: ChaosWorld, flow: Flow, capsys: pytest.CaptureFixture[str]) -> None:
    faults = FaultsByName(world.subject_of)
    world.proxy.choose = faults
    began = time.monotonic()
    async with world.stage.operator():
        clean = f"{flow.name}-0"
        await flow.prepare(world, clean)
        faults.calls[clean] = []
        await flow.play(world, clean)
        calls = list(faults.calls[clean])
        assert calls, f"{flow.name}: the operator has called nobody"
        batch = {f"{flow.name}-{n}-{fault}": (n, fault) for n in range(1, len(calls) + 1) for fault in AT_A_CALL}
        gate = asyncio.Semaphore(flow.at_once)

        async def play(name: str) -> None:
            async with gate:
                await flow.prepare(world, name)
                faults.plan(name, *batch[name])
                try:
                    await flow.play(world, name)
                except AssertionError as failure:
                    raise AssertionError(f"{failure}\nits calls: {faults.calls.get(name)}") from None

        await asyncio.gather(*(play(name) for name in batch))
        await world.orderly()
    missed = sorted(set(batch) - set(faults.struck))
    took = time.monotonic() - began
    with capsys.disabled():
        sys.stdout.write(f"  {flow.name}: {len(faults.struck)} faults at {len(calls)} calls, {took:.0f} s\n")
    assert flow.helped or len(missed) <= len(batch) // 4, f"faults that never struck: {missed}"
