"""Checks and the codes of their findings, whatever product they are about.

The doctor and `vdi.kasm` declare theirs with `check` and `Code`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from vdi.diagnosis.snapshot import Snapshot
from vdi.findings.model import Finding, Remedy, Severity


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the catalogue. Codes are never renamed and never used again for something else."""

    code: str
    layer: str
    severity: Severity = Severity.ERROR
    # What it means, for somebody who has never seen it.
    means: str

    # What it is concluded from.
    proof: str
    # What helps, and why.
    remedy: str
    # Codes that explain this one, the best explanation first, when they are about an object that is related to it.
    follows: tuple[str, ...] = ()
    # As a cause it explains whatever lists it, whatever object that is about: the whole cluster depends on it.
    cluster_wide: bool = False


CheckFunction = Callable[[Snapshot], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    # Kinds without which it could only guess.
    needs: frozenset[str]
    run: CheckFunction


def check(*needs: str) -> Callable[[CheckFunction], Check]:
    """Make a check of a function."""
    return lambda function: Check(function.__name__, frozenset(needs), function)


def code_page(code: Code) -> str:
    """The page of the documentation that explains this code, under a heading of its name."""
    return f"docs/doctor/{code.layer.replace(' ', '-')}.md"


def make_finding(
    codes: Mapping[str, Code],
    code: str,
    object_name: str,
    message: str,
    *,
    remedy: Remedy,
    evidence: Iterable[str] = (),
    related_objects: Iterable[str] = (),
    severity: Severity | None = None,
) -> Finding:
    """A finding of this code. Severity and the remedy's sentence are the catalogue's, unless they depend."""
    return Finding(
        code=code,
        severity=severity or codes[code].severity,
        object=object_name,
        message=message,
        evidence=tuple(line for line in evidence if line),
        remedy=remedy if remedy.sentence else Remedy(codes[code].remedy, remedy.commands),
        remedy_url=f"{code_page(codes[code])}#{code}",
        related_objects=tuple(related_objects),
    )
