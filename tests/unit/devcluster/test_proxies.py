"""Behind a proxy: containerd pulls images through it, and whatever talks to the cluster goes past
it.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from unit.devcluster.binaries_servers import script
from unit.devcluster.node_settings import DEBIAN_12, THREE_NODES
from vdi.devcluster import probe, starting
from vdi.devcluster.layout import Layout
from vdi.devcluster.processes import start_supervisor, stop_supervisor, wait_until, write_spec
from vdi.devcluster.progress import Progress
from vdi.devcluster.starting import apply_addons
from vdi.devcluster.supervisor import Component

FOR_PULLS = {
    "HTTPS_PROXY": "http://me:secret@proxy.example:3128",
    "http_proxy": "http://proxy.example:3128",
    "no_proxy": "registry.example",
    "SSL_CERT_FILE": "/etc/proxy-ca.pem",
}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """The files of a cluster and of its second node, written behind a proxy."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in FOR_PULLS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(probe, "read_machine", lambda **_: DEBIAN_12)
    programs: defaultdict[str, Path] = defaultdict(lambda: Path("/bin/program"))
    layout = Layout(tmp_path / "demo")
    layout.root.mkdir()
    starting.write_files(layout, THREE_NODES, programs)
    starting.write_node_files(layout.of_node(2), THREE_NODES, programs)
    return layout


def environments(layout: Layout) -> dict[str, dict[str, str]]:
    """What each component of this node sees of the caller's environment, from the program that
    takes its place.
    """
    folder = layout.root / "seen"
    folder.mkdir()
    components = [
        Component(**component) for component in json.loads(layout.spec.read_bytes())["components"]
    ]
    note_environment = 'env -0 > "$0.partial"; mv "$0.partial" "$0"; exec sleep 60'
    programs = [
        Component(
            component.name,
            ["/bin/sh", "-c", note_environment, str(folder / component.name)],
            component.env,
        )
        for component in components
    ]
    write_spec(layout, programs, [])
    start_supervisor(layout)
    try:
        files = [folder / component.name for component in components]
        assert wait_until(lambda: all(file.exists() for file in files), 8)
    finally:
        stop_supervisor(layout)
    texts = {file.name: file.read_text().split("\0") for file in files}
    found = {
        name: dict(line.split("=", 1) for line in lines if line) for name, lines in texts.items()
    }
    return {
        name: {key: env[key] for key in env.keys() & FOR_PULLS.keys()}
        for name, env in found.items()
    }


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("sudo", [False, True], ids=["root", "sudo"])
def test_only_containerd_goes_through_the_proxy(
    cluster: Layout, monkeypatch: pytest.MonkeyPatch, number: int, sudo: bool
) -> None:
    if sudo:  # it runs what starts the supervisor without these variables
        for name in FOR_PULLS:
            monkeypatch.delenv(name)
    found = environments(cluster.of_node(number))
    assert found.pop("containerd") == FOR_PULLS
    assert {"kubelet", "kube-proxy"} <= found.keys()
    assert not any(found.values()), found


@pytest.mark.parametrize("number", [1, 2])
def test_a_proxys_password_is_for_the_owner_alone(cluster: Layout, number: int) -> None:
    file = cluster.of_node(number).spec
    assert "me:secret" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_add_ons_go_past_the_proxy(cluster: Layout, tmp_path: Path) -> None:
    kubectl = script(tmp_path / "kubectl", f"env > {tmp_path}/seen\ncat > /dev/null")
    (crds := tmp_path / "crds.yaml").touch()
    with Progress(tmp_path / "logs") as progress, progress.step("Apply") as step:
        apply_addons(step, cluster, THREE_NODES, {"kubectl": kubectl, "traefik-crds.yaml": crds})
    seen = (tmp_path / "seen").read_text()
    assert "PATH=" in seen
    assert "_proxy=" not in seen.lower()
