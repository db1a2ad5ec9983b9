"""All checks over one snapshot: what they find, what could not be checked, what failed. Pure."""

from collections.abc import Iterator

from vdi.diagnosis.check import Check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks import (
    control_plane,
    data_plane,
    gateways,
    graphics,
    images,
    infrastructure,
    network,
    nodes_kept,
    sessions,
    streams,
)
from vdi.doctor.checks.rank import rank
from vdi.doctor.checks.registry import found
from vdi.findings.model import Finding, Remedy
from vdi.kasm.diagnosis import chains as kasm_checks

CHECKS: tuple[Check, ...] = (
    *control_plane.CHECKS,
    *sessions.CHECKS,
    *infrastructure.CHECKS,
    *nodes_kept.CHECKS,
    *network.CHECKS,
    *data_plane.CHECKS,
    *images.CHECKS,
    *streams.CHECKS,
    *graphics.CHECKS,
    *gateways.CHECKS,
    *kasm_checks.CHECKS,
)
"""Layer by layer."""


def run_checks(snapshot: Snapshot, checks: tuple[Check, ...] = CHECKS) -> list[Finding]:
    """Everything that is wrong, causes first; what follows from another names it in `caused_by`."""
    findings: dict[str, Finding] = {}
    for check in checks:
        if check.needs & snapshot.unreadable_kinds:
            continue
        for finding in _look(check, snapshot):
            findings.setdefault(finding.key, finding)
    return rank([*findings.values(), *_unknown(snapshot, checks)])


def _look(one: Check, snapshot: Snapshot) -> Iterator[Finding]:
    try:
        yield from one.run(snapshot)
    except Exception as error:
        yield found(
            "check_failed",
            f"check/{one.name}",
            f"The check {one.name} failed, so its result is unknown: {type(error).__name__}: {error}",
            evidence=[f"{type(error).__name__}: {error}"],
            remedy=Remedy("Report this bug of vdi doctor, with this bundle.", ("vdi doctor --bundle doctor.json",)),
        )


def _unknown(snapshot: Snapshot, checks: tuple[Check, ...]) -> Iterator[Finding]:
    for unread in snapshot.unread:
        skipped = [check.name for check in checks if unread.kind in check.needs]
        lost = f" Not checked: {', '.join(skipped)}." if skipped else ""
        yield found(
            "not_readable",
            f"kind/{unread.kind}",
            unread.words + lost,
            evidence=[unread.words],
            remedy=Remedy(unread.remedy, unread.commands),
        )
