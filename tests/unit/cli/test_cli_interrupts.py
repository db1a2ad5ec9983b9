"""Ctrl-C, in a process of its own as a terminal would have it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from support.waiting import is_waiting, wait_until
from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import SESSIONS, TEMPLATES, a_session, a_template, running
from unit.cli.remote_stage import RemoteGateway

RUN_MAIN = "import sys; from vdi.cli.main import main; sys.exit(main())"


@contextmanager
def typed(environment: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_MAIN, *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,  # and nothing comes, as from a terminal where no one types
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


def interrupt(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C, as a person does, while the command waits.

    Python only looks at the signal when its event loop wakes up, so one that comes in the
    microseconds between its last look and the loop's wait has no effect until something else
    happens.
    """
    wait_until("the command waits", lambda: is_waiting(process.pid), every=0.001)
    process.send_signal(signal.SIGINT)


def line_with(stream: IO[str] | None, words: str) -> str:
    assert stream is not None
    seen = []
    for line in stream:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"no line with {words!r} in {seen}")


def test_interrupting_a_wait_leaves_the_session_and_says_so(
    fake: FakeCluster, tmp_path: Path
) -> None:
    fake.put(TEMPLATES, a_template("x"))
    fake.after_write({"phase": "Creating", "message": "The image is being pulled."})
    kubeconfig = {"KUBECONFIG": str(fake.kubeconfig(tmp_path))}
    with typed(
        kubeconfig, "session", "create", "s", "-t", "x", "--user", "a@b.cd", "--wait"
    ) as process:
        line_with(process.stderr, "The image is being pulled.")
        interrupt(process)
        rest = process.communicate()[1]
    assert process.returncode == 130
    assert "No longer waiting; session s is unchanged." in rest
    assert "vdi session rm s" in rest
    assert "Traceback" not in rest
    assert f"{SESSIONS}/s" in fake.objects


def test_watching_prints_each_change_until_interrupted(fake: FakeCluster, tmp_path: Path) -> None:
    fake.put(SESSIONS, a_session("first"))
    with typed(
        {"KUBECONFIG": str(fake.kubeconfig(tmp_path))}, "session", "ls", "--watch"
    ) as process:
        assert "first  -" in line_with(process.stdout, "first")
        fake.put(SESSIONS, a_session("second", status=running(url="https://second.example.com")))
        assert "second  Running  https://second.example.com" in line_with(process.stdout, "second")
        fake.drop(f"{SESSIONS}/first")
        assert "first  deleted" in line_with(process.stdout, "first")
        interrupt(process)
        errors = process.communicate()[1]
    assert (process.returncode, errors) == (130, "")


def test_interrupting_a_login_that_asks_for_the_code_ends_it(
    gateway: RemoteGateway, tmp_path: Path
) -> None:
    folders = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with typed(
        folders, "login", gateway.url, "--ca-file", str(gateway.ca), "--no-browser"
    ) as process:
        line_with(process.stderr, f"  {gateway.url}")
        interrupt(process)
        assert process.wait(10) != 0
    assert not list(tmp_path.rglob("login.json"))
