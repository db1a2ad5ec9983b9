"""The control plane that `vdi cluster up --control-plane-only` makes: idempotent, self-healing,
gone without trace.
"""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from vdi.devcluster import cluster
from vdi.devcluster.layout import ClusterError
from vdi.devcluster.processes import wait_until
from vdi.devcluster.progress import Progress
from vdi.devcluster.status import ComponentStatus

COMPONENTS = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A cluster's name whose files are the test's; whatever the test leaves of it is taken down."""
    monkeypatch.setenv("VDI_STATE", str(tmp_path))
    name = f"d{os.getpid():x}"
    yield name
    cluster.down(name)


@pytest.fixture
def progress(tmp_path: Path) -> Iterator[Progress]:
    with Progress(tmp_path) as progress:
        yield progress


def processes_mentioning(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            except OSError:
                continue
            if str(folder) in words:
                found.append(f"{entry.name} {words}")
    return found


def component(name: str, which: str) -> ComponentStatus:
    return next(one for one in cluster.status(name).components if one.name == which)


def port_is_open(server: str) -> bool:
    host, port = server.removeprefix("https://").rsplit(":", 1)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize(
    "factor", [1.0, pytest.param(1.1, marks=pytest.mark.long)], ids=["fast", "slow"]
)
def test_down_after_two_ups_leaves_nothing(
    name: str, progress: Progress, tmp_path: Path, factor: float
) -> None:
    made = cluster.up(name, control_plane_only=True, timeout_factor=factor, progress=progress)
    assert not made.was_running
    assert port_is_open(made.server)
    assert made.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert {key.stat().st_mode & 0o777 for key in (made.state_dir / "pki").glob("*.key")} == {0o600}
    found = cluster.status(name)
    assert found.state == "running"
    assert [one.name for one in found.components] == COMPONENTS

    again = cluster.up(name, control_plane_only=True, timeout_factor=factor, progress=progress)
    assert again.was_running
    with pytest.raises(ClusterError, match=f"vdi cluster down --name {name}"):
        cluster.up(name, fake_gpus=3, progress=progress)
    assert {one.pid for one in cluster.status(name).components} == {
        one.pid for one in found.components
    }

    assert cluster.down(name)
    assert not made.state_dir.exists()
    assert processes_mentioning(made.state_dir) == []
    assert not port_is_open(made.server)
    assert cluster.status(name).state == "absent"
    assert cluster.down(name) == []


def test_each_killed_process_is_restarted_and_reported(
    control_plane: cluster.Cluster, kubectl: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = control_plane.name
    for which in COMPONENTS:
        before = component(name, which)
        os.kill(before.pid, signal.SIGKILL)

        def healed(before: ComponentStatus = before) -> bool:
            now = component(name, before.name)
            return (
                now.restarts > before.restarts
                and now.state == "running"
                and "SIGKILL" in now.last_exit
            )

        assert wait_until(healed, 30), component(name, which)
    assert wait_until(lambda: cluster.status(name).state == "running", 30)
    assert (
        subprocess.run([*kubectl, "get", "namespace", "default"], capture_output=True).returncode
        == 0
    )


@pytest.mark.long
def test_up_after_a_killed_supervisor_keeps_the_data(
    name: str, progress: Progress, kubectl: list[str]
) -> None:
    made = cluster.up(name, control_plane_only=True, progress=progress)
    words = [kubectl[0], "--kubeconfig", str(made.kubeconfig)]
    subprocess.run([*words, "create", "configmap", "keep"], check=True, capture_output=True)
    supervised = json.loads((made.state_dir / "supervisor.json").read_text())
    os.kill(supervised["main"]["pid"], signal.SIGKILL)
    assert wait_until(lambda: processes_mentioning(made.state_dir) == [], 10)
    assert cluster.status(name).state == "dead"
    assert {one.state for one in cluster.status(name).components} == {"dead"}

    again = cluster.up(name, progress=progress)  # as it was made, with no option that says so
    assert (again.was_running, again.server, again.control_plane_only) == (False, made.server, True)
    assert subprocess.run([*words, "get", "configmap", "keep"], capture_output=True).returncode == 0


def test_ctrl_c_in_up_leaves_nothing(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "vdi", "cluster", "up", "--control-plane-only", "--name", name]
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    folder = tmp_path / name
    assert wait_until(lambda: (folder / "status.json").exists() or running.poll() is not None, 30)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 130, said
    assert not folder.exists()
    assert processes_mentioning(folder) == []


def test_anonymous_requests_get_health_and_nothing_else(control_plane: cluster.Cluster) -> None:
    tls = ssl.create_default_context(cafile=control_plane.state_dir / "pki" / "ca.crt")
    with httpx.Client(base_url=control_plane.server, verify=tls, trust_env=False) as http:
        codes = {
            path: http.get(path).status_code
            for path in ("/readyz", "/version", "/api/v1/namespaces")
        }
    assert codes == {"/readyz": 200, "/version": 401, "/api/v1/namespaces": 401}
