"""A finding: what a check has looked at, how bad it is, what shows it, and what to do. Pure."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from vdi.findings import ExitCode


class Severity(StrEnum):
    """How bad it is, the worst first. `unknown`: it could not be looked at, which is never a pass."""

    ERROR = "error"
    UNKNOWN = "unknown"
    WARNING = "warning"
    OK = "ok"


class Remedy(msgspec.Struct, frozen=True):
    """What to do: a sentence, and commands that can be pasted unchanged. Either may be missing."""

    sentence: str = ""
    commands: tuple[str, ...] = ()

    @classmethod
    def run(cls, *commands: str) -> "Remedy":
        """Commands that speak for themselves."""

        return cls(commands=commands)

    def __bool__(self) -> bool:
        return bool(self.sentence or self.commands)

    @property
    def text(self) -> str:
        """All of it in one line, for formats that have no more room than that."""
        commands = "; ".join(self.commands)
        if not self.sentence or not commands:
            return self.sentence or commands
        return f"{self.sentence.rstrip('.:')}: {commands}"


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """One thing that was looked at. Most checks report only what is wrong, a checklist reports every item."""

    # Names the check or what is wrong. Codes are never renamed and never reused for something else.
    code: str
    severity: Severity
    # kind/namespace/name; kind/name for what is in no namespace; a path for a value of a file.
    object: str = ""
    # What is wrong, in sentences. A checklist's item that is as it should be may have none.
    message: str = ""
    # What was measured, where a check compares something.
    observed: str = ""
    # What it is compared with.
    expected: str = ""
    # Field, Event, log line or arithmetic that shows it.
    evidence: tuple[str, ...] = ()
    remedy: Remedy = Remedy()
    # Where more about it is written.
    remedy_url: str = ""
    # `CODE OBJECT` of the finding that this one follows from.
    caused_by: str = ""
    # Objects that it depends on: a finding about one of them may be its cause.
    related_objects: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What `caused_by` of another one names."""
        return f"{self.code} {self.object}"

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.severity is Severity.OK

    @property
    def text(self) -> str:
        """All that it says, in one line."""
        compared = f"{self.observed} (expected: {self.expected})" if self.expected else self.observed
        return " ".join(part for part in (self.message, compared) if part)

    def public(self) -> dict[str, Any]:
        """For programs: without what only ranking needs."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if name != "related_objects"}


def worst(findings: Iterable[Finding]) -> Severity:
    """The severity of all findings together."""
    severities = {finding.severity for finding in findings}
    return next((severity for severity in Severity if severity in severities), Severity.OK)


def roots(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that follow from no other."""
    return [finding for finding in findings if not finding.caused_by]


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that forbid to go on."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]


def fails(severity: Severity, *, warnings_fail: bool) -> bool:
    """Whether a finding of this severity fails a run. `unknown` does not fail it: it leaves it open."""
    return severity is Severity.ERROR or (warnings_fail and severity is Severity.WARNING)


def exit_code(findings: Iterable[Finding], *, warnings_fail: bool = False) -> int:
    """How a command ends that reports these findings; in a checklist, warnings are there to be read and stop no one."""
    severities = {finding.severity for finding in findings}
    if any(fails(severity, warnings_fail=warnings_fail) for severity in severities):
        return ExitCode.FINDINGS
    return ExitCode.COULD_NOT_LOOK if Severity.UNKNOWN in severities else ExitCode.OK
