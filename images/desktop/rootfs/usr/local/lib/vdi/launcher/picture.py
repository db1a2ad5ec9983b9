"""The proof that pictures of the desktop can be captured and encoded (prove-picture)."""

import contextlib
import os
import subprocess
import time
from pathlib import Path

from launcher.clock import FIRST_PICTURE, START_SECONDS, Clock
from launcher.ending import end_with
from launcher.log import last_line, log
from launcher.processes import Processes

_PROGRAM = ("/opt/selkies/bin/python3", "/usr/local/lib/vdi/prove-picture")
_LATE = 3  # its status when it had no answer in its time: slow is not broken
_AGAIN_SECONDS = 60.0
LATER_TRY_SECONDS = 20.0  # how long a later try may take
_MOST_FAILURES = 3  # in a row
_LOWEST_PRIORITY = 19


class PictureProof:
    """Tries at one picture: the first must succeed, later three that fail in a row are the end."""

    def __init__(self, processes: Processes, clock: Clock, runtime: Path) -> None:
        self._processes, self._clock, self._runtime = processes, clock, runtime
        self._failures = 0
        self.next_try = 0.0  # monotonic; 0: none is due

    def start(self) -> None:
        """Loads while the display server does, and waits at its input for the screen."""
        command = [*_PROGRAM, str(self._runtime / "picture"), f"{self.longest_try():.0f}"]
        with (self._runtime / "picture.log").open("wb") as output:
            self._processes.start(
                "picture", command, stdin=subprocess.PIPE, stdout=output, stderr=output
            )

    def begin(self) -> None:
        """The screen is there."""
        pipe = self._processes.running["picture"].stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: `ended` logs why
            pipe.close()

    def longest_try(self) -> float:
        """Seconds that a try may take: the first as long as the pod's probes wait."""
        if FIRST_PICTURE in self._clock.seen:
            return LATER_TRY_SECONDS
        return max(1.0, START_SECONDS - self._clock.age())

    def try_when_due(self, now: float) -> None:
        """Start a later try at its time."""
        if not self.next_try or now <= self.next_try:
            return
        self.next_try = 0.0
        try:
            self._try_again()
        except OSError as error:  # a full disk, or as many processes as the pod may have
            log(f"no try at a picture now: {error}")
            self.next_try = now + _AGAIN_SECONDS

    def _try_again(self) -> None:
        self.start()
        os.setpriority(os.PRIO_PROCESS, self._processes.running["picture"].pid, _LOWEST_PRIORITY)
        self.begin()

    def ended(self, code: int) -> None:
        """A try has ended with this exit code. Ends the desktop where no picture can be made."""
        reason = last_line((self._runtime / "picture.log").read_text(errors="replace"))
        self.next_try = time.monotonic() + _AGAIN_SECONDS
        is_first = FIRST_PICTURE not in self._clock.seen
        if code == 0:
            self._failures = 0
            if is_first:
                self._clock.mark(FIRST_PICTURE)
                log(f"picture: {reason}")
            return
        if code < 0:
            reason = f"the encoder was ended by signal {-code}; {reason}"
        if code != _LATE:
            self._failures += 1
        if is_first or self._failures >= _MOST_FAILURES:
            end_with("the encoder", code, f"no picture can be made: {reason}")
        log(f"no picture now: {reason}")
