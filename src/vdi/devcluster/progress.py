"""Progress of long work: live bars with the time on a terminal, plain lines elsewhere.

Used by everything in this room that takes more than a moment. Each step has a log of its own; a
step that fails says so with the log's last lines. Steps may run side by side
(`Progress.side_by_side`); Ctrl-C ends every program that a step started.
"""

import contextlib
import functools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.text import Text

T = TypeVar("T")

# Lines of a failed step's log that its error carries.
TAIL_LINES = 20

# Without a terminal: how often a step that is still running prints a line.
HEARTBEAT_SECONDS = 20.0

_TERMINATE_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NOTE_WIDTH = 70
# Of the display on a terminal. Rich's own 10 take 7 % of a core, and far more where the processor
# is emulated.
_REFRESHES_PER_SECOND = 2


class StepFailed(Exception):  # noqa: N818 - named for what happened
    """Raised when a step's program fails: says which step, how, and shows the end of its log."""

    def __init__(self, title: str, message: str, log_path: Path, tail: str = "") -> None:
        self.title, self.message, self.log_path, self.tail = title, message, log_path, tail
        shown = "".join(f"\n  | {line}" for line in tail.splitlines())
        super().__init__(f"{title}: {message}{shown}\n  full log: {log_path}")


class Cancelled(Exception):  # noqa: N818 - not an error: work was given up
    """Raised inside a step when work beside it failed or the user pressed Ctrl-C, so that it ends
    too.
    """


