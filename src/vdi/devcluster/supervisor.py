"""The one process that keeps a cluster's programs alive: `python supervisor.py STATE_DIR
LISTEN_FD`.

`vdi cluster up` starts it detached; it reads `STATE_DIR/spec.json`, starts the components in the
order of their dependencies, starts again what crashed, reaps, rotates logs and writes `status.json`
after every change. SIGTERM stops everything in reverse. For a full node it is PID 1 of the node's
own namespaces, so whatever it leaves behind the kernel takes along. Standard library only, one
thread: it must never be the part that fails.

    waiting -> starting -> running          (running: its readiness check answered)
                  ^            |
                  |         it ended
                  +-- backoff <+
"""

import contextlib
import ctypes
import http.client
import json
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What the starter writes to the supervisor's standard input once the surroundings (the network) are
# there.
GO = b"go\n"

LOG_BYTES = 20 << 20
BACKOFF_FIRST, BACKOFF_MOST, STABLE_SECONDS = 0.1, 10.0, 30.0
STOP_SECONDS = 5.0
_TICK = 0.1
_ROTATE_EVERY = 15.0
_PR_SET_PDEATHSIG = 1
_LISTEN_FDS_START = 3  # sd_listen_fds(3)


@dataclass(frozen=True)
class Component:
    """One program as the spec names it.

    `ready` is how to ask whether it is: `{"tcp": "host:port"}`, `{"unix": path}`, `{"https":
    "host:port/path", "ca": file}`; empty when its running is all there is to know.
    """

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)
    ready: dict[str, str] = field(default_factory=dict)
    # Non-empty: it is started once this file is there.
    needs_file: str = ""
    # Non-empty: it gets the supervisor's inherited listening socket under this name, as systemd
    # would hand it on.
    listen_name: str = ""


@dataclass
class State:
    """One component in `status.json`. Times are seconds since the epoch; `last_exit` is in
    words.
    """

    state: str = "waiting"
    pid: int = 0
    since: float = 0.0
    restarts: int = 0
    last_exit: str = ""


class Process:
    """One component and its current process."""

    def __init__(self, component: Component, logs: Path, listen_fd: int) -> None:
        self._listen_fd = listen_fd if component.listen_name else -1
        self.component, self.log, self.state = component, logs / f"{component.name}.log", State()
        self._backoff = BACKOFF_FIRST
        self._start_at = 0.0

    def due(self, now: float) -> bool:
        """Whether it should be started now."""
        needed = self.component.needs_file
        return (
            self.state.pid == 0 and now >= self._start_at and (not needed or Path(needed).exists())
        )

    def start(self) -> None:
        """Fork and exec with the log as its output. It dies with the supervisor."""
        component = self.component
        try:
            with self.log.open("ab") as log:
                log.write(
                    f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')} {' '.join(component.argv)}\n".encode()
                )
                log.flush()
                supervisor = os.getpid()
                pid = os.fork()
                if pid == 0:
                    _become(component, log.fileno(), self._listen_fd, supervisor)
        except OSError as error:  # a full disk, too many processes: it may pass
            self._later(f"not started: {error}")
        else:
            self.state.pid, self.state.state, self.state.since = pid, "starting", time.time()

    def ended(self, status: int, *, asked_to: bool) -> None:
        """Note how it ended, and when to start it again: at once the first time, then later and
        later.
        """
        state = self.state
        if asked_to:
            state.pid, state.state = 0, "stopped"
            return
        if time.time() - state.since > STABLE_SECONDS:
            self._backoff = BACKOFF_FIRST
        code = os.waitstatus_to_exitcode(status)
        self._later(
            f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        )

    def _later(self, why: str) -> None:
        self._start_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, BACKOFF_MOST)
        self.state.last_exit = f"{why} at {time.strftime('%H:%M:%S')}"
        self.state.pid, self.state.state, self.state.restarts = (
            0,
            "backoff",
            self.state.restarts + 1,
        )

    def check_ready(self) -> bool:
        """True when it just turned from starting to running."""
        if self.state.state != "starting" or not answers(self.component.ready):
            return False
        self.state.state, self.state.since = "running", time.time()
        return True


def _become(component: Component, output: int, listen_fd: int, supervisor: int) -> None:
    """In the child: turn into the program. Never returns."""
    argv, env = component.argv, {**os.environ, **component.env}
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it ended before the request above was made
            return
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if listen_fd >= 0:  # last: the number may be one of the above's
            os.dup2(listen_fd, _LISTEN_FDS_START)
            os.set_inheritable(_LISTEN_FDS_START, True)  # dup2 onto itself would leave it as it was
            env |= {
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": "1",
                "LISTEN_FDNAMES": component.listen_name,
            }
        for number in (
            signal.SIGTERM,
            signal.SIGINT,
            signal.SIGHUP,
            signal.SIGCHLD,
            signal.SIGPIPE,
        ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(argv[0], argv, env)  # noqa: S606 - a fixed argv from our own spec
    except BaseException as error:
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def answers(ready: dict[str, str]) -> bool:
    """Ask a component once whether it is ready; no answer within a second is a no."""
    try:
        if "tcp" in ready:
            host, port = ready["tcp"].rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=1).close()
        elif "unix" in ready:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(ready["unix"])
        elif "https" in ready:
            return _get_ok(ready["https"], ready["ca"])
    except (OSError, http.client.HTTPException):
        return False
    return True


