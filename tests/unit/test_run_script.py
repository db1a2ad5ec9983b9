"""tests/run.sh: Ctrl-C ends the whole run, not only the suite that is running; the tests that it names are there."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from support.waiting import PATIENCE, wait_until

TESTS = Path(__file__).parents[1]
A_SUITE = """#!/usr/bin/env bash
# Like pytest: it handles SIGINT itself and exits with status 2.
case "$*" in *" demo "*) exit ;; esac
trap 'echo "$*" >> ended; exit 2' INT
echo "$*" >> suites
for _ in {1..1000}; do sleep 0.1; done
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The script, with suites that last longer than any wait here, and write their words into `suites`."""
    (tmp_path / "tests").mkdir()
    shutil.copy(TESTS / "run.sh", tmp_path / "tests")
    for program in (tmp_path / ".venv/bin/python", tmp_path / "tests/install-servers"):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(A_SUITE if program.name == "python" else "#!/bin/sh\n")
        program.chmod(0o755)
    return tmp_path


def interrupted_after(checkout: Path, suites: int, *words: str) -> str:
    """What the script prints when Ctrl-C comes once so many suites run."""
    started = checkout / "suites"
    # A group of its own, as a terminal gives one: Ctrl-C reaches the script and the suite.
    run = subprocess.Popen([str(checkout / "tests/run.sh"), *words], stdout=subprocess.PIPE, text=True, process_group=0)
    wait_until("they run", lambda: started.exists() and len(started.read_text().splitlines()) == suites, PATIENCE)
    os.killpg(run.pid, signal.SIGINT)
    out, _ = run.communicate(timeout=PATIENCE)  # at the end of all that it has started: they hold its stdout
    assert run.returncode == 130, out
    assert "== interrupted" in out
    assert len(started.read_text().splitlines()) == suites
    return out


def test_an_interrupt_starts_no_further_suite(checkout: Path) -> None:
    interrupted_after(checkout, 1, "kasm", "chaos")


@pytest.mark.skipif(os.getuid() != 0, reason="the suite e2e is left out without root")
def test_an_interrupt_ends_the_suite_that_runs_beside_another(checkout: Path) -> None:
    interrupted_after(checkout, 2, "e2e", "portal")
    wait_until("both have ended", lambda: (checkout / "ended").read_text().count("\n") == 2, PATIENCE)


def test_every_test_that_is_named_is_there() -> None:
    """A name that is not there would be left out of nothing, or run nothing."""
    named = re.findall(r"tests/(\S+\.py)::(\w+)", (TESTS / "run.sh").read_text())
    assert named
    missing = [(file, name) for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert missing == []
