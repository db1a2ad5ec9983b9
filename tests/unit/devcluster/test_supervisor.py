"""The supervisor with programs of the shell's size: order, healing, the handed-on socket,
stopping.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from support.waiting import PATIENCE
from vdi.devcluster import supervisor
from vdi.devcluster.processes import wait_until
from vdi.devcluster.supervisor import Component

Start = Callable[..., "Running"]


class Running:
    def __init__(
        self, folder: Path, components: list[Component], listener: socket.socket | None = None
    ) -> None:
        self.folder = folder
        spec = {"setup": [], "components": [asdict(component) for component in components]}
        (folder / "spec.json").write_text(json.dumps(spec))
        listen_fd = listener.fileno() if listener else -1
        self.process = subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, str(folder), str(listen_fd)],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(listen_fd,) if listener else (),
        )
        assert self.process.stdin is not None
        self.stdin = self.process.stdin

    def go(self) -> None:
        with self.stdin:
            self.stdin.write(supervisor.GO)

    def status(self) -> dict[str, Any]:
        file = self.folder / "status.json"
        found: dict[str, Any] = json.loads(file.read_text())["components"] if file.exists() else {}
        return found

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        assert wait_until(lambda: condition(self.status()), PATIENCE), self.status()
        return self.status()

    def end(self) -> None:
        if not self.stdin.closed:
            self.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(timeout=PATIENCE)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def begin(
        *components: Component, listener: socket.socket | None = None, go: bool = True
    ) -> Running:
        running = Running(tmp_path, list(components), listener)
        started.append(running)
        if go:
            running.go()
        return running

    yield begin
    for running in started:
        running.end()


def shell(name: str, script: str, **more: Any) -> Component:
    return Component(name=name, argv=["/bin/sh", "-c", script], **more)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):  # gone, or gone between open and read
        return False


def test_a_component_waits_for_what_it_needs(start: Start, tmp_path: Path) -> None:
    gate, socket_path = tmp_path / "gate", tmp_path / "first.sock"
    running = start(
        shell("second", "exec sleep 60", after=["first"]),
        shell("first", "exec sleep 60", ready={"unix": str(socket_path)}),
        shell("third", "exec sleep 60", needs_file=str(gate)),
    )
    now = running.until(lambda all_: bool(all_) and all_["first"]["state"] == "starting")
    assert (now["second"]["state"], now["third"]["state"]) == ("waiting", "waiting")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen()
        running.until(lambda all_: all_["first"]["state"] == all_["second"]["state"] == "running")
    gate.touch()
    running.until(lambda all_: all_["third"]["state"] == "running")


def test_a_crash_is_healed_and_reported(start: Start) -> None:
    running = start(shell("one", "exec sleep 60"))
    first = running.until(lambda all_: bool(all_) and all_["one"]["state"] == "running")["one"]
    os.kill(first["pid"], signal.SIGKILL)
    now = running.until(
        lambda all_: all_["one"]["restarts"] == 1 and all_["one"]["state"] == "running"
    )["one"]
    assert now["pid"] != first["pid"]
    assert now["last_exit"].startswith("killed by SIGKILL at ")


def test_a_program_that_keeps_failing_is_tried_ever_more_rarely(start: Start) -> None:
    running = start(
        shell("bad", "echo no such luck; exit 3"),
        Component(name="missing", argv=["/no/such/program"]),
    )
    now = running.until(
        lambda all_: bool(all_) and min(one["restarts"] for one in all_.values()) >= 3
    )
    assert now["bad"]["last_exit"].startswith("exit status 3")
    assert now["missing"]["last_exit"].startswith("exit status 127")
    assert "no such luck" in (running.folder / "logs" / "bad.log").read_text()
    assert "cannot start /no/such/program" in (running.folder / "logs" / "missing.log").read_text()


def test_losing_its_folder_does_not_stop_it(start: Start, tmp_path: Path) -> None:
    running = start(shell("one", "exec sleep 60"))
    pid = running.until(lambda all_: bool(all_) and all_["one"]["state"] == "running")["one"]["pid"]
    (tmp_path / "logs").rename(tmp_path / "away")
    (tmp_path / "status.partial").mkdir()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: not alive(pid), PATIENCE)
    (tmp_path / "away").rename(tmp_path / "logs")
    (tmp_path / "status.partial").rmdir()
    running.until(lambda all_: all_["one"]["state"] == "running" and all_["one"]["pid"] != pid)


def test_stopping_goes_in_reverse_and_leaves_no_one(start: Start, tmp_path: Path) -> None:
    order = tmp_path / "order"
    script = (
        "trap 'echo NAME >> ORDER; exit 0' TERM; touch READY; while :; do read -t 60 x < PIPE ||"
        " true; done"
    )
    os.mkfifo(tmp_path / "pipe")
    holder = os.open(tmp_path / "pipe", os.O_RDWR)
    names = ("first", "second")

    def component(name: str, after: list[str]) -> Component:
        filled = script.replace("NAME", name).replace("READY", str(tmp_path / name))
        filled = filled.replace("ORDER", str(order)).replace("PIPE", str(tmp_path / "pipe"))
        return Component(name=name, argv=["/bin/bash", "-c", filled], after=after)

    running = start(component("first", []), component("second", ["first"]))
    now = running.until(
        lambda all_: all((tmp_path / name).exists() for name in names) and bool(all_)
    )
    running.end()
    os.close(holder)
    assert order.read_text().split() == ["second", "first"]
    assert not [name for name in names if alive(now[name]["pid"])]
    stopped = running.status()
    assert {(one["state"], one["restarts"]) for one in stopped.values()} == {("stopped", 0)}


def test_a_killed_supervisor_takes_its_components_along(start: Start) -> None:
    running = start(shell("one", "exec sleep 60"))
    pid = running.until(lambda all_: bool(all_) and all_["one"]["state"] == "running")["one"]["pid"]
    running.process.kill()
    assert wait_until(lambda: not alive(pid), PATIENCE)


def test_the_listening_socket_goes_to_one_component(start: Start, tmp_path: Path) -> None:
    code = (
        "import os, socket; s = socket.socket(fileno=3); assert os.environ['LISTEN_PID'] =="
        " str(os.getpid()); c, _ = s.accept(); c.sendall(os.environ['LISTEN_FDNAMES'].encode())"
    )
    listing = (
        f"ls -l /proc/self/fd > {tmp_path}/fds.partial; mv {tmp_path}/fds.partial {tmp_path}/fds;"
        " exec sleep 60"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start(
            Component(name="web", argv=[sys.executable, "-I", "-c", code], listen_name="websecure"),
            shell("other", listing),
            listener=listener,
        )
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE) as client:
            assert client.recv(100) == b"websecure"
    assert wait_until((tmp_path / "fds").exists, PATIENCE)
    assert "socket:" not in (tmp_path / "fds").read_text()


def test_without_the_starters_word_nothing_is_started(start: Start) -> None:
    running = start(shell("one", "exec sleep 60"), go=False)
    running.stdin.close()
    assert running.process.wait(timeout=PATIENCE) == 1
    assert running.status() == {}
