"""The end of a desktop: its reason, and the order in which its processes end."""

import contextlib
import os
import signal
import time
from collections.abc import Set
from pathlib import Path
from typing import NoReturn

from memory_use import read_kills

from launcher.log import refuse

_TERM_SECONDS = 1.0
TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes' terminationMessagePath


def end_with(name: str, code: int, reason: str) -> NoReturn:
    """End because a part has ended with this exit code, for this reason.

    Where the kernel killed it for want of memory the termination message begins with OutOfMemory,
    which the operator reads: the container runtime often learns of the kill after this process has
    ended, and then calls it an error.
    """
    if code == -signal.SIGKILL and read_kills():
        reason = f"{name} was killed, since the desktop had used all of its memory"
        with contextlib.suppress(OSError):  # outside Kubernetes it does not exist
            TERMINATION_LOG.write_text(f"OutOfMemory: {reason}\n")
    refuse(reason)


def end_processes(display_servers: Set[int], *, on_wayland: bool) -> None:
    """End every process: applications and Selkies get a moment to save while their display still
    stands.
    """
    servers = display_servers | {pid for pid in descendants() if _name_of(pid) == "Xwayland"}
    _end(signal.SIGTERM, spared=servers)
    if on_wayland:  # Selkies is the display server: it gets its moment after them
        _end(signal.SIGTERM)
    _end(signal.SIGKILL)
    if os.getpid() == 1:  # all at once, before this process lets go of the ports
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


def _end(sig: signal.Signals, spared: Set[int] = frozenset()) -> None:
    """Send a signal, and wait until all have ended, but not for long."""
    for pid in descendants() - spared:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
    deadline = time.monotonic() + _TERM_SECONDS
    while time.monotonic() < deadline and descendants() - spared:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(0.01)


def _name_of(pid: int) -> str:
    """The name of a process; empty when it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def descendants() -> set[int]:
    """Every process below this one. Being their reaper, it is an ancestor of what was orphaned
    too.
    """
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    below: set[int] = set()
    layer = [os.getpid()]
    while layer:
        parents, layer = layer, []
        for parent in parents:
            # A number that was given again while /proc was read can make a circle.
            layer += set(children.get(parent, [])) - below
        below.update(layer)
    return below
