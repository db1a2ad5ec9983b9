"""The programs that the launcher has started, by name."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path

from launcher.applications import NICE
from launcher.clock import START_SECONDS, Clock
from launcher.ending import end_with
from launcher.environment import Environments
from launcher.handover import Handover
from launcher.log import refuse

# labwc runs this once it is up: on which sockets applications find it and Xwayland.
_TELL_LABWC = (
    """sh -c 'printf "%s\\n" "$WAYLAND_DISPLAY" "$DISPLAY" > {0}.part && mv {0}.part {0}'"""
)


def command_lines(runtime: Path, display: str, screen: str, app: list[str]) -> dict[str, list[str]]:
    """The command of each part; of one that is not named here, its name.

    Args:
        display: the X server's, empty on Wayland.
        screen: the largest one.
        app: the command that is shown in the place of a whole desktop.
    """
    bus = f"--address=unix:path={runtime}/bus"
    return {
        "Xvfb": [
            *("Xvfb", display, "-auth", f"{runtime}/Xauthority", "-screen", "0", f"{screen}x24"),
            *("-nolisten", "tcp", "-noreset", "-s", "0", "-dpms", "+extension", "GLX", "-shmem"),
        ],
        "dbus-daemon": [
            *("dbus-daemon", "--session", bus, "--nofork", "--nopidfile", "--nosyslog")
        ],
        "pulseaudio": [
            *("pulseaudio", "-n", "--file=/etc/pulse/vdi.pa", "--daemonize=no"),
            *("--exit-idle-time=-1", "--realtime=no", "--high-priority=no", "--disable-shm=yes"),
            "--log-level=error",
        ],
        "selkies": ["/usr/local/lib/vdi/run-selkies", *sys.argv[1:]],
        # Selkies starts one of its own, once, when a second screen comes: this one takes its place.
        "xfwm4": ["xfwm4", "--replace"],
        "labwc": ["labwc", "-s", _TELL_LABWC.format(runtime / "labwc")],
        "application": app,
        "matchbox": ["matchbox-window-manager", "-use_titlebar", "no", "-use_cursor", "yes"],
    }


class Processes:
    """Starts programs, waits for their sockets and collects them.

    Args:
        commands: command lines of those that are not started by their name.
        niced: those that yield CPU, with all that they start.
    """

    def __init__(
        self,
        commands: Mapping[str, list[str]],
        niced: Set[str],
        environments: Environments,
        handover: Handover,
        clock: Clock,
    ) -> None:
        self._commands, self._niced = commands, niced
        self._environments, self._handover, self._clock = environments, handover, clock
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.stopping = False

    def start(self, name: str, command: list[str] | None = None, **options: object) -> None:
        """Start a program in a session (and so a process group) of its own. Raises OSError."""
        argv = command or self._commands.get(name, [name])
        popen = {"stdin": subprocess.DEVNULL, "start_new_session": True, **options}
        with self._handover.to(name) as (variables, descriptors):
            env = {**self._environments.of(name), **variables}
            self.running[name] = subprocess.Popen(argv, env=env, pass_fds=descriptors, **popen)
        if name in self._niced:
            os.setpriority(os.PRIO_PGRP, self.running[name].pid, NICE)

    def wait_for(
        self, name: str, path: Path, is_ready: Callable[[Path], bool] | None = None
    ) -> None:
        """Wait until a program's socket answers. Refuses one that ends or does not come up in
        time.
        """
        while not (is_ready or answers)(path):
            if (code := self.running[name].poll()) is not None:
                end_with(name, code, f"{name} ended with status {code} before it was ready")
            if self.stopping:
                raise SystemExit(0)
            if self._clock.age() > START_SECONDS:
                refuse(f"{name} did not come up within {START_SECONDS:.0f} s")
            self._clock.report_waiting(name)
            time.sleep(0.005)

    def collect(self) -> tuple[str, int] | None:
        """Name and exit code of the next program that has ended; None while none has. The name of
        an orphan of the desktop is empty.
        """
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        for name, process in self.running.items():
            if process.pid == pid:
                process.returncode = code
                del self.running[name]
                return name, code
        return "", code


def answers(path: Path) -> bool:
    """Whether a server accepts connections on this socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0
