"""tests/run.sh: Ctrl-C ends the whole run, not only the suite that is running; the tests that it names are there."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from support.waiting import wait_until

TESTS = Path(__file__).parents[1]
A_SUITE = """#!/usr/bin/env bash
# Like pytest: it handles SIGINT itself and exits with status 2.
trap 'exit 2' INT
echo "$*" >> suites
for _ in {1..100}; do sleep 0.1; done
"""


def test_an_interrupt_starts_no_further_suite(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(TESTS / "run.sh", tmp_path / "tests")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(A_SUITE)
    python.chmod(0o755)
    started = tmp_path / "suites"
    # A group of its own, as a terminal gives one: Ctrl-C reaches the script and the suite.
    script = [str(tmp_path / "tests/run.sh"), "kasm", "chaos"]
    run = subprocess.Popen(script, stdout=subprocess.PIPE, text=True, process_group=0)
    wait_until("the first suite", lambda: started.exists() or None, 5)
    os.killpg(run.pid, signal.SIGINT)
    out, _ = run.communicate(timeout=5)
    assert run.returncode == 130, out
    assert "== interrupted" in out
    assert len(started.read_text().splitlines()) == 1


def test_every_test_that_is_named_is_there() -> None:
    """A name that is not there would be left out of nothing, or run nothing."""
    named = re.findall(r"tests/(\S+\.py)::(\w+)", (TESTS / "run.sh").read_text())
    assert named
    missing = [(file, name) for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert missing == []
