"""Counters, histograms and gauges in the words of Prometheus' text format, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. Own code, because the usual library was measured to hold
2.8 MiB, most of it for servers and collectors that nobody uses here. Touched from the event loop's thread only.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[str, ...]
"""Values of a metric's labels, in their order."""


class Counter:
    """A number that only grows, one for each combination of its labels' values. `name` ends in `_total`."""

    def __init__(self, name: str, words: str, labels: Sequence[str]) -> None:
        self._name = name
        self._words = words
        self._labels = labels
        self._values: dict[Labels, int] = {}

    def add(self, *values: str, number: int = 1) -> None:
        """Count; a `number` of 0 only makes the counter show."""
        self._values[values] = self._values.get(values, 0) + number

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self._name, self._words, "counter")
        for values, number in self._values.items():
            yield _line(self._name, zip(self._labels, values, strict=True), number)


class Histogram:
    """How often something was at most so large, one row of buckets for each combination of its labels' values."""

    def __init__(self, name: str, words: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> None:
        self._name = name
        self._words = words
        self._buckets = buckets
        self._labels = labels
        self._rows: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}
        if not labels:
            self.show()

    def show(self, *values: str) -> list[int]:
        """Make the row of these labels show, and give its buckets: what is above the last bound is in the last one."""
        self._sums.setdefault(values, 0.0)
        return self._rows.setdefault(values, [0] * (len(self._buckets) + 1))

    def observe(self, value: float, *values: str) -> None:
        """It was so large."""
        self.show(*values)[bisect_left(self._buckets, value)] += 1
        self._sums[values] += value

    def lines(self) -> Iterator[str]:
        """The metric as text."""
        yield from _head(self._name, self._words, "histogram")
        for values, row in self._rows.items():
            labels = list(zip(self._labels, values, strict=True))
            total = 0
            for bound, number in zip((*map(float, self._buckets), "+Inf"), row, strict=True):
                total += number
                yield _line(f"{self._name}_bucket", [*labels, ("le", str(bound))], total)
            yield _line(f"{self._name}_sum", labels, self._sums[values])
            yield _line(f"{self._name}_count", labels, total)


def gauge(name: str, words: str, values: float | Mapping[Labels, float], labels: Sequence[str] = ()) -> Iterator[str]:
    """A number that goes up and down as text, or one for each combination of the labels' values."""
    yield from _head(name, words, "gauge")
    for of, value in values.items() if isinstance(values, Mapping) else [((), values)]:
        yield _line(name, zip(labels, of, strict=True), value)


def _head(name: str, words: str, kind: str) -> Iterator[str]:
    escaped = words.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {name} {escaped}\n"
    yield f"# TYPE {name} {kind}\n"


def _line(name: str, labels: Iterable[tuple[str, str]], value: float) -> str:
    inner = ",".join(f'{label}="{_escape(text)}"' for label, text in labels)
    return f"{name}{{{inner}}} {float(value)}\n" if inner else f"{name} {float(value)}\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
