"""Findings in the order in which a person should take them: causes first, what follows from them folded under. Pure."""

from collections import defaultdict
from collections.abc import Mapping

import msgspec

from vdi.doctor.codes import CODES
from vdi.findings.model import Finding, Severity

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
