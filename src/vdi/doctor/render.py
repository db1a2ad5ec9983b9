"""Findings as text for people, JSON, JUnit for CI, and SARIF for code hosts. Pure."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from vdi.doctor.codes import CODES
from vdi.doctor.examine import CHECKS
from vdi.doctor.finding import Finding, Severity
from vdi.doctor.rank import roots
from vdi.doctor.snapshot import Snapshot

_ALIKE = 3
"""So many findings of one code under one cause are told in full; of more, how many there are."""
_LEVELS = {Severity.ERROR: "error", Severity.UNKNOWN: "warning", Severity.WARNING: "warning"}


def summary(findings: list[Finding], snapshot: Snapshot) -> str:
    """One line about the run."""
    looked = f"Looked at {_count(len(snapshot.sessions), 'session')} and {_count(len(snapshot.nodes), 'node')}"
    if not findings:
        return f"{looked} with {len(CHECKS)} checks: nothing is wrong."
    counts = [(sum(one.severity is level for one in roots(findings)), level.value) for level in Severity]
    told = ", ".join(
        f"{count} {word}{'s' if count > 1 and word != 'unknown' else ''}" for count, word in counts if count
    )
    folded = len(findings) - len(roots(findings))
    return f"{looked}: {told}{f', and {folded} that follow from them' if folded else ''}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_text(findings: list[Finding], snapshot: Snapshot, *, width: int = 100) -> Iterator[str]:
    """Line by line, with a line about the run at the end."""
    yield from findings_as_text(findings, width=width)
    yield summary(findings, snapshot)


def findings_as_text(findings: list[Finding], *, width: int = 100) -> Iterator[str]:
    """Line by line: cause, proof, remedy, and under it what follows."""
    told: dict[tuple[str, str], int] = {}
    for one in findings:
        alike = one.code, one.caused_by
        told[alike] = told.get(alike, 0) + 1
        if told[alike] > _ALIKE:
            continue
        yield from _told(one, width)
        rest = sum((each.code, each.caused_by) == alike for each in findings) - _ALIKE
        if told[alike] == _ALIKE and rest > 0:
            yield f"{'   ' if one.caused_by else ''}... and {rest} more {one.code} (-o json lists them)"
            yield ""


def _told(one: Finding, width: int) -> Iterator[str]:
    indent = "   " if one.caused_by else ""
    mark = "follows" if one.caused_by else one.severity.value.upper()
    yield f"{indent}{mark:8} {one.code}  {one.object}"
    yield from _wrapped(one.message, f"{indent}  ", width)
    if not one.caused_by:
        for line in one.evidence:
            yield from _wrapped(line, f"{indent}  | ", width)
        yield from _wrapped(one.remedy, f"{indent}  > ", width, keep=True)
        yield f"{indent}  ? {one.remedy_url}"
    yield ""


def _wrapped(text: str, indent: str, width: int, *, keep: bool = False) -> list[str]:
    """A remedy is not broken up: it is there to be copied."""
    if keep:
        return [indent + text]
    # Names have hyphens, and are there to be copied too.
    wrapper = textwrap.TextWrapper(width, indent, indent, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text)


def as_data(findings: list[Finding], snapshot: Snapshot) -> dict[str, Any]:
    """For programs."""
    return {
        "takenAt": snapshot.taken_at,
        "namespace": snapshot.scope.namespace,
        "session": snapshot.scope.session,
        "summary": summary(findings, snapshot),
        "findings": [one.public() for one in findings],
    }


def as_junit(findings: list[Finding], snapshot: Snapshot) -> str:
    """One test case a finding; one that passes where there is none."""
    failures = sum(one.severity is not Severity.UNKNOWN for one in findings)
    skipped = len(findings) - failures
    cases = "".join(_case(one) for one in findings) or '  <testcase classname="vdi.doctor" name="nothing is wrong"/>\n'
    head = f'tests="{max(1, len(findings))}" failures="{failures}" skipped="{skipped}" timestamp="{snapshot.taken_at}"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="vdi doctor" {head}>\n{cases}</testsuite>'


def _case(one: Finding) -> str:
    message = quoteattr(one.message)
    body = escape("\n".join([*one.evidence, f"remedy: {one.remedy}", f"caused by: {one.caused_by or '-'}"]))
    inner = (
        f"<skipped message={message}/>"
        if one.severity is Severity.UNKNOWN
        else f"<failure type={quoteattr(one.severity.value)} message={message}>{body}</failure>"
    )
    name = quoteattr(f"{one.code} {one.object}")
    return f'  <testcase classname="vdi.doctor" name={name}>{inner}</testcase>\n'


def as_sarif(findings: list[Finding]) -> str:
    """SARIF 2.1.0; objects of the cluster are its logical locations."""
    used = sorted({one.code for one in findings})
    rules = [
        {
            "id": code,
            "shortDescription": {"text": CODES[code].means},
            "help": {"text": CODES[code].remedy},
        }
        for code in used
    ]
    results = [
        {
            "ruleId": one.code,
            "level": _LEVELS[one.severity],
            "message": {"text": f"{one.message} Remedy: {one.remedy}"},
            "locations": [{"logicalLocations": [{"fullyQualifiedName": one.object}]}],
            "properties": {"evidence": list(one.evidence), "causedBy": one.caused_by},
        }
        for one in findings
    ]
    run = {"tool": {"driver": {"name": "vdi doctor", "rules": rules}}, "results": results}
    document = {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2)
