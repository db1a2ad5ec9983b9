"""A report leaves nothing of its cluster in memory."""

import gc
import weakref

from unit.doctor.doctor_builders import Cluster
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
