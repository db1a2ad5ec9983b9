"""What the doctor says of each fault, found once for all tests."""

from collections.abc import Iterator
from functools import cache
from itertools import chain

from unit.doctor.doctor_breaks import Faults
from unit.doctor.doctor_faults import FAULTS
from unit.doctor.doctor_gateways import GATEWAY_FAULTS
from unit.doctor.doctor_gpus import GPU_FAULTS
from unit.doctor.doctor_kasm import KASM_FAULTS
from unit.doctor.doctor_unexplained import UNEXPLAINED_FAULTS
from vdi.doctor.checks.run import run_checks
from vdi.findings.model import Finding
from vdi.snapshot.model import Snapshot

ALL = Faults()
ALL.update({**FAULTS, **GPU_FAULTS, **GATEWAY_FAULTS, **KASM_FAULTS, **UNEXPLAINED_FAULTS})


@cache
def snapshot_of(name: str) -> Snapshot:
    """The cluster with this fault. Not to be changed: other tests look at it, too."""
    return ALL.broken(name).snapshot()


@cache
def findings_of(name: str) -> list[Finding]:
    """What the doctor says of `snapshot_of(name)`."""
    return run_checks(snapshot_of(name))


def every_finding() -> Iterator[Finding]:
    """What the doctor says of all faults."""
    return chain.from_iterable(findings_of(name) for name in ALL)
