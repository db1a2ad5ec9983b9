"""Starting, finding and stopping the supervisor: the only process that `vdi cluster` itself starts
and ends.

A process is known by its id and its start time together, so that an id that was given out again is
never hit.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgspec

from vdi.devcluster import supervisor
from vdi.devcluster.layout import ClusterError, Layout, write_private
from vdi.devcluster.supervisor import Component

# How long the supervisor gets to stop everything in turn before it is killed.
STOP_SECONDS = 40.0


class ProcessId(msgspec.Struct, frozen=True):
    """A process and the clock tick it started at (field 22 of /proc/PID/stat)."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether that very process still runs (a zombie does not)."""
        return _stat(self.pid) == self.start


def _stat(pid: int) -> int | None:
    """The process's start tick; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Supervised(msgspec.Struct, frozen=True):
    """The supervisor's own process, and what holds its namespaces open (the same without
    namespaces).
    """

    main: ProcessId
    holder: ProcessId


def write_spec(layout: Layout, components: list[Component], setup: list[list[str]]) -> None:
    """Write the supervisor's input: its components, and `setup`, commands it runs first, inside its
    namespaces.

    Only its owner can read the file: containerd's environment may have a proxy's password.
    """
    spec = {"setup": setup, "components": [asdict(component) for component in components]}
    write_private(layout.spec, msgspec.json.format(msgspec.json.encode(spec), indent=1))


def start_supervisor(
    layout: Layout,
    *,
    namespaces: list[str] | None = None,
    listener: socket.socket | None = None,
    prepare: Callable[[int], None] = lambda _pid: None,
) -> None:
    """Start it detached.

    `namespaces` is the command in front of it, `listener` a socket that it keeps for one of its
    components; `prepare(pid)` runs before it may go on.
    """
    layout.logs.mkdir(exist_ok=True)
    layout.status.unlink(missing_ok=True)
    listen_fd = listener.fileno() if listener else -1
    command = [
        *(namespaces or []),
        sys.executable,
        "-I",
        supervisor.__file__,
        str(layout.root),
        str(listen_fd),
    ]
    # No proxies: components that talk to the API server would send their requests to one.
    # containerd's are in the spec.
    env = {name: os.environ[name] for name in ("HOME", "PATH", "LANG") if name in os.environ}
    with (layout.logs / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env=env,
            pass_fds=(listen_fd,) if listener else (),
        )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    try:
        with process.stdin as stdin:
            if namespaces:
                pid = _supervisor_below(process, layout)
            else:
                pid = process.pid
            # Remembered before anything else happens, so that `down` finds it whenever this is
            # interrupted.
            layout.supervisor.write_bytes(
                msgspec.json.encode(Supervised(_identify(pid), _identify(process.pid)))
            )
            prepare(pid)
            stdin.write(supervisor.GO)
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = 0  # it outlives us on purpose: nothing waits for it here


def find_supervisor(layout: Layout) -> Supervised | None:
    """The running supervisor of this cluster, if there is one; looked for when nothing says which
    process it is.
    """
    try:
        supervised = msgspec.json.decode(layout.supervisor.read_bytes(), type=Supervised)
    except (FileNotFoundError, msgspec.DecodeError):
        return _search(layout)
    return supervised if supervised.main.alive else None


def _search(layout: Layout) -> Supervised | None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if _is_supervisor(int(entry.name), layout):
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    in_namespaces = b"unshare" in Path(
                        f"/proc/{parent}/cmdline"
                    ).read_bytes().split(b"\0")
                    main = _identify(int(entry.name))
                    return Supervised(main, _identify(parent) if in_namespaces else main)
    return None


def stop_supervisor(layout: Layout, *, at_once: bool = False) -> bool:
    """End the supervisor and all it runs. True when there was something to end.

    Politely at first; `at_once` as a power cut does.
    """
    supervised = find_supervisor(layout)
    if supervised is None:
        return False
    if not at_once:
        _signal(supervised, signal.SIGTERM)
        wait_until(lambda: not supervised.main.alive, STOP_SECONDS)
    _signal(supervised, signal.SIGKILL)
    if not wait_until(lambda: not (supervised.main.alive or supervised.holder.alive), STOP_SECONDS):
        raise ClusterError(
            f"process {supervised.main.pid} (the supervisor in {layout.root}) does not end, not even"
            " killed"
        )
    return True


def _signal(supervised: Supervised, number: signal.Signals) -> None:
    if supervised.main.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervised.main.pid, number)


def host_pids(supervisor_pid: int) -> dict[int, int]:
    """Of each child of the supervisor: the id that the supervisor knows it by -> its id here."""
    pids = {}
    with contextlib.suppress(OSError):
        for child in (
            Path(f"/proc/{supervisor_pid}/task/{supervisor_pid}/children").read_text().split()
        ):
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text()
                seen = next(
                    line for line in status.splitlines() if line.startswith("NSpid:")
                ).split()[1:]
                pids[int(seen[-1])] = int(child)
    return pids


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Look until it holds; False when it still does not after `seconds`.

    Every 50 ms in the first second, and ever more rarely, so that looks do not slow down a slow
    machine.
    """
    began = time.monotonic()
    while not condition():
        if (passed := time.monotonic() - began) > seconds:
            return False
        time.sleep(min(1.0, max(0.05, passed / 20)))
    return True


def _supervisor_below(process: subprocess.Popen[bytes], layout: Layout) -> int:
    """The supervisor that `process` starts in namespaces: its child, or a child of that."""
    pids: list[int] = []

    def appeared() -> bool:
        if process.poll() is not None:
            raise ClusterError(
                f"the node's namespaces could not be created: status {process.returncode}, see"
                " supervisor.log"
            )
        pids[:] = [pid for pid in _descendants(process.pid) if _is_supervisor(pid, layout)]
        return bool(pids)

    if not wait_until(appeared, 10):
        raise ClusterError(
            "the node's namespaces could not be created within 10 s, see supervisor.log"
        )
    return pids[0]


def _descendants(pid: int) -> list[int]:
    try:
        children = [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    except OSError:
        return []
    below = list(children)
    for child in children:
        below += _descendants(child)
    return below


def _is_supervisor(pid: int, layout: Layout) -> bool:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return command[1:4] == [b"-I", supervisor.__file__.encode(), str(layout.root).encode()]
    return False


def _identify(pid: int) -> ProcessId:
    return ProcessId(pid, _stat(pid) or 0)