def _get_ok(url: str, ca: str) -> bool:
    authority, path = url.split("/", 1)
    host, port = authority.rsplit(":", 1)
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection(host, int(port), timeout=1, context=context)
    try:
        connection.request("GET", f"/{path}")
        return connection.getresponse().status == http.client.OK
    finally:
        connection.close()


class Supervisor:
    """Runs the components of one spec until SIGTERM."""

    def __init__(self, state_dir: Path, components: list[Component], listen_fd: int) -> None:
        self.status_file, logs = state_dir / "status.json", state_dir / "logs"
        logs.mkdir(exist_ok=True)
        self.processes = {
            component.name: Process(component, logs, listen_fd) for component in components
        }
        self._started_order: list[str] = []
        self._been_ready: set[str] = set()
        self._stopping = False
        self._next_rotation = 0.0

    def run(self) -> None:
        """Start, watch, and, once SIGTERM or SIGINT came, stop in reverse."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.write_status()
        while not self._stopping:
            changed = self._reap() | self._start_due() | self._check_ready()
            if changed:
                self.write_status()
            self._rotate()
            readable, _, _ = select.select([wake], [], [], _TICK)
            if readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 512)
        self._stop_all(wake)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _start_due(self) -> bool:
        now = time.monotonic()
        due = [
            process
            for process in self.processes.values()
            if process.due(now) and self._been_ready.issuperset(process.component.after)
        ]
        for process in due:
            process.start()
            if process.component.name not in self._started_order:
                self._started_order.append(process.component.name)
        return bool(due)

    def _check_ready(self) -> bool:
        now_ready = []
        for name, process in self.processes.items():
            if process.check_ready():
                now_ready.append(name)
        self._been_ready.update(now_ready)
        return bool(now_ready)

    def _reap(self) -> bool:
        changed = False
        for pid, status in _children_ended():
            for process in self.processes.values():
                if process.state.pid == pid:
                    process.ended(status, asked_to=self._stopping)
                    changed = True
        return changed

    def _stop_all(self, wake: int) -> None:
        for name in reversed(self._started_order):
            process = self.processes[name]
            deadline = time.monotonic() + STOP_SECONDS
            number = signal.SIGTERM
            while process.state.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.state.pid, number)
                select.select([wake], [], [], 0.05)
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 512)
                self._reap()
                if time.monotonic() > deadline:
                    number = signal.SIGKILL
            self.write_status()

    def _rotate(self) -> None:
        now = time.monotonic()
        if now < self._next_rotation:
            return
        self._next_rotation = now + _ROTATE_EVERY
        for process in self.processes.values():
            if process.log.exists() and process.log.stat().st_size > LOG_BYTES:
                # A full disk: then without a copy of the old part.
                with contextlib.suppress(OSError):
                    shutil.copyfile(process.log, process.log.with_suffix(".log.1"))
                os.truncate(process.log, 0)  # its writer appends, so it goes on at the new end

    def write_status(self) -> None:
        """Replace `status.json` in one step, so that a reader never sees half of it."""
        content = {
            "components": {name: asdict(process.state) for name, process in self.processes.items()}
        }
        partial = self.status_file.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(content, indent=1))
            partial.chmod(0o644)
            partial.replace(self.status_file)
        except OSError as error:  # the cluster goes on, whether or not somebody can read how it is
            print(f"{self.status_file} cannot be written: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log


def _children_ended() -> Iterator[tuple[int, int]]:
    """Every child that ended, orphans included: as PID 1 of a namespace they are ours."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status


def main(state_dir: Path, listen_fd: int) -> int:
    """Wait for the starter's word, prepare the namespaces as the spec says, and supervise."""
    if sys.stdin.buffer.readline() != GO:
        print("the starter ended before it confirmed the start", file=sys.stderr)  # noqa: T201 - its log
        return 1
    if listen_fd >= 0:
        os.set_inheritable(listen_fd, False)  # one component gets it, the others must not hold it
    spec: dict[str, Any] = json.loads((state_dir / "spec.json").read_bytes())
    for argv in spec["setup"]:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            print(f"{' '.join(argv)} ended with status {done.returncode}", file=sys.stderr)  # noqa: T201 - its log
            return 1
    Supervisor(
        state_dir, [Component(**component) for component in spec["components"]], listen_fd
    ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
