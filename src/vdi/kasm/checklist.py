"""Items of a checklist: each is reported, with the expected and the observed value. Pure.

Preflight and validation of Kasm are checklists over a snapshot.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from vdi.findings.model import Finding, Remedy, Severity
from vdi.snapshot.model import Snapshot, Unreadable


@dataclass(frozen=True, slots=True)
class Item:
    """An item, and the kinds without which its check could only guess, by plural.

    The check gets the subject of the checklist. Its finding has no code and no expected value yet.
    """

    code: str
    expected: str
    needs: tuple[str, ...]
    check: Callable[..., Finding]


def run_items(items: Iterable[Item], snapshot: Snapshot, *subject: object) -> Iterator[Finding]:
    """The findings. An item of a kind that could not be read says so, with the missing
    permission.
    """
    for item in items:
        unread = find_unread(snapshot, *item.needs)
        finding = not_read(unread) if unread else item.check(*subject)
        yield replace(finding, code=item.code, expected=item.expected)


def find_unread(snapshot: Snapshot, *plurals: str) -> Unreadable | None:
    """The first of these kinds that could not be read."""
    unread = {kind.kind: kind for kind in snapshot.unread}
    return next((unread[plural] for plural in plurals if plural in unread), None)


def passed(observed: str, evidence: Iterable[str] = ()) -> Finding:
    return Finding(code="", severity=Severity.OK, observed=observed, evidence=tuple(evidence))


def failed(
    severity: Severity,
    observed: str,
    message: str,
    remedy: Remedy,
    evidence: Iterable[str] = (),
) -> Finding:
    """A finding that is not OK."""
    return Finding(
        code="",
        severity=severity,
        observed=observed,
        message=message,
        remedy=remedy,
        evidence=tuple(evidence),
    )


def error(observed: str, message: str, remedy: Remedy) -> Finding:
    return failed(Severity.ERROR, observed, message, remedy)


def warning(observed: str, message: str, remedy: Remedy) -> Finding:
    return failed(Severity.WARNING, observed, message, remedy)


def unknown(message: str, remedy: Remedy, observed: str = "not read") -> Finding:
    return failed(Severity.UNKNOWN, observed, message, remedy)


def not_read(unread: Unreadable) -> Finding:
    return unknown(unread.words, unread.remedy)


def listed(names: Iterable[str]) -> str:
    """Names in a row; `none` for none."""
    return ", ".join(names) or "none"
