"""Programs that a run starts, and what the kernel says of them: CPU time and memory of whole
process trees.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
MACHINE_CPUS = os.cpu_count() or 1


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the program's name; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def process_tree(root: int) -> list[int]:
    """`root` and all its descendants, parents first."""
    children = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := stat_fields(int(entry))):
            children[int(fields[1])].append(int(entry))
    tree, todo = [], [root]
    while todo:
        pid = todo.pop()
        tree.append(pid)
        todo += children[pid]
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree, ended and reaped children included."""
    ticks = sum(
        sum(map(int, fields[11:15])) for pid in process_tree(root) if (fields := stat_fields(pid))
    )
    return ticks / TICKS_PER_SECOND


def machine_cpu_seconds() -> float:
    """Busy CPU time of the whole machine: all but idle and waiting for disks."""
    user, nice, system, _idle, _iowait, *interrupts = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / TICKS_PER_SECOND


def memory_mib(root: int, key: str = "VmRSS") -> float:
    """Memory of a process tree in MiB: `VmRSS` is now, `VmHWM` the kernel's own record of the
    peak.
    """
    kib = 0
    for pid in process_tree(root):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        kib += sum(
            int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{key}:")
        )
    return round(kib / 1024, 1)


class Processes:
    """The programs of one run by name; each has a session of its own and a log `NAME.log` in
    `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] = {}
    ) -> subprocess.Popen[bytes]:
        """Start a program in the caller's directory, without proxies: everything here is on
        loopback.
        """
        inherited = {
            key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")
        }
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(map(str, argv)),
                env=inherited | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def log_tail(self, name: str, characters: int = 800) -> str:
        """The end of a program's log."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-characters:].strip()

    def cpu(self) -> dict[str, float]:
        """CPU seconds until now of each program, of the bench itself (`bench`) and of everything
        else (`foreign`).
        """
        seconds = {name: cpu_seconds(process.pid) for name, process in self.running.items()}
        seconds["bench"] = cpu_seconds(os.getpid()) - sum(seconds.values())
        seconds["foreign"] = machine_cpu_seconds() - sum(seconds.values())
        return seconds

    def stop(self, names: Iterable[str]) -> None:
        """End these programs: asked at once, waited for together, killed after ten seconds."""
        ending = [self.running.pop(name) for name in names if name in self.running]
        trees = [
            pid for process in ending if process.poll() is None for pid in process_tree(process.pid)
        ]
        send(trees, signal.SIGTERM)
        for process in ending:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                send(trees, signal.SIGKILL)
                process.wait()


def end_cleanly_on_signals() -> None:
    """SIGTERM ends the program as Ctrl-C does, and Ctrl-C works where a shell had it ignored (in
    the background).
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
