"""All checks over one snapshot, and the order of their findings: causes first, consequences folded under them. Pure.

Called by `vdi doctor`, the gateway's doctor page, `vdi kasm diagnose` and `vdi image check`. A new module of checks
joins `CHECKS`.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import msgspec

from vdi.diagnosis.check import Check
from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks import control_plane, data_plane, desktops, infrastructure, network, sessions
from vdi.doctor.checks import data_plane as gateways
from vdi.doctor.checks import infrastructure as nodes_kept
from vdi.doctor.codes import CODES, make_finding
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.diagnosis import chains as kasm_checks

_SEVERITIES = tuple(Severity)
_PLACES = {code: place for place, code in enumerate(CODES)}


def rank(findings: list[Finding]) -> list[Finding]:
    """Each cause with what follows from it behind it; the worst first, then what explains most, then the layer."""

    by_code: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_code[finding.code].append(finding)
    keys = {finding.key for finding in findings}
    linked = [finding if finding.caused_by in keys else _link(finding, by_code) for finding in findings]
    followers: dict[str, list[Finding]] = defaultdict(list)
    for one in linked:
        followers[one.caused_by].append(one)
    ordered: list[Finding] = []

    def take(level: list[Finding]) -> None:
        for one in sorted(level, key=lambda each: _order(each, _count(each.key, followers))):
            ordered.append(one)
            take(followers.get(one.key, []))

    take(followers[""])
    return ordered


def _order(one: Finding, explains: int) -> tuple[int, int, int, str, str]:
    return _SEVERITIES.index(one.severity), -explains, _PLACES[one.code], one.object, one.code


def _count(key: str, followers: dict[str, list[Finding]]) -> int:
    return sum(1 + _count(one.key, followers) for one in followers.get(key, ()))


def _link(one: Finding, by_code: Mapping[str, list[Finding]]) -> Finding:
    """With its cause, if one of the findings is it: the codes that explain it are listed best first."""
    for code in CODES[one.code].follows:
        for other in by_code.get(code, ()):
            if other.key != one.key and (
                CODES[code].cluster_wide or other.object in (one.object, *one.related_objects)
            ):
                return msgspec.structs.replace(one, caused_by=other.key)
    return one


# Layer by layer.
CHECKS: tuple[Check, ...] = (
    *control_plane.CHECKS,
    *sessions.CHECKS,
    *infrastructure.CHECKS,
    *nodes_kept.NODES_KEPT_CHECKS,
    *network.CHECKS,
    *data_plane.CHECKS,
    *desktops.IMAGE_CHECKS,
    *desktops.CHECKS,
    *desktops.GRAPHICS_CHECKS,
    *gateways.GATEWAY_CHECKS,
    *kasm_checks.CHECKS,
)


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
        yield make_finding(
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
        yield make_finding(
            "not_readable",
            f"kind/{unread.kind}",
            unread.words + lost,
            evidence=[unread.words],
            remedy=Remedy(unread.remedy, unread.commands),
        )
