"""Runs -> the table that people read. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.stats import ratio, spread

OURS = "vdi"
MOST_WRITES = 7  # finalizer, home, pod, service, route, status; and the Secret
OWN_P99_MS = 50.0
YARDSTICK = "go-same"
# Title, where the figure lies, and the most that it may be of the yardstick's.
AIMS = (
    ("create -> pod created p50, one at a time", "trickle.pod_created.p50_ms", 1.0),
    ("all sessions Running", "burst.sessions_running_s", 0.95),
    ("operator CPU", "burst.operator_cpu_s", 1.05),
    ("operator peak memory", "peak_rss_mib", 0.75),
)
NOISY_PERCENT = 10.0

# Title and where the figure lies in a run; a title without a place heads a group.
ROWS = (
    ("one session every 200 ms", ""),
    ("API writes, create -> Running", "api.trickle.writes_per_session"),
    ("API reads, create -> Running", "api.trickle.reads_per_session"),
    ("Events written", "api.trickle.events_per_session"),
    ("create -> pod created p50, ms", "trickle.pod_created.p50_ms"),
    ("create -> pod created p99, ms", "trickle.pod_created.p99_ms"),
    ("pod Running -> session Running p50, ms", "trickle.pod_to_session_running.p50_ms"),
    ("CPU of others, % of the machine", "trickle.foreign_percent"),
    ("burst", ""),
    ("all pods created, s", "burst.pods_created_s"),
    ("all sessions Running, s", "burst.sessions_running_s"),
    ("create -> pod created p50, ms", "burst.pod_created.p50_ms"),
    ("create -> pod created p99, ms", "burst.pod_created.p99_ms"),
    ("operator CPU, s", "burst.operator_cpu_s"),
    ("API server CPU, s", "burst.apiserver_cpu_s"),
    ("CPU of the whole cluster, s", "burst.cluster_cpu_s"),
    ("operator peak memory, MiB", "peak_rss_mib"),
    ("API writes per session", "api.burst.writes_per_session"),
    ("API reads per session", "api.burst.reads_per_session"),
    ("watches opened again", "api.burst.watches_opened"),
    ("refused or failed requests", "api.burst.errors"),
    ("CPU of others, % of the machine", "burst.foreign_percent"),
    ("all of them idle", ""),
    ("operator CPU, % of a core", "idle.cpu_percent_of_core"),
    ("operator memory, MiB", "idle.rss_mib"),
    ("all deleted at once", ""),
    ("API writes per session", "api.delete.writes_per_session"),
    ("all sessions gone, s", "delete.sessions_gone_s"),
    ("all pods gone, s", "delete.pods_gone_s"),
)


def figure(run: dict[str, Any], path: str) -> float | None:
    """The number at a dotted path, None when the run did not get that far."""
    value: Any = run
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return None if value is None else float(value)


def values(runs: Sequence[dict[str, Any]], name: str, path: str) -> list[float]:
    """One figure of all the runs of one contender."""
    return [
        value for run in runs if run["name"] == name and (value := figure(run, path)) is not None
    ]


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: one column per contender, and the first one's ratio to each of the
    others.
    """
    names = list(dict.fromkeys(run["name"] for run in runs))
    first, *others = names
    rows = [["", *names, *(f"{first} / {other}" for other in others)]]
    for title, path in ROWS:
        if not path:
            rows.append([f"**{title}**", *[""] * (len(rows[0]) - 1)])
            continue
        cells = [spread(values(runs, name, path)) for name in names]
        compared = () if path.endswith("foreign_percent") else others
        ratios = [ratio(values(runs, first, path), values(runs, other, path)) for other in compared]
        rows.append([title, *cells, *ratios, *[""] * (len(others) - len(ratios))])
    return render(rows)


def render(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the header, as aligned Markdown."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def goals(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What the project promises of its own operator, and whether these runs show it. Nothing
    without its runs.
    """
    writes = values(runs, OURS, "api.trickle.writes_per_session")
    reads = values(runs, OURS, "api.trickle.reads_per_session")
    slowest = values(runs, OURS, "trickle.pod_created.p99_ms")
    floor = values(runs, "floor", "trickle.pod_created.p99_ms")
    said = []
    if writes and reads:
        said.append(
            goal(
                max(writes) <= MOST_WRITES,
                f"{max(writes):g} API writes per start, at most {MOST_WRITES}",
            )
        )
        said.append(goal(max(reads) == 0, f"{max(reads):g} API reads per start, none allowed"))
    if slowest and floor:
        ours, theirs = statistics.median(slowest), statistics.median(floor)
        text = (
            f"create -> pod created p99 {ours:g} ms, floor {theirs:g} ms: under {OWN_P99_MS:g} ms"
            " of our own wanted"
        )
        said.append(goal(ours - theirs < OWN_P99_MS, text))
    for title, path, most in AIMS:
        mine, yardstick = values(runs, OURS, path), values(runs, YARDSTICK, path)
        if mine and yardstick:
            share = statistics.median(mine) / statistics.median(yardstick)
            said.append(
                goal(
                    share <= most, f"{title}: {share:.2f} of {YARDSTICK}'s, at most {most:g} wanted"
                )
            )
    return said


def goal(met: bool, text: str) -> str:
    """A line that starts with its verdict."""
    return f"{'met   ' if met else 'MISSED'}  {text}"


def remarks(runs: Sequence[dict[str, Any]]) -> list[str]:
    """What the reader must know beside the table: runs that failed, and runs that were
    disturbed.
    """
    said = []
    for run in runs:
        which = f"{run['name']}, repeat {run['repeat']}"
        if "error" in run:
            said.append(f"ERROR {which}: {run['error']}")
        for phase in ("trickle", "burst"):
            others = figure(run, f"{phase}.foreign_percent")
            if others is not None and others > NOISY_PERCENT:
                said.append(
                    f"disturbed: {which}, {phase}: other programs used {others:g} % of the machine"
                )
    return said
