"""The decision about what draws OpenGL (prove-graphics). Applications start after it."""

import json
import os
import signal
import time
from pathlib import Path

from display import NVIDIA_GLX, WAYLAND, X11, ZINK

from launcher.clock import GRAPHICS, Clock
from launcher.environment import Environments
from launcher.log import last_line, log
from launcher.processes import Processes

_PROGRAM = ("/opt/selkies/bin/python3", "/usr/local/lib/vdi/prove-graphics")
_LONGEST_SECONDS = 30.0


class GraphicsDecision:
    """Starts the probe, gives it up when it takes too long, and sets what applications need."""

    def __init__(
        self, processes: Processes, environments: Environments, clock: Clock, runtime: Path
    ) -> None:
        self._processes, self._environments, self._clock = processes, environments, clock
        self._decision, self._log = runtime / "graphics", runtime / "graphics.log"
        self._given_up_at = 0.0  # while the probe runs

    def start(self) -> None:
        self._given_up_at = time.monotonic() + _LONGEST_SECONDS
        with self._log.open("wb") as output:
            command = [*_PROGRAM, str(self._decision)]
            self._processes.start("graphics", command, stdout=output, stderr=output)

    def give_up_when_late(self, now: float) -> None:
        """End the probe at its time."""
        if self._given_up_at and now > self._given_up_at:
            self._given_up_at = 0.0
            os.killpg(self._processes.running["graphics"].pid, signal.SIGKILL)

    def ended(self, code: int) -> None:
        """Read the decision, and log it. A probe that failed leaves the applications Mesa's
        software renderer.
        """
        self._given_up_at = 0.0
        message = last_line(self._log.read_text(errors="replace"))
        if code == 0:
            self._use(json.loads(self._decision.read_text())["renderer"])
        else:
            message = self._note_failure(code, message)
        self._clock.mark(GRAPHICS)
        log(f"OpenGL: {message}")

    def _use(self, renderer: str) -> None:
        if renderer == "Zink":
            self._environments.applications |= ZINK
        elif renderer == "Native" and not self._environments.on_wayland:
            self._environments.applications |= NVIDIA_GLX

    def _note_failure(self, code: int, message: str) -> str:
        """Write the decision that the probe owes; returns what the log says of it."""
        reason = f"the probe ended with status {code}"
        if code < 0:
            reason = f"the probe was ended by signal {-code}"
        if message:
            reason = f"{reason}; {message}"
        decision = {
            "display": WAYLAND if self._environments.on_wayland else X11,
            "renderer": "Software",
            "device": "",
            "reason": "ProbeFailed",
            "message": reason[:240],
        }
        self._decision.write_text(json.dumps(decision) + "\n")
        return f"software: {reason}"
