"""A report leaves nothing of its cluster in memory."""

import asyncio
import gc
import os
import sys
import weakref
from pathlib import Path

import pytest

from unit.doctor import doctor_page
from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_server import ApiServer
from unit.doctor.kasm_builders import Kasm
from vdi.doctor.checks.run import run_checks
from vdi.doctor.objects.sessions import diagnose_sessions
from vdi.kasm.generations import ALL


def test_no_cluster_outlives_its_report() -> None:
    cluster = Cluster()
    Kasm(cluster, ALL[0])
    snapshot = cluster.snapshot()
    run_checks(snapshot)
    [diagnosis] = diagnose_sessions(snapshot)
    diagnosed = weakref.ref(diagnosis)
    del snapshot, diagnosis
    gc.collect()
    assert diagnosed() is None


def test_a_released_snapshot_does_not_wait_for_the_garbage_collector() -> None:
    cluster = Cluster()
    Kasm(cluster, ALL[0])
    snapshot = cluster.snapshot()
    run_checks(snapshot)
    [diagnosis] = diagnose_sessions(snapshot)
    diagnosed = weakref.ref(diagnosis)
    gc.collect()
    gc.disable()
    try:
        snapshot.release()
        del snapshot, diagnosis
        assert diagnosed() is None
    finally:
        gc.enable()


_SESSIONS = 2_000
_RUNS = 20
# What is kept after the last run, and the most that a run has needed, beside the first one.
_KEPT, _PEAK = 1.1, 1.25


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_gateways_page_needs_no_more_memory_at_its_20th_run() -> None:
    """Python keeps an arena while one block in it is used. So resident memory after a run grows up
    to the most that a run needs, and no further: the container's limit has to allow that anyway.
    """
    server = ApiServer(Cluster(_SESSIONS))
    page = [sys.executable, "-m", doctor_page.__name__]
    tests = str(Path(__file__).parents[2])
    async with server.client() as client:
        process = await asyncio.create_subprocess_exec(
            *page,
            client.config.server,
            str(_RUNS),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": tests},
        )
        output, _ = await process.communicate()
    blocks, peaks = zip(*(map(int, line.split()) for line in output.splitlines()), strict=True)
    assert len(blocks) == _RUNS
    assert blocks[-1] <= _KEPT * blocks[0], blocks
    assert peaks[-1] <= _PEAK * peaks[0], peaks
