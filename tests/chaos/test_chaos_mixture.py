"""Everything at random. VDI_CHAOS_SECONDS says how long (1200), VDI_CHAOS_SEED which mixture (else
a new one).
"""

import os
import secrets
import sys
from collections.abc import Callable

import pytest

from chaos.machine import Machine
from chaos.mixture import Mixture
from chaos.replicas import replicas
from chaos.world import ChaosWorld
from vdi.devcluster.cluster import Cluster

SECONDS = float(os.environ.get("VDI_CHAOS_SECONDS", "1200"))
SEED = int(os.environ.get("VDI_CHAOS_SEED", secrets.randbelow(10**6)))

pytestmark = pytest.mark.timeout(SECONDS * 4 + 300)


async def test_random_mixture(
    world: ChaosWorld, control_plane: Cluster, tell: Callable[[str], None]
) -> None:
    tell(
        f"seed {SEED}, {SECONDS:.0f} s: once more with VDI_CHAOS_SEED={SEED}"
        f" VDI_CHAOS_SECONDS={SECONDS:.0f}"
    )
    for template in (world.plain, world.homely, world.with_gpu, world.resting):
        await template()
    await world.pooled(ready=3)
    async with replicas(world) as both:
        mixture = Mixture(world, both, Machine(control_plane.name), SEED, tell)
        try:
            await mixture.run(SECONDS)
        except AssertionError:
            for replica in both:
                sys.stderr.write(f"--- {replica.proxy.label}\n{replica.log()[-100_000:]}\n")
            raise
        finally:
            tell(", ".join(f"{name} {count}" for name, count in mixture.done.most_common()))
