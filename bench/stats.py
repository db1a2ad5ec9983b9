"""Percentiles and medians. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: always a value that was measured, None when nothing was."""
    if not values:
        return None
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def latency(seconds: Sequence[float]) -> dict[str, float | int | None]:
    """What the report shows of many latencies: n, and p50, p99 and the largest in milliseconds."""

    def milliseconds(value: float | None) -> float | None:
        return None if value is None else round(value * 1000, 1)

    return {
        "n": len(seconds),
        "p50_ms": milliseconds(percentile(seconds, 50)),
        "p99_ms": milliseconds(percentile(seconds, 99)),
        "max_ms": milliseconds(max(seconds, default=None)),
    }


def spread(values: Sequence[float]) -> str:
    """`median [smallest..largest]`; the value alone when there is one, `-` without one."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.4g}"
    return middle if len(values) == 1 else f"{middle} [{min(values):.4g}..{max(values):.4g}]"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median by median; `-` when one side was not measured or is zero."""
    if not ours or not theirs or not statistics.median(theirs):
        return "-"
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}"
