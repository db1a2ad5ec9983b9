"""One link of a chain: a finding, the one that it follows from, and whether all of it is but an ordinary start."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from vdi.diagnosis.check import make_finding
from vdi.findings.model import Finding, Remedy, Severity
from vdi.kasm.diagnosis.codes import CODES
from vdi.kasm.diagnosis.installation import Installation
from vdi.kasm.diagnosis.pods import KasmPod


@dataclass(frozen=True, slots=True)
class Link:
    """A finding with its cause."""

    finding: Finding
    cause: "Link | None" = None
    is_starting: bool = False
    """Nothing is wrong yet: it starts, or waits for something that starts."""


class Explainer(Protocol):
    """What can be asked about pods."""

    kasm: Installation

    def explain(self, pod: KasmPod) -> Link:
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
    is_starting: bool = False,
    severity: Severity | None = None,
) -> Link:
    """A link of this code."""
    made = make_finding(
        CODES,
        code,
        where,
        message,
        remedy=remedy,
        evidence=evidence,
        related_objects=related_objects,
        severity=severity,
    )
    return Link(made, cause, is_starting)
