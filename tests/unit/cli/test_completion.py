"""`vdi completion`: a real shell completes with what it prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi

SHELL = """
source completion
COMP_WORDS=({words}) COMP_CWORD={last} COMP_LINE="{words}"
_vdi_completion vdi {word} {before}
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [("vdi session l", "logs ls"), ("vdi session ls --all", "--all-namespaces")],
)
def test_bash_completes_commands_and_options(
    vdi: Vdi, tmp_path: Path, words: str, offered: str
) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash in PATH")
    (tmp_path / "completion").write_text(vdi("completion", "bash").out)
    (tmp_path / "vdi").write_text(f'#!/bin/sh\nexec {sys.executable} -m vdi "$@"\n')
    (tmp_path / "vdi").chmod(0o755)
    *_, before, word = words.split()
    script = SHELL.format(words=words, last=len(words.split()) - 1, word=word, before=before)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert sorted(done.stdout.split()) == offered.split(), done.stderr
