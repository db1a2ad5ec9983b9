"""A skip is a failure under CI (`tests/conftest.py`)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_needs_a_program():
    pytest.skip("no such program")

@pytest.mark.platform
def test_needs_a_platform():
    pytest.skip("another processor")
"""


@pytest.mark.parametrize(("ci", "outcome"), [("", "2 skipped"), ("true", "1 failed, 1 skipped")])
def test_a_skip_fails_under_ci_unless_it_is_for_a_platform(
    ci: str, outcome: str, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = platform\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert outcome in done.stdout
