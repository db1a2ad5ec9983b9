"""Ctrl-C, in a process of its own as a terminal would have it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, a_session, running

RUN_MAIN = "import sys; from vdi.cli.main import main; sys.exit(main())"


@contextmanager
def typed(fake: FakeCluster, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "KUBECONFIG": str(fake.kubeconfig(folder))}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_MAIN, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    killer = threading.Timer(30, process.kill)
    killer.start()
    try:
        yield process
    finally:
        killer.cancel()
        process.kill()
        process.communicate()


def line_with(stream: IO[str] | None, words: str) -> str:
    assert stream is not None
    seen = []
    for line in stream:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"no line with {words!r} in {seen}")


def test_interrupting_a_wait_leaves_the_session_and_says_so(fake: FakeCluster, tmp_path: Path) -> None:
    fake.after_write({"phase": "Creating", "message": "The image is being pulled."})
    with typed(fake, tmp_path, "session", "create", "s", "-t", "x", "--user", "a@b.cd", "--wait") as process:
        line_with(process.stderr, "The image is being pulled.")
        process.send_signal(signal.SIGINT)
        rest = process.communicate()[1]
    assert process.returncode == 130
    assert "No longer waiting; session s is unchanged." in rest
    assert "vdi session rm s" in rest
    assert "Traceback" not in rest
    assert f"{SESSIONS}/s" in fake.objects


def test_watching_prints_a_line_for_each_change_until_interrupted(fake: FakeCluster, tmp_path: Path) -> None:
    fake.put(SESSIONS, a_session("first"))
    with typed(fake, tmp_path, "session", "ls", "--watch") as process:
        assert "first  -" in line_with(process.stdout, "first")
        fake.put(SESSIONS, a_session("second", status=running(url="https://second.example.com")))
        assert "second  Running  https://second.example.com" in line_with(process.stdout, "second")
        fake.drop(f"{SESSIONS}/first")
        assert "first  deleted" in line_with(process.stdout, "first")
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert (process.returncode, errors) == (130, "")
