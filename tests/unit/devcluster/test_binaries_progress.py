"""The display of long work: marks, logs, the tail of a failure, and that giving up ends what
runs.
"""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from support.waiting import wait_until
from vdi.devcluster.progress import Cancelled, Progress, StepFailed


def wait_until_gone(group: int) -> None:
    """Until no process of the group runs any more; zombies, whose parent has yet to look, don't
    count.
    """

    def gone() -> bool:
        return not any(stat[2] == str(group) and stat[0] != "Z" for stat in _stats())

    wait_until(f"no process of the group {group} runs", gone)


def _stats() -> Iterator[list[str]]:
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            yield file.read_text().rpartition(") ")[2].split()


@pytest.fixture
def shown() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def progress(tmp_path: Path, shown: io.StringIO) -> Iterator[Progress]:
    with Progress(tmp_path, Console(file=shown, width=200)) as made:
        yield made


def test_failure_carries_the_end_of_its_own_output(progress: Progress, shown: io.StringIO) -> None:
    with pytest.raises(StepFailed) as failure, progress.step("make tea") as step:
        step.run(["echo", "the first program"])
        step.run(["sh", "-c", "seq 100; echo 'no water' >&2; exit 3"])
    assert failure.value.message == "sh ended with status 3"
    assert failure.value.tail.splitlines()[-1] == "no water"
    assert len(failure.value.tail.splitlines()) == 20
    assert "the first program" not in str(failure.value)
    assert str(step.log_path) in str(failure.value)
    assert "✗ make tea" in shown.getvalue()


def test_failure_of_one_ends_the_programs_of_the_others(
    progress: Progress, shown: io.StringIO, tmp_path: Path
) -> None:
    fifo = tmp_path / "running"
    os.mkfifo(fifo)

    def long_one() -> None:
        with progress.step("long") as step:
            step.run(["sh", "-c", f"echo $$ > {fifo}; sleep 60 & wait"])

    def failing() -> None:
        pids.append(int(fifo.read_text()))  # the other one runs now
        raise StepFailed("short", "no", tmp_path / "log")

    pids: list[int] = []
    with pytest.raises(StepFailed, match="short: no"):
        progress.side_by_side([long_one, failing])
    wait_until_gone(pids[0])
    assert "– long" in shown.getvalue()


def test_the_failure_is_raised_and_not_what_it_cancelled(
    progress: Progress, tmp_path: Path
) -> None:
    """The failure is in a job of a job: it comes up only once the other jobs beside it have
    ended.
    """
    given_up = threading.Event()

    def ends_late() -> None:
        with contextlib.suppress(Cancelled):
            progress.wait(40)
        assert given_up.wait(40)

    def failing() -> None:
        raise StepFailed("inner", "no", tmp_path / "log")

    def beside() -> None:
        try:
            progress.wait(40)
        finally:
            given_up.set()

    with pytest.raises(StepFailed, match="inner: no"):
        progress.side_by_side([lambda: progress.side_by_side([ends_late, failing]), beside])


def test_nothing_starts_after_giving_up(progress: Progress, tmp_path: Path) -> None:
    progress.cancel()
    with pytest.raises(Cancelled), progress.step("x") as step:
        step.run(["touch", tmp_path / "made"])
    assert not (tmp_path / "made").exists()
    with pytest.raises(Cancelled), progress.step("y") as step:
        step.update("still there?")


def test_interrupt_ends_the_program_and_its_children(tmp_path: Path) -> None:
    """Ctrl-C as a user presses it: SIGINT to our process only, while a worker thread follows a
    program.
    """
    fifo = tmp_path / "running"
    os.mkfifo(fifo)
    code = (
        "import sys; from pathlib import Path; from vdi.devcluster.progress import Progress\ndef"
        " job():\n    with progress.step('long') as step: step.run(['sh', '-c', f'echo $$ >"
        " {sys.argv[2]}; sleep 60 & wait'])\nwith Progress(Path(sys.argv[1])) as progress:"
        " progress.side_by_side([job])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path, fifo], stderr=subprocess.PIPE)
    group = int(fifo.read_text())
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in said
    wait_until_gone(group)
