"""Steps of the start, each with its time since this process was executed."""

import os
import time
from pathlib import Path

from launcher.log import log

FIRST_PICTURE, GRAPHICS, SERVES = "first picture encoded", "graphics decided", "Selkies serves"
# Since the container's start, for what the first picture needs. The pod's liveness probe ends a
# desktop that does not listen after 80 s (session/children.py), without a reason in the log: this
# process ends it just before, with one.
START_SECONDS = 75.0
WAITING_SECONDS = 10.0  # how often the log says what the desktop waits for


class Clock:
    """Knows which steps have been reached, and when."""

    def __init__(self) -> None:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        self.zero = time.monotonic() - (time.clock_gettime(time.CLOCK_BOOTTIME) - began)
        self.seen: dict[str, float] = {}
        self._next_report = WAITING_SECONDS

    def mark(self, step: str) -> None:
        """This step has been reached now."""
        self.seen.setdefault(step, self.age())

    def age(self) -> float:
        """Seconds since this process was executed."""
        return time.monotonic() - self.zero

    def line(self) -> str:
        """Every step with its time."""
        return "start-up: " + ", ".join(f"{step} {at:.2f} s" for step, at in self.seen.items())

    def report_waiting(self, *names: str) -> None:
        """Log now and then what the desktop waits for: on a slow node its start takes a minute."""
        if self.age() > self._next_report:
            self._next_report = self.age() + WAITING_SECONDS
            log(f"after {self.age():.0f} s: waiting for {', '.join(names)}")