class Step:
    """One line of the progress display, with a log of its own. Made by `Progress.step`."""

    def __init__(self, owner: "Progress", title: str, log_path: Path) -> None:
        self.title, self.log_path, self.started = title, log_path, time.monotonic()
        self._owner = owner
        self._note = ""
        self._last_line = self.started

    def update(
        self, note: str = "", *, done: float | None = None, total: float | None = None
    ) -> None:
        """Show `note`, and a bar when `total` is given (any unit). Raises Cancelled when the work
        was given up.
        """
        self._note = note
        self._owner._show(self, note, done, total)
        self._owner.raise_if_cancelled()

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes | None = None,
        expected_lines: int | None = None,
    ) -> None:
        """Run a program to its end, its output in the log and its last line beside the bar.

        With `expected_lines` the bar shows how much of its output the program has written.

        The program gets a process group of its own, and the whole group is ended on Ctrl-C. It
        cannot ask the user anything. Raises StepFailed when it cannot be started or ends with
        another status than 0; Cancelled.
        """
        command = [str(word) for word in argv]
        self._owner.raise_if_cancelled()
        with self.log_path.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            start = log.tell()
            try:
                process = subprocess.Popen(
                    command,
                    env=dict(env) if env is not None else None,
                    cwd=cwd,
                    stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            except OSError as error:
                raise StepFailed(
                    self.title, f"{command[0]} cannot be started: {error}", self.log_path
                ) from error
            with self._owner.ended_by(functools.partial(_end_group, process)):
                status = self._follow(process, log, stdin, expected_lines)
        if status != 0:
            self._owner.raise_if_cancelled()
            if status < 0:
                how = f"was killed by {signal.Signals(-status).name}"
            else:
                how = f"ended with status {status}"
            raise StepFailed(
                self.title, f"{Path(command[0]).name} {how}", self.log_path, self._tail(start)
            )

    def _follow(
        self,
        process: subprocess.Popen[bytes],
        log: IO[bytes],
        stdin: bytes | None,
        expected: int | None,
    ) -> int:
        reader = threading.Thread(target=self._read, args=(process, log, expected), daemon=True)
        reader.start()
        if stdin is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(stdin)
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(timeout=1.0)
                break
            self._owner._show(self, self._note, None, None)
        # A grandchild that went to the background may hold the pipe open.
        reader.join(timeout=_TERMINATE_SECONDS)
        return status

    def _read(self, process: subprocess.Popen[bytes], log: IO[bytes], expected: int | None) -> None:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(ValueError), process.stdout:  # ValueError: the log was closed
            for count, line in enumerate(process.stdout, start=1):
                log.write(line)
                log.flush()
                text = _ESCAPES.sub("", line.decode(errors="replace")).strip()
                if text:
                    self._note = text
                    self._owner._show(self, text, count if expected else None, expected)

    def _tail(self, start: int) -> str:
        with self.log_path.open("rb") as log:
            log.seek(start)
            lines = _ESCAPES.sub("", log.read().decode(errors="replace")).splitlines()
        return "\n".join(lines[-TAIL_LINES:])


class Progress:
    """The display of a whole piece of work; a context manager. Safe to use from several threads at
    once.
    """

    def __init__(self, log_dir: Path, console: Console | None = None) -> None:
        self.log_dir = log_dir
        self.console = console or Console(stderr=True)
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
            console=self.console,
            refresh_per_second=_REFRESHES_PER_SECOND,
            transient=True,
        )
        self._tasks: dict[Step, TaskID] = {}
        # Of what runs at this moment; the lock guards it.
        self._enders: set[Callable[[], None]] = set()
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    def __enter__(self) -> Self:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.cancel()
        if self.console.is_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(Text(text), soft_wrap=True)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """One step: its time is printed when it ends, with ✓, ✗ when it failed, or – when it was
        given up.
        """
        log_path = (
            self.log_dir / f"{re.sub(r'[^a-z0-9.]+', '-', title.lower()).strip('-')[:80]}.log"
        )
        log_path.write_bytes(b"")
        step = Step(self, title, log_path)
        if self.console.is_terminal:
            with self._lock:
                self._tasks[step] = self._bars.add_task(title, total=None, note="")
        else:
            self.say(f"  {title} ...")
        mark, style = "✗", "red"
        try:
            yield step
            mark, style = "✓", "green"
        except (Cancelled, KeyboardInterrupt):
            mark, style = "–", "dim"
            raise
        finally:
            with self._lock:
                if step in self._tasks:
                    self._bars.remove_task(self._tasks.pop(step))
            seconds = time.monotonic() - step.started
            self.console.print(
                Text.assemble((mark, style), f" {title} ", (f"{seconds:.1f}s", "dim")),
                soft_wrap=True,
            )

    def side_by_side(self, jobs: Sequence[Callable[[], T]], *, at_once: int = 8) -> list[T]:
        """Run the jobs in threads and return their results in order.

        The first failure, or Ctrl-C, ends all the others and is raised once they have ended; no
        further step of this display runs then. A job that was given up because of work beside it is
        no failure: what failed may be in a job that is still ending its own jobs.
        """
        with ThreadPoolExecutor(max_workers=at_once) as pool:
            try:  # around all of it: Ctrl-C may come while the first job runs already, and the next is being submitted
                futures = [pool.submit(job) for job in jobs]
                _wait_for_all_or_a_failure(futures)
                failures = _failures(futures)
                if not failures:
                    return [future.result() for future in futures]
                self.cancel()
                pool.shutdown(wait=True, cancel_futures=True)
                failures += _failures(futures)
                raise next(
                    (error for error in failures if not isinstance(error, Cancelled)), failures[0]
                )
            except BaseException:
                self.cancel()
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def cancel(self) -> None:
        """Give up: what the steps run is ended, and every step raises Cancelled at its next
        update.
        """
        self._cancelled.set()
        with self._lock:
            enders = list(self._enders)
        for end in enders:
            end()

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled when the work was given up."""
        if self._cancelled.is_set():
            raise Cancelled("stopped, because a parallel step failed or was interrupted")

    def wait(self, seconds: float) -> None:
        """Wait a moment before looking again. Raises Cancelled when the work was given up."""
        self._cancelled.wait(seconds)
        self.raise_if_cancelled()

    @contextlib.contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """While the body runs, `end` is how to stop it from another thread; it is called too when
        the body raises.
        """
        with self._lock:
            self._enders.add(end)
        try:
            if self._cancelled.is_set():  # given up between the check and the start
                end()
            yield
        except BaseException:
            end()
            raise
        finally:
            with self._lock:
                self._enders.discard(end)

    def _show(self, step: Step, note: str, done: float | None, total: float | None) -> None:
        if self.console.is_terminal:
            with self._lock:
                task = self._tasks.get(step)
                if task is not None:
                    self._bars.update(task, note=note[:_NOTE_WIDTH], completed=done, total=total)
            return
        now = time.monotonic()
        if now - step._last_line >= HEARTBEAT_SECONDS:
            step._last_line = now
            share = ""
            if done is not None and total:
                share = f" {100 * done / total:.0f}%"
            self.say(
                f"  {step.title} ... {now - step.started:.0f}s{share} {note[:_NOTE_WIDTH]}".rstrip()
            )


def _wait_for_all_or_a_failure(futures: Sequence[Future[T]]) -> None:
    """With a look now and then: a signal that comes just before a thread waits for a lock does not
    interrupt it.
    """
    while True:
        done, left = wait(futures, timeout=_LOOK_SECONDS, return_when=FIRST_EXCEPTION)
        if not left or any(future.exception() for future in done):
            return


def _failures(futures: Sequence[Future[T]]) -> list[BaseException]:
    errors = []
    for future in futures:
        is_ended = future.done() and not future.cancelled()
        error = future.exception() if is_ended else None
        if error:
            errors.append(error)
    return errors


def _end_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_TERMINATE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)  # the program, or what it started and left behind
        process.wait()
