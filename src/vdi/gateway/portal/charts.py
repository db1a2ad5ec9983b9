"""Charts as numbers: what a template draws as inline SVG. Pure.

Each chart has a sentence that says the same, and the page has a table with every value: nothing is in a picture alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from vdi.gateway.history.trends import Interval
from vdi.gateway.portal.timeline import seconds
from vdi.gateway.web.template_filters import count

HEIGHT = 100.0
"""Of a chart, in its own units; its width is the number of its bars."""
_GAP = 0.2
"""Between two bars, as a share of one."""
_VISIBLE = 1.5
"""Height of the smallest bar that is not zero."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar."""

    x: float
    y: float
    height: float
    begin: datetime
    label: str
    """The value in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart of a trend."""

    name: str
    title: str
    bars: tuple[Bar, ...]
    """Without those of intervals that have no value."""
    count: int
    """Intervals."""
    top: str
    """What the height of the chart stands for."""
    limit: float | None
    """Where the line of the limit is, from above; None: no limit is known."""
    summary: str

    @property
    def bar_width(self) -> float:
        """In the units of `x`."""
        return 1 - _GAP


def trend_charts(intervals: Sequence[Interval], gpu_total: int | None) -> list[Chart]:
    """The charts of an overview: desktops, GPU slots, queue wait, start-up time."""
    return [
        _chart("desktops", "Running desktops", intervals, lambda interval: interval.desktops, _number),
        _chart("gpus", "GPU slots in use", intervals, lambda interval: interval.gpus, _number, limit=gpu_total),
        _chart("queue", "Queue wait (median)", intervals, lambda interval: interval.queue_seconds, seconds),
        _chart("startup", "Time to start (median)", intervals, lambda interval: interval.startup_seconds, seconds),
    ]


def _chart(
    name: str,
    title: str,
    intervals: Sequence[Interval],
    value_of: Callable[[Interval], float | None],
    words: Callable[[float], str],
    *,
    limit: int | None = None,
) -> Chart:
    known = [
        (number, interval, value)
        for number, interval in enumerate(intervals)
        if (value := value_of(interval)) is not None
    ]
    highest = max((value for _, _, value in known), default=0.0)
    top = max(highest, limit or 0)
    bars = []
    for number, interval, value in known:
        height = max(value / top * HEIGHT, _VISIBLE) if value else 0.0
        bars.append(Bar(number + _GAP / 2, round(HEIGHT - height, 2), round(height, 2), interval.begin, words(value)))
    summary = f"at most {words(highest)}, last {words(known[-1][2])}" if known else "no desktop started"
    if limit:
        summary += f", of {limit}"
    return Chart(
        name=name,
        title=title,
        bars=tuple(bars),
        count=len(intervals),
        top=words(top) if top else "",
        limit=round(HEIGHT - limit / top * HEIGHT, 2) if limit else None,
        summary=summary,
    )


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _hours(value: float) -> str:
    return f"{value:,.1f} h"


@dataclass(frozen=True, slots=True)
class Share:
    """One bar of a list that compares."""

    name: str
    label: str
    percent: float
    """Of the largest; 0: no bar."""


def shares(amounts: Sequence[tuple[str, float]], most: int = 10) -> list[Share]:
    """The largest, and the others in one line: their sum is not to be compared with single ones, and has no bar."""
    ordered = sorted(((name, value) for name, value in amounts if value > 0), key=lambda pair: (-pair[1], pair[0]))
    found = [Share(name, _hours(value), round(100 * value / ordered[0][1], 1)) for name, value in ordered[:most]]
    if others := ordered[most:]:
        found.append(Share(count(len(others), "other"), _hours(sum(value for _, value in others)), 0.0))
    return found
