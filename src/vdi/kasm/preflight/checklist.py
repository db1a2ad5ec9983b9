"""What the items of Kasm's checklists share: findings about what could not be read, and words for numbers and names."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from vdi.findings.model import Finding, Remedy, Severity


class Unreadable(msgspec.Struct, frozen=True):
    """Something that could not be read: in words, and what would let it be read."""

    words: str
    remedy: Remedy


def item(
    check: str,
    expected: str,
    observed: str,
    severity: Severity = Severity.OK,
    message: str = "",
    remedy: Remedy = Remedy(),
) -> Finding:
    """An item of a checklist."""
    return Finding(code=check, severity=severity, observed=observed, expected=expected, message=message, remedy=remedy)


def unreadable_finding(check: str, expected: str, unread: Unreadable) -> Finding:
    """An item of a checklist that could not be looked at."""
    return Finding(
        code=check,
        severity=Severity.UNKNOWN,
        observed="not read",
        expected=expected,
        message=unread.words,
        remedy=unread.remedy,
    )


def listed(words: Iterable[str]) -> str:
    """Names in a row; `none` for none."""
    return ", ".join(words) or "none"


def counted(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def label_of(raw: Mapping[str, Any], key: str) -> str:
    """A label of an object; empty when it is not there."""
    return str((raw["metadata"].get("labels") or {}).get(key, ""))


def name_of(raw: Mapping[str, Any]) -> str:
    """`namespace/name`, or the name of what is in no namespace."""
    meta = raw["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])
