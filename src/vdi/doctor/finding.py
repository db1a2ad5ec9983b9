"""What the doctor says: one finding is one thing that is wrong, with its proof and what mends it."""

from enum import StrEnum
from typing import Any

import msgspec


class Severity(StrEnum):
    """How bad it is, the worst first. `unknown`: it could not be looked at, which is never a pass."""

    ERROR = "error"
    UNKNOWN = "unknown"
    WARNING = "warning"


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the catalogue. Codes are never renamed and never used again for something else."""

    code: str
    layer: str
    severity: Severity = Severity.ERROR
    means: str
    """What it means, for somebody who has never seen it."""
    proof: str
    """What it is concluded from."""
    remedy: str
    """What helps, and why."""
    follows: tuple[str, ...] = ()
    """Codes that explain this one, the best explanation first, when they are about something that this one touches."""
    everywhere: bool = False
    """As a cause it explains whatever lists it, whatever object it is about: all of the cluster hangs on it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong."""

    code: str
    severity: Severity
    object: str
    """kind/namespace/name, or kind/name of what is in no namespace."""
    message: str
    evidence: tuple[str, ...] = ()
    """Field, Event or log line that shows it."""
    remedy: str
    """The exact command, or what to do where there is none."""
    remedy_url: str = ""
    caused_by: str = ""
    """`CODE OBJECT` of the finding that this one follows from."""
    touches: tuple[str, ...] = ()
    """Objects that it hangs on: a finding about one of them may be its cause."""

    @property
    def key(self) -> str:
        """What `caused_by` of another one names."""
        return f"{self.code} {self.object}"

    def public(self) -> dict[str, Any]:
        """For people and programs: without what only ranking needs."""
        return {name: value for name, value in msgspec.to_builtins(self).items() if name != "touches"}
