"""What machines report, line by line, and the tables of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

_FACTS = {
    "machine": "Machine",
    "kernel": "Kernel",
    "cgroup": "cgroup",
    "containerd": "containerd",
    "python": "Python",
    "processor": "Processor",
}


@dataclass
class StepResult:
    """One step of a machine."""

    name: str
    state: str = "running"
    """`running`, `ok` or `failed`."""
    seconds: float = 0.0
    message: str = ""
    log: str = ""
    """The path of its log on this host, of a step that failed."""


@dataclass
class MachineReport:
    """What one machine has reported so far."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    is_done: bool = False
    """It came to its end and switched itself off."""
    restarts: int = 0
    seconds: float = 0.0
    """From the first start to the end."""

    @property
    def is_ok(self) -> bool:
        """Every step was done and did what it should."""
        return self.is_done and all(step.state == "ok" for step in self.steps)

    def take(self, line: str, *, since_start_s: float) -> None:
        """One line of a machine's report; `since_start_s`: seconds since its processor was switched on last."""
        event: dict[str, Any] = json.loads(line)
        if "booted" in event:
            self.steps.append(StepResult("boot" if not self.restarts else "boot again", "ok", since_start_s))
        if "facts" in event:
            self.facts |= event["facts"]
        if "restart" in event:
            self.restarts += 1
            self.steps.append(StepResult("reboot"))
        if "done" in event:
            self.is_done = True
        if "step" in event:
            if event["state"] == "running":
                self.steps.append(StepResult(event["step"]))
            else:
                step = self.steps[-1]
                step.state, step.seconds = event["state"], event["seconds"]
                step.message = event.get("message", "")

    def has_restarted(self, seconds: float) -> None:
        """It is off, and will be switched on again: `seconds` since it was asked to."""
        self.steps[-1].state, self.steps[-1].seconds = "ok", seconds

    def end(self, reason: str) -> None:
        """It has stopped: a step that was running then has failed, for this reason."""
        if self.is_done:
            return
        if not self.steps or self.steps[-1].state != "running":
            self.steps.append(StepResult("between two steps" if self.steps else "boot"))
        self.steps[-1].state, self.steps[-1].message = "failed", reason


def to_json(reports: Sequence[MachineReport]) -> str:
    """What `-o json` prints."""
    machines = [{**asdict(report), "is_ok": report.is_ok} for report in reports]
    return json.dumps({"is_ok": all(report.is_ok for report in reports), "machines": machines}, indent=2)


def to_tables(reports: Sequence[MachineReport]) -> str:
    """Two tables in Markdown: the machines, and the seconds of each step. What failed is written below."""
    machines = [
        [
            *(report.facts.get(fact, "?") for fact in _FACTS),
            "ok" if report.is_ok else "failed",
            _minutes(report.seconds),
        ]
        for report in reports
    ]
    names = list(dict.fromkeys(step.name for report in reports for step in report.steps))
    steps = [[name, *(_time_of(report, name) for report in reports)] for name in names]
    text = _table([*_FACTS.values(), "Result", "Time"], machines)
    text += "\n" + _table(["Step, seconds", *(report.name for report in reports)], steps)
    for report in reports:
        for step in report.steps:
            if step.state != "ok":
                text += f"\n{report.name}: {step.name}: {step.message}\n" + (f"  log: {step.log}\n" if step.log else "")
    return text


def _time_of(report: MachineReport, name: str) -> str:
    step = next((step for step in report.steps if step.name == name), None)
    if step is None:
        return "-"
    return f"{step.seconds:.0f}" if step.state == "ok" else f"{step.seconds:.0f} failed"


def _minutes(seconds: float) -> str:
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |\n" for line in lines
    )
