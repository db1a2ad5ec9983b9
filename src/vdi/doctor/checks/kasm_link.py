"""One link of a chain: a finding, the one that it follows from, and whether all of it is but an ordinary start."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from vdi.doctor.checks.registry import found
from vdi.doctor.kasm import Kasm
from vdi.doctor.kasm_parts import Part
from vdi.findings.model import Finding, Remedy, Severity


@dataclass(frozen=True, slots=True)
class Link:
    """A finding with its cause."""

    finding: Finding
    cause: "Link | None" = None
    soft: bool = False
    """Nothing is wrong yet: it starts, or waits for something that starts."""


class Asking(Protocol):
    """What can be asked about pods."""

    kasm: Kasm

    def ask(self, part: Part) -> Link:
        """Why this pod is not ready."""


def link(
    code: str,
    where: str,
    message: str,
    *,
    remedy: Remedy,
    evidence: Iterable[str] = (),
    related_objects: Iterable[str] = (),
    cause: Link | None = None,
    soft: bool = False,
    severity: Severity | None = None,
) -> Link:
    """A link of this code."""
    made = found(
        code, where, message, remedy=remedy, evidence=evidence, related_objects=related_objects, severity=severity
    )
    return Link(made, cause, soft)
