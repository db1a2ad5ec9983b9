"""The gateway's doctor page in a process of its own, which prints its memory after each run:
allocated blocks, and the largest resident memory so far in KiB.
"""

import asyncio
import gc
import resource
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from vdi.gateway.doctor import DoctorRunner
from vdi.kube.config import ClusterConfig
from vdi.kube.transport import Client


async def run(url: str, times: int) -> None:
    """Run the page so often with the API server at this address."""
    async with Client(ClusterConfig(url), field_manager="gateway") as client:
        settings = SimpleNamespace(namespaces=("vdi-sessions",))
        context: Any = SimpleNamespace(
            client=client, settings=settings, clock=lambda: datetime.now(UTC)
        )
        runner = DoctorRunner(context)
        for _ in range(times):
            report = await runner.run()
            assert not report.failed, report.failed
            gc.collect()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            sys.stdout.write(f"{sys.getallocatedblocks()} {peak}\n")


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
