"""A run of the doctor as a report: its summary, and what its codes mean. Pure."""

from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.checks.run import CHECKS
from vdi.findings.model import Finding
from vdi.findings.render import Report, count_findings


def make_report(findings: list[Finding], snapshot: Snapshot, *, verbose: bool = False) -> Report:
    """The report of a run."""
    return Report(
        tool="vdi doctor",
        findings=findings,
        summary=summarize(findings, snapshot),
        warnings_fail=True,
        verbose=verbose,
        context={
            "takenAt": snapshot.taken_at,
            "namespace": snapshot.scope.namespace,
            "session": snapshot.scope.session,
        },
        timestamp=snapshot.taken_at,
    )


def summarize(findings: list[Finding], snapshot: Snapshot) -> str:
    """One line about the run."""
    looked = f"Checked {_count(len(snapshot.sessions), 'session')} and {_count(len(snapshot.nodes), 'node')}"
    if not findings:
        return f"{looked} with {len(CHECKS)} checks: no problems found."
    return f"{looked}: {count_findings(findings)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
