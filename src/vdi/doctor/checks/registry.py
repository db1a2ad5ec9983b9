"""How checks are told from other functions, and how a finding is made from its code."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vdi.doctor.codes import CODES
from vdi.doctor.snapshot import Snapshot
from vdi.findings.model import Finding, Remedy, Severity

PAGE = "docs/doctor.md"
Look = Callable[[Snapshot], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    needs: frozenset[str]
    """Kinds without which it could only guess."""
    look: Look


def check(*needs: str) -> Callable[[Look], Check]:
    """Make a check of a function."""
    return lambda look: Check(look.__name__, frozenset(needs), look)


def found(
    code: str,
    object_name: str,
    message: str,
    *,
    remedy: Remedy,
    evidence: Iterable[str] = (),
    related_objects: Iterable[str] = (),
    severity: Severity | None = None,
) -> Finding:
    """A finding of this code; how bad it is stands in the catalogue, unless it depends."""
    return Finding(
        code=code,
        severity=severity or CODES[code].severity,
        object=object_name,
        message=message,
        evidence=tuple(line for line in evidence if line),
        remedy=remedy,
        remedy_url=f"{PAGE}#{code}",
        related_objects=tuple(related_objects),
    )
