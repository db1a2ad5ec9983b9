"""`vdi completion`: a real shell completes with what it prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unit.cli.conftest import Vdi
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_session, a_template

SHELL = """
source completion
COMP_WORDS=({words}) COMP_CWORD={last} COMP_LINE="{words}"
_vdi_completion vdi {word} {before}
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("vdi session l", "logs ls"),
        ("vdi session ls --all", "--all-namespaces"),
        ("vdi session show alice-d", "alice-desktop"),
        ("vdi session rm other alice", "alice-cad alice-desktop"),
        ("vdi session create -t c", "cad"),
        ("vdi template show c", "cad"),
        ("vdi session show --kubeconfig /nowhere a", ""),
    ],
)
def test_bash_completes_commands_options_and_names(
    vdi: Vdi, fake: FakeCluster, tmp_path: Path, words: str, offered: str
) -> None:
    for name in ("alice-desktop", "alice-cad", "$(id)"):
        fake.put(SESSIONS, a_session(name))
    fake.put(TEMPLATES, a_template("cad"))
    if shutil.which("bash") is None:
        pytest.skip("no bash in PATH")
    (tmp_path / "completion").write_text(vdi("completion", "bash").out)
    (tmp_path / "vdi").write_text(f'#!/bin/sh\nexec {sys.executable} -m vdi "$@"\n')
    (tmp_path / "vdi").chmod(0o755)
    *_, before, word = words.split()
    script = SHELL.format(words=words, last=len(words.split()) - 1, word=word, before=before)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    env["KUBECONFIG"] = str(fake.kubeconfig(tmp_path))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (sorted(done.stdout.split()), done.stderr) == (offered.split(), "")
