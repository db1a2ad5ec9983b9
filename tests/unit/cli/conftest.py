"""A fake cluster, a gateway, and a way to type commands at them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from unit.cli.fake_cluster import FakeCluster
from unit.cli.remote_stage import RemoteGateway
from vdi.cli.main import main


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Vdi = Callable[..., Ran]


@pytest.fixture(scope="session")
def gateway_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteGateway]:
    with RemoteGateway(tmp_path_factory.mktemp("gateway")).running() as gateway:
        yield gateway


@pytest.fixture
def gateway(gateway_server: RemoteGateway, tmp_path: Path) -> Iterator[RemoteGateway]:
    """A gateway of this test's own."""
    with gateway_server.with_stage(tmp_path) as gateway:
        yield gateway


@pytest.fixture
def fake() -> Iterator[FakeCluster]:
    with FakeCluster().running() as cluster:
        yield cluster


@pytest.fixture
def vdi(fake: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Vdi:
    """Type a command: `vdi("session", "ls")`."""
    for variable in (
        "VDI_KUBECONFIG",
        "VDI_NAMESPACE",
        "VDI_USER",
        "VDI_CONTEXT",
        "VDI_SERVER",
        "VDI_DEBUG",
        "DISPLAY",
        "WAYLAND_DISPLAY",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))

    def run(*words: str) -> Ran:
        code = main(words)
        seen = capsys.readouterr()
        return Ran(code, seen.out, seen.err)

    return run
