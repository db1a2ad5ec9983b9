"""A slow machine has longer time limits: --timeout-factor, or VDI_TIMEOUT_FACTOR for `make demo`."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vdi.cli.errors import USAGE
from vdi.cli.main import app
from vdi.demo import run
from vdi.demo.browser import Login
from vdi.devcluster import starting
from vdi.devcluster.layout import ClusterError, Layout
from vdi.devcluster.progress import Progress, Step

LOGIN = Login("https://portal.vdi.localhost", "you@example.com", "secret")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the demo's steps run, without running it."""
    typed: list[list[str]] = []

    def remember(_step: Step, argv: Sequence[str | Path], **_: object) -> None:
        typed.append([str(word) for word in argv])

    monkeypatch.setattr(Step, "run", remember)
    return typed


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exists: bool, factor: float) -> None:
    def kubectl(_kubeconfig: Path, _kubectl: Path, *words: str) -> str:
        return '{"status": {"url": "https://first.vdi.localhost"}}' if "json" in words else "vdi/first" * exists

    monkeypatch.setattr(run, "_kubectl", kubectl)
    with Progress(tmp_path / "logs") as progress:
        run.start_session(run.Demo(tmp_path / "kubeconfig", tmp_path, LOGIN, factor), progress=progress)


@pytest.mark.parametrize(("factor", "limit"), [(1.0, "300s"), (10.0, "3000s")])
def test_a_new_session_may_take_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[list[str]], factor: float, limit: str
) -> None:
    start(tmp_path, monkeypatch, exists=False, factor=factor)
    assert commands[0][-2:] == ["--timeout-wait", limit]


def test_a_session_that_is_there_has_the_same_time_and_not_the_30_seconds_of_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[list[str]]
) -> None:
    start(tmp_path, monkeypatch, exists=True, factor=1.5)
    assert "--timeout=450s" in commands[0]


def test_the_processes_of_the_cluster_have_longer_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[float] = []

    def never(_condition: object, seconds: float) -> bool:
        allowed.append(seconds)
        return False

    monkeypatch.setattr(starting, "wait_until", never)
    with (
        Progress(tmp_path / "logs") as progress,
        progress.step("Wait") as step,
        pytest.raises(ClusterError, match="not running after 1200 s"),
    ):
        starting.wait_running(Layout(tmp_path / "demo"), step, timeout_factor=10)
    assert allowed == [1200.0]


@pytest.mark.parametrize("command", [["demo", "up"], ["cluster", "up"], ["cluster", "reset"]], ids=" ".join)
@pytest.mark.parametrize("value", ["abc", "0.5", "101"])
def test_a_factor_that_is_not_allowed_is_refused_before_anything_is_done(command: list[str], value: str) -> None:
    result = CliRunner().invoke(app, command, env={"VDI_TIMEOUT_FACTOR": value})
    assert result.exit_code == USAGE
    assert "VDI_TIMEOUT_FACTOR" in result.output
    assert value in result.output
