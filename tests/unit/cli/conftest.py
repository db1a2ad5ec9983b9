"""A fake cluster, a gateway, and a way to type commands at them."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest

from unit.cli.fake_cluster import FakeCluster
from unit.cli.objects import CORE, SESSIONS, a_pod, a_secret, a_session, running
from unit.cli.remote_stage import RemoteGateway
from vdi.cli.main import load_noun, main
from vdi.session.children import MASTER_TOKEN_DIGEST

# Five minutes after everything in `objects` was created.
NOW = datetime(2026, 11, 20, 8, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


Vdi = Callable[..., Ran]


@pytest.fixture(scope="session", autouse=True)
def nouns_are_read_once() -> Iterator[None]:
    """Typer takes 10 ms to read the commands of a noun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vdi.cli.main.load_noun", cache(load_noun))
        yield


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
def alice(fake: FakeCluster) -> FakeCluster:
    """The fake cluster, on which Alice's desktop runs."""
    fake.put(SESSIONS, a_session(status=running()))
    fake.put(f"{CORE}/secrets", a_secret())
    fake.put(f"{CORE}/pods", a_pod())
    return fake


@pytest.fixture
def behind_gateway(alice: FakeCluster) -> FakeCluster:
    """`alice`, where a gateway holds the tokens of her desktop."""
    pod = a_pod()
    pod["spec"]["containers"] = [{"name": "desktop", "env": [{"name": MASTER_TOKEN_DIGEST}]}]
    alice.put(f"{CORE}/pods", pod)
    return alice


@pytest.fixture
def type_command(capsys: pytest.CaptureFixture[str]) -> Vdi:
    """Type a command in the environment of the test: `type_command("session", "ls")`."""

    def run(*words: str) -> Ran:
        code = main(words)
        seen = capsys.readouterr()
        return Ran(code, seen.out, seen.err)

    return run


@pytest.fixture
def clean_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without screen, kubeconfig, login or variables of ours."""
    for name in [each for each in os.environ if each.startswith(("VDI_", "KUBE"))]:
        monkeypatch.delenv(name)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def five_past_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        "session.commands",
        "session.kube_backend",
        "session.wait",
        "template",
        "pool",
        "home",
    ):
        monkeypatch.setattr(f"vdi.cli.{module}.now_utc", lambda: NOW)


@pytest.fixture
def vdi(
    fake: FakeCluster,
    clean_machine: None,
    type_command: Vdi,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Vdi:
    """Type a command at the fake cluster: `vdi("session", "ls")`."""
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path)))
    return type_command
