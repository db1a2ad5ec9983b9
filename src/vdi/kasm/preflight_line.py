"""One line of a checklist: what was looked at, what was seen, what is wanted, and what mends it. Pure."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import msgspec


class Verdict(StrEnum):
    """How a line ends. `unknown`: it could not be looked at, which is never a pass."""

    PASS = "pass"  # noqa: S105 - a verdict
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One check and its outcome."""

    check: str
    verdict: Verdict
    seen: str
    wanted: str
    why: str = ""
    """Why it is wanted, or what happens without it; empty where it passes."""
    remedy: str = ""
    arithmetic: tuple[str, ...] = ()
    """How the numbers were reckoned, line by line."""

    def public(self) -> dict[str, Any]:
        """For programs."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class Unread(msgspec.Struct, frozen=True):
    """Something that could not be read: in words, and what would let it be read."""

    words: str
    remedy: str


def unread_line(check: str, wanted: str, unread: Unread) -> Line:
    """A line that could not be looked at."""
    return Line(
        check=check, verdict=Verdict.UNKNOWN, seen="not read", wanted=wanted, why=unread.words, remedy=unread.remedy
    )


def worst(lines: Iterable[Line]) -> Verdict:
    """The verdict of all lines together: fail, then unknown, then warn."""
    verdicts = {line.verdict for line in lines}
    order = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
    return next((one for one in order if one in verdicts), Verdict.PASS)


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
