"""The process' exit codes and last words."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from support.waiting import PATIENCE
from unit.kube.kube_fake_api import fake_api
from vdi.gateway import __main__ as program
from vdi.gateway.app import run_gateway
from vdi.gateway.history.component import History
from vdi.gateway.settings import read_settings
from vdi.gateway.store.migrations import UnknownRevisionError

KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """What the process sees; a cluster that no one is at."""
    (tmp_path / "config").write_text(KUBECONFIG)
    values = {
        "VDI_KUBECONFIG": str(tmp_path / "config"),
        "VDI_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/x.db",
        "VDI_PUBLIC_ADDR": "127.0.0.1:0",
        "VDI_INTERNAL_ADDR": "127.0.0.1:0",
    }
    monkeypatch.setattr("os.environ", values)
    monkeypatch.setattr(program, "set_up_logging", lambda *_: None)
    return values


def test_settings_that_are_wrong_are_a_matter_of_usage(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    environment["VDI_URL_PORT"] = "x"
    assert program.main() == 2
    assert "VDI_URL_PORT='x'" in capsys.readouterr().err


def test_a_limits_file_that_is_not_there_is_named(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    environment["VDI_LIMITS_FILE"] = "/nowhere/limits.yaml"
    assert program.main() == 2
    assert "VDI_LIMITS_FILE='/nowhere/limits.yaml': No such file or directory" in caplog.text


def test_no_cluster_is_said_to_be_so(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    environment["VDI_KUBECONFIG"] = "/nowhere/config"
    assert program.main() == 3
    assert "/nowhere/config" in caplog.text


def test_a_port_that_is_taken_is_named(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environment["VDI_INTERNAL_ADDR"] = f"127.0.0.1:{port}"
        assert program.main() == 1
    assert f"VDI_INTERNAL_ADDR=127.0.0.1:{port}: cannot listen there" in caplog.text


def test_a_database_of_a_newer_gateway_is_no_riddle(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [UnknownRevisionError("0009_next")])])

    monkeypatch.setattr(program, "run_process", fail)
    with caplog.at_level(logging.CRITICAL):
        assert program.main() == 1
    assert "VDI_DATABASE_URL: the database is at revision 0009_next" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_part_that_fails_takes_the_process_with_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a gateway is worse than none: Kubernetes starts another one."""

    async def fail(_self: History) -> None:
        raise RuntimeError("a part is broken")

    monkeypatch.setattr(History, "run", fail)
    async with fake_api() as api:
        work = run_gateway(api.config(), read_settings(environment), stop=asyncio.Event())
        with pytest.raises(ExceptionGroup) as failure:
            async with asyncio.timeout(PATIENCE):
                await work
    assert program._among(failure.value, RuntimeError)
