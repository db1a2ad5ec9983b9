"""Findings: the result of a check with severity, evidence and remedy. Pure.

The doctor, `vdi gpu verify`, the checklists of Kasm and of our own release, and `vdi template try`
all report these.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from vdi.findings import ExitCode


class Severity(StrEnum):
    """Severities, the worst first. `unknown`: it could not be checked, which is never a pass."""

    ERROR = "error"
    UNKNOWN = "unknown"
    WARNING = "warning"
    OK = "ok"


class Remedy(msgspec.Struct, frozen=True):
    """A sentence that says what to do, and commands that can be pasted unchanged. Either may be
    missing.
    """

    sentence: str = ""
    commands: tuple[str, ...] = ()

    @classmethod
    def run(cls, *commands: str) -> "Remedy":
        """Commands that need no sentence, or that of the code's catalogue."""
        return cls(commands=commands)

    def __bool__(self) -> bool:
        return bool(self.sentence or self.commands)

    @property
    def text(self) -> str:
        """The remedy in one line."""
        commands = "; ".join(self.commands)
        if not self.sentence or not commands:
            return self.sentence or commands
        return f"{self.sentence.rstrip('.:')}: {commands}"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """The result of a check. Most checks report only problems, a checklist reports every item."""

    # Name of the problem, or of the item of a checklist. Codes are never renamed and never reused
    # for something else.
    code: str
    severity: Severity
    # kind/namespace/name; kind/name without a namespace; a path for a value of a file.
    object: str = ""
    # The problem, in sentences. An item of a checklist that is OK may have none.
    message: str = ""
    # The value that was measured, and the one that it is compared with.
    observed: str = ""
    expected: str = ""
    # Field, Event, log line or arithmetic that shows it.
    evidence: tuple[str, ...] = ()
    remedy: Remedy = Remedy()
    # Page of the documentation about it.
    remedy_url: str = ""
    # Key of the finding that is the cause of this one.
    caused_by: str = ""
    # Objects that it depends on: a finding about one of them may be its cause.
    related_objects: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """`CODE OBJECT`, as `caused_by` of a consequence has it."""
        return f"{self.code} {self.object}"

    @property
    def is_ok(self) -> bool:
        return self.severity is Severity.OK

    @property
    def text(self) -> str:
        """Message and values in one line."""
        if self.expected:
            compared = f"{self.observed} (expected: {self.expected})"
        else:
            compared = self.observed
        return " ".join(part for part in (self.message, compared) if part)

    def public(self) -> dict[str, Any]:
        """The fields for programs, without those that only ranking needs."""
        return {
            name: value
            for name, value in msgspec.to_builtins(self).items()
            if name != "related_objects"
        }


def worst(findings: Iterable[Finding]) -> Severity:
    """The worst severity of these findings; OK without any."""
    severities = {finding.severity for finding in findings}
    return next((severity for severity in Severity if severity in severities), Severity.OK)


def roots(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that are not a consequence of another one."""
    return [finding for finding in findings if not finding.caused_by]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that forbid the next step."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def fails(severity: Severity, *, warnings_fail: bool) -> bool:
    """Whether a finding of this severity fails a run. `unknown` does not fail it: it leaves it
    open.
    """
    return severity is Severity.ERROR or (warnings_fail and severity is Severity.WARNING)


def exit_code(findings: Iterable[Finding], *, warnings_fail: bool = False) -> int:
    """Exit code of a command that reports these findings. Warnings of a checklist do not fail
    it.
    """
    severities = {finding.severity for finding in findings}
    if any(fails(severity, warnings_fail=warnings_fail) for severity in severities):
        return ExitCode.FINDINGS
    if Severity.UNKNOWN in severities:
        return ExitCode.COULD_NOT_LOOK
    return ExitCode.OK
