"""A cluster's files: names, settings, ports, certificates, and the refusal to become another kind
of cluster.
"""

import json
import socket
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from unit.devcluster.node_settings import DEBIAN_12, FULL_NODE, THREE_NODES
from vdi.devcluster import cluster, credentials, probe, starting
from vdi.devcluster.control_plane import control_plane
from vdi.devcluster.credentials import authority
from vdi.devcluster.layout import (
    ClusterError,
    ClusterSettings,
    Layout,
    free_ports,
    layout_of,
    write_private,
)
from vdi.devcluster.starting import render

CONTROL_PLANE = ClusterSettings(
    name="t",
    control_plane_only=True,
    fake_gpus=0,
    api_host="127.0.0.1",
    api_port=1,
    etcd_port=2,
    etcd_peer_port=3,
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.mark.parametrize("name", ["", "Demo", "1st", "a" * 11, "a-", "a/b", ".."])
def test_a_name_that_cannot_name_links_and_folders_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="allowed:"):
        layout_of(name)


def test_two_commands_cannot_work_on_one_cluster(layout: Layout) -> None:
    with layout.locked(), pytest.raises(ClusterError, match="is running"), layout.locked():
        pytest.fail("both got it")


def test_private_files_are_private_from_the_first_moment(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_the_web_authority_vouches_for_nothing_but_its_domain(tmp_path: Path) -> None:
    made = authority(tmp_path, "web-ca", "web", only_domain="vdi.localhost")
    limits = made.certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert limits.value.permitted_subtrees == [x509.DNSName("vdi.localhost")]


def test_credentials_are_made_once_and_verify(layout: Layout) -> None:
    credentials.write_credentials(layout, FULL_NODE)
    keys = {path.name: path.read_bytes() for path in layout.pki.glob("*.key")}
    credentials.write_credentials(layout, FULL_NODE)
    assert {path.name: path.read_bytes() for path in layout.pki.glob("*.key")} == keys
    for signer, certificate in (
        ("ca", "apiserver"),
        ("ca", "kubelet"),
        ("etcd-ca", "etcd"),
        ("web-ca", "web"),
    ):
        words = ["openssl", "verify", "-x509_strict", "-CAfile", str(layout.pki / f"{signer}.crt")]
        done = subprocess.run(
            [*words, str(layout.pki / f"{certificate}.crt")], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert {path.stat().st_mode & 0o777 for path in layout.pki.glob("*.key")} == {0o600}
    assert layout.kubeconfig.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("settings", [CONTROL_PLANE, FULL_NODE])
def test_the_control_plane_listens_on_its_one_address(
    layout: Layout, settings: ClusterSettings
) -> None:
    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    components = {
        one.name: one.argv
        for one in control_plane(layout, settings, {name: Path("/bin") / name for name in names})
    }
    assert f"--bind-address={settings.api_host}" in components["kube-apiserver"]
    assert all(
        "--secure-port=0" in components[name]
        for name in ("kube-controller-manager", "kube-scheduler")
    )
    listening = [word for word in components["etcd"] if word.startswith("--listen")]
    assert all("https://127.0.0.1:" in word for word in listening)
    assert ("--unsafe-no-fsync" in components["etcd"]) is settings.control_plane_only


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_slow_machine_loads_images_before_the_control_plane(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, is_slow: bool
) -> None:
    monkeypatch.setattr(probe, "read_machine", lambda **_: DEBIAN_12)
    layout.images_loaded.touch()  # of an earlier start
    starting.write_files(
        layout, FULL_NODE, defaultdict(lambda: Path("/bin/program")), is_slow=is_slow
    )
    components = {one["name"]: one for one in json.loads(layout.spec.read_bytes())["components"]}
    assert components["etcd"]["needs_file"] == (str(layout.images_loaded) if is_slow else "")
    assert not layout.images_loaded.exists()
    assert components["containerd"]["needs_file"] == ""
    assert "etcd" in components["kube-apiserver"]["after"]
    starting.write_node_files(
        layout.of_node(2), THREE_NODES, defaultdict(lambda: Path("/bin/program")), is_slow=is_slow
    )
    further = json.loads(layout.of_node(2).spec.read_bytes())["components"]
    limits = {
        one["name"]: (one["env"].get("GOMAXPROCS"), "nice" in one["argv"])
        for one in (*further, *components.values())
    }
    assert limits.pop("containerd") == (
        None,
        False,
    ), "it unpacks images side by side, and starts the containers"
    assert set(limits.values()) == {("1", True) if is_slow else (None, False)}


WITH_GPUS = msgspec.structs.replace(FULL_NODE, name="demo", fake_gpus=8)


@pytest.mark.parametrize(
    ("known", "control_plane_only", "fake_gpus", "nodes", "kind"),
    [
        (CONTROL_PLANE, False, None, None, starting.Kind(True, 0)),
        (FULL_NODE, False, None, None, starting.Kind(False, 0)),
        (WITH_GPUS, False, None, None, starting.Kind(False, 8)),
        (THREE_NODES, False, None, None, starting.Kind(False, 0, 3)),
        (CONTROL_PLANE, True, None, None, starting.Kind(True, 0)),
        (WITH_GPUS, False, 8, None, starting.Kind(False, 8)),
        (THREE_NODES, False, None, 3, starting.Kind(False, 0, 3)),
        (None, False, None, None, starting.Kind(False, 0)),
        (None, True, 0, None, starting.Kind(True, 0)),
        (None, False, None, 3, starting.Kind(False, 0, 3)),
    ],
)
def test_a_cluster_stays_as_it_was_made(
    known: ClusterSettings | None,
    control_plane_only: bool,
    fake_gpus: int | None,
    nodes: int | None,
    kind: starting.Kind,
) -> None:
    requested = {"control_plane_only": control_plane_only, "fake_gpus": fake_gpus, "nodes": nodes}
    assert starting.choose_kind("t", known, **requested) == kind  # type: ignore[arg-type]


GPUS = "a full node with 8 simulated GPUs, but"


@pytest.mark.parametrize(
    ("known", "kind", "both", "options"),
    [
        (WITH_GPUS, (False, 4, None), f"{GPUS} a full node with 4 simulated GPUs", " --fake-gpus 4"),
        (WITH_GPUS, (False, 0, None), f"{GPUS} a full node is", ""),
        (WITH_GPUS, (True, None, None), f"{GPUS} a control plane only", " --control-plane-only"),
        (
            CONTROL_PLANE, (False, 2, None), "a control plane only, but a full node with 2 simulated GPUs",
            " --fake-gpus 2",
        ),
        (FULL_NODE, (False, None, 2), "a full node, but 2 full nodes are requested", " --nodes 2"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_with_the_command(
    known: ClusterSettings, kind: tuple[bool, int | None, int | None], both: str, options: str
) -> None:
    control_plane_only, fake_gpus, nodes = kind
    with pytest.raises(ClusterError) as refused:
        starting.choose_kind(
            "demo", known, control_plane_only=control_plane_only, fake_gpus=fake_gpus, nodes=nodes
        )
    assert f"was created as {both}" in str(refused.value)
    assert f"`vdi cluster up --name demo{options}`" in str(refused.value)
    assert ("`vdi cluster nodes --name demo --add-node` adds a node" in str(refused.value)) is bool(
        nodes
    )


def test_each_node_has_certificates_of_its_own(layout: Layout) -> None:
    credentials.write_credentials(layout, THREE_NODES)
    second = layout.of_node(2)
    credentials.write_node_credentials(second, THREE_NODES)
    certificate = x509.load_pem_x509_certificate((layout.pki / "kubelet-2.crt").read_bytes())
    assert "CN=system:node:vdi-demo-2" in certificate.subject.rfc4514_string()
    server = x509.load_pem_x509_certificate((layout.pki / "kubelet-server-2.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [
        "10.213.32.6"
    ]
    assert second.component_kubeconfig("kubelet").exists()
    assert second.component_kubeconfig("kube-proxy").exists()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A cluster of three nodes, as far as its files say, whose first node runs."""
    monkeypatch.setenv("VDI_STATE", str(tmp_path))
    made = layout_of("demo")
    made.root.mkdir()
    made.save(THREE_NODES)
    monkeypatch.setattr(
        cluster, "find_supervisor", lambda layout: None if layout.cluster else object()
    )
    return "demo"


@pytest.mark.parametrize("command", [cluster.stop_node, cluster.cut_node])
@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("vdi-demo", "runs the control plane"),
        ("vdi-demo-9", "no node 'vdi-demo-9'"),
        ("2", "no node '2'"),
    ],
)
def test_only_an_existing_further_node_is_stopped_or_cut(
    running: str, command: Callable[[str, str], None], node: str, message: str
) -> None:
    with pytest.raises(ClusterError, match=message) as refused:
        command(running, node)
    assert "allowed: vdi-demo-2, vdi-demo-3" in str(refused.value)


@pytest.mark.parametrize(
    ("resolv_conf", "forwards"), [("nameserver 192.0.2.1\n", True), ("", False)]
)
def test_dns_asks_no_one_where_there_is_no_one(
    layout: Layout, resolv_conf: str, forwards: bool
) -> None:
    assert FULL_NODE.networks
    text = "".join(render(layout, "vdi-demo", FULL_NODE.networks, resolv_conf))
    assert ("forward . /etc/resolv.conf" in text) is forwards
    assert 'mkdir -m 0777 -p "$VOL_DIR"' in text
    assert f"clusterIP: {FULL_NODE.networks.dns_service}" in text
    assert text.count("nodeSelector: {kubernetes.io/hostname: vdi-demo}") == 2


def test_free_ports_are_none_that_connections_get() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = taken.getsockname()[1]
        ports = free_ports(40, used)
    assert len(set(ports)) == 40 and used not in ports
    assert all(port < 32_768 for port in ports)
    assert free_ports(1, ports[0]) == [ports[0]]
