"""Checks and the codes of their findings, whatever product they are about.

The doctor and `vdi.kasm` declare theirs with `check` and `Code`. A check is a pure function of a
snapshot. It names the kinds that it needs and those that it can do without: a run reads these, and
no others. It does not run when a kind that it needs could not be read.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from vdi.findings.model import Finding, Remedy, Severity


class Code(msgspec.Struct, frozen=True):
    """An entry of the catalogue: meaning, proof and remedy for a reader who has never seen it.

    Codes are never renamed and never reused for something else.
    """

    code: str
    means: str
    proof: str
    remedy: str
    layer: str
    severity: Severity = Severity.ERROR
    # Codes that explain this one when their finding is about a related object, the best explanation
    # first.
    follows: tuple[str, ...] = ()
    # The whole cluster depends on it: as a cause it explains each code that lists it, whatever the
    # object.
    cluster_wide: bool = False
    # As a cause it also explains findings about the objects that it is related to.
    spreads: bool = False


# Takes a snapshot; a last check also the findings so far.
CheckFunction = Callable[..., Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check and the kinds without which it could only guess, by their plurals in
    `vdi.snapshot.objects.KINDS`.

    `pods@all`: those of all namespaces, whatever the scope; `pods/log`: a subresource;
    `secrets@release`: those that `vdi.doctor.collect` selects by this name.
    """

    name: str
    needs: frozenset[str]
    run: CheckFunction
    # Kinds that explain more, where they can be read.
    reads: frozenset[str] = frozenset()
    # It stands after the others, and gets their findings.
    last: bool = False


def check(
    *needs: str, reads: Iterable[str] = (), last: bool = False
) -> Callable[[CheckFunction], Check]:
    """Decorator that makes a check of a function."""

    def decorate(function: CheckFunction) -> Check:
        return Check(function.__name__, frozenset(needs), function, frozenset(reads), last)

    return decorate


def kinds_read(checks: Iterable[Check]) -> frozenset[str]:
    """All kinds that a run of these checks reads, each by its plural and as checks name it."""
    kinds: set[str] = set()
    for one in checks:
        for kind in one.needs | one.reads:
            kinds |= {kind, kind.removesuffix("@all")}
    return frozenset(kinds)


def merge_patch(kind: str, name: str, patch: object, namespace: str = "") -> str:
    """The kubectl command that applies a JSON merge patch to an object."""
    place = f"--namespace {namespace} " if namespace else ""
    text = shlex.quote(json.dumps(patch, separators=(",", ":")))
    return f"kubectl {place}patch {kind} {name} --type merge --patch {text}"


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
    """A finding of this code. Its severity and the remedy's sentence default to those of the
    catalogue.
    """
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
