"""The start-up scripts of the template and of the user."""

import contextlib
import os
import time
from pathlib import Path

from script_reports import FOLDER, ScriptReport

from launcher.clock import Clock
from launcher.log import log
from launcher.processes import Processes

TEMPLATE_SCRIPT, USER_SCRIPT = "the template's start-up script", "the user's start-up script"
_USER_FILE = Path(".config/vdi/startup.sh")  # below the home
SCRIPT_SECONDS = 10.0  # how long the scripts together may hold up the desktop


def find_scripts(given: str, home: Path) -> dict[str, list[str]]:
    """The commands of the scripts there are, by name: that in VDI_STARTUP_SCRIPT, then that in the
    home.
    """
    paths = {USER_SCRIPT: home / _USER_FILE}
    if given:
        paths = {TEMPLATE_SCRIPT: Path(given), **paths}
    commands: dict[str, list[str]] = {}
    for name, path in paths.items():
        with contextlib.suppress(OSError):  # a home that cannot be read here has no script
            if path.is_file():
                commands[name] = [str(path)] if _is_program(path) else ["sh", str(path)]
    if given and TEMPLATE_SCRIPT not in commands:
        log(f"VDI_STARTUP_SCRIPT={given} is not a file: no start-up script of the template runs")
    return commands


def _is_program(path: Path) -> bool:
    """Whether the kernel can start it: a script that names its interpreter, or a binary. Others are
    for sh.
    """
    with path.open("rb") as file:
        return os.access(path, os.X_OK) and file.read(4).startswith((b"#!", b"\x7fELF"))


class StartupScripts:
    """Runs one script after the other; applications start after them, or after SCRIPT_SECONDS."""

    def __init__(
        self, commands: dict[str, list[str]], processes: Processes, clock: Clock, runtime: Path
    ) -> None:
        self.commands = commands
        self._waiting = list(commands)
        self._processes, self._clock = processes, clock
        self._folder = runtime / FOLDER
        self._reports: dict[str, ScriptReport] = {}
        self._held_until = 0.0

    @property
    def hold_up_the_desktop(self) -> bool:
        """Whether applications wait for them."""
        return bool(self._held_until)

    def start(self) -> None:
        """Start the first."""
        if self._waiting:
            self._held_until = time.monotonic() + SCRIPT_SECONDS
            self._start_next()

    def _start_next(self) -> None:
        while self._waiting:
            if self._start(self._waiting.pop(0)):
                return
        self._release("start-up scripts done")

    def _start(self, name: str) -> bool:
        """Whether the script runs."""
        source = "template" if name == TEMPLATE_SCRIPT else "user"
        report = ScriptReport(self._folder / str(len(self._reports)), source)
        self._reports[name] = report
        command = self.commands[name]
        log(f"{name} starts: {' '.join(command)}")
        output = report.open()
        try:
            self._processes.start(name, command, stdout=output, stderr=output)
        except OSError as error:  # no program at its beginning, or one that the image lacks
            log(f"{name} can't be started: {error}")
            report.fail(f"{error.strerror}: {command[0]}")
            return False
        finally:
            os.close(output)
        return True

    def ended(self, name: str, code: int) -> None:
        """This one has ended with this exit code."""
        self._reports[name].end(code)
        log(f"{name} ended with status {code}")
        if self._held_until:
            self._start_next()

    def look(self, now: float) -> None:
        """Pass on what they have written, and wait for them no longer than they have."""
        for report in self._reports.values():
            report.drain()
        if self._held_until and now > self._held_until:
            self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        """Neither for a script that runs nor with one that has not begun."""
        late = ", ".join(name for name in self.commands if name in self._processes.running)
        log(
            f"{late} still runs after {SCRIPT_SECONDS:.0f} s;"
            " the desktop starts without waiting for it"
        )
        while self._waiting:
            self._start_next()
        self._release("start-up scripts left to themselves")

    def _release(self, step: str) -> None:
        if self._held_until:
            self._held_until = 0.0
            self._clock.mark(step)
