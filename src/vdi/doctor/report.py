"""Output of a run: the report that is printed, the record that a ConfigMap keeps, and the text of a
code. Pure.

The record holds numbers, no names of people or objects: the CronJob writes it, and the gateway's
metrics show it.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from vdi.cluster.units import parse_time
from vdi.doctor.checks.cluster import enforcement_note
from vdi.doctor.checks.run import CHECKS
from vdi.doctor.codes import CODES
from vdi.doctor.codes.control_plane import RELEASE_DIFFERS
from vdi.doctor.fixes import FIXES
from vdi.doctor.objects.sessions import active_sessions
from vdi.findings.model import Finding, Severity, roots
from vdi.findings.render import Report, count_findings
from vdi.snapshot.check import Code
from vdi.snapshot.model import Snapshot

KEY = "findings.json"


def explain_code(code: Code) -> list[str]:
    """Lines of Markdown, for `vdi doctor --explain` and the pages in docs/doctor."""
    lines = [
        f"{code.severity.value.capitalize()}. {code.means}",
        "",
        f"- **Proof**: {code.proof}",
        f"- **Remedy**: {code.remedy}",
    ]
    if code.code in FIXES:
        lines.append(f"- **`--fix`**: {FIXES[code.code].words}.")
    # What Helm installed may be the cause of nearly all.
    if causes := [cause for cause in code.follows if cause != RELEASE_DIFFERS]:
        lines.append(f"- **Causes**: {', '.join(causes)}")
    return lines


class BadRecordError(ValueError):
    """Raised when a ConfigMap holds no record; the message says why."""


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Number of causes of one code. Consequences are not counted."""

    code: str
    severity: Severity
    layer: str
    number: int


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The numbers of one run."""

    taken_at: str
    counts: tuple[Count, ...] = ()


def record_of(findings: Iterable[Finding], taken_at: str) -> Record:
    """The record of a run's findings."""
    counted = Counter((root.code, root.severity) for root in roots(list(findings)))
    counts = (
        Count(code=code, severity=severity, layer=CODES[code].layer, number=number)
        for (code, severity), number in sorted(counted.items())
    )
    return Record(taken_at=taken_at, counts=tuple(counts))


# A ConfigMap, because the job is gone before Prometheus scrapes it. A push gateway would be one
# more server, and a record that is sent to one gateway would be unknown to its other replicas.
def to_patch(record: Record) -> dict[str, Any]:
    """The merge patch that stores it in a ConfigMap."""
    return {"data": {KEY: msgspec.json.encode(record).decode()}}


def read_record(config_map: dict[str, Any]) -> Record | None:
    """The record in a ConfigMap; None before the first run. Raises BadRecordError."""
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        return None
    try:
        record = msgspec.json.decode(text, type=Record)
        parse_time(record.taken_at)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRecordError(f"{KEY} is not a record of vdi doctor: {error}") from error
    return record


def make_report(findings: list[Finding], snapshot: Snapshot, *, verbose: bool = False) -> Report:
    """The report of a run, whose warnings fail it."""
    scope = snapshot.scope
    return Report(
        tool="vdi doctor",
        findings=findings,
        summary=summarize(findings, snapshot),
        warnings_fail=True,
        verbose=verbose,
        context={
            "takenAt": snapshot.taken_at,
            "namespace": scope.namespace,
            "session": scope.session,
        },
        timestamp=snapshot.taken_at,
    )


def summarize(findings: list[Finding], snapshot: Snapshot) -> str:
    """One line about the run: its extent, and the number of findings."""
    looked = (
        f"Checked {_count(len(snapshot.sessions), 'session')} and"
        f" {_count(len(snapshot.nodes), 'node')}"
    )
    note = f" {note}" if (note := enforcement_note(snapshot)) else ""
    if findings:
        return f"{looked}: {count_findings(findings)}.{note}"
    # A start that may still go wrong must not read as a good result.
    starting = []
    for diagnosis in active_sessions(snapshot):
        if (age := diagnosis.starting_seconds) is not None:
            starting.append(age)
    result = "no problems found"
    if starting:
        verb = "has" if len(starting) == 1 else "have"
        result = (
            f"{_count(len(starting), 'session')} {verb} been starting for {max(starting):.0f} s"
        )
    return f"{looked} with {len(CHECKS)} checks: {result}.{note}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
