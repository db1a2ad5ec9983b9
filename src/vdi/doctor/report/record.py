"""What a run has found, in numbers, as it is kept in a ConfigMap: the CronJob writes it, the gateway's metrics show it.

Names of people and objects are not in it. Pure.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from vdi.doctor.codes import CODES
from vdi.findings.model import Finding, Severity, roots
from vdi.session.times import parse_time

KEY = "findings.json"


class BadRecordError(ValueError):
    """Raised when a ConfigMap holds no record; the message says why."""


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Causes of one code; what follows from others is not counted."""

    code: str
    severity: Severity
    layer: str
    number: int


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One run."""

    taken_at: str
    counts: tuple[Count, ...] = ()


def record_of(findings: Iterable[Finding], taken_at: str) -> Record:
    """The record of a run."""
    counted = Counter((root.code, root.severity) for root in roots(list(findings)))
    return Record(
        taken_at=taken_at,
        counts=tuple(
            Count(code=code, severity=severity, layer=CODES[code].layer, number=number)
            for (code, severity), number in sorted(counted.items())
        ),
    )


def to_patch(record: Record) -> dict[str, Any]:
    """The merge patch that keeps it in a ConfigMap."""
    return {"data": {KEY: msgspec.json.encode(record).decode()}}


def read_record(config_map: dict[str, Any]) -> Record | None:
    """What `to_patch` has kept, None before the first run. Raises BadRecordError."""
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        return None
    try:
        record = msgspec.json.decode(text, type=Record)
        parse_time(record.taken_at)
    except (msgspec.DecodeError, ValueError) as error:
        raise BadRecordError(f"{KEY} is not a record of vdi doctor: {error}") from error
    return record
