"""What the node's configuration becomes on machines that are not at hand."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from unit.devcluster.node_settings import DEBIAN_12, FULL_NODE, THREE_NODES
from vdi.devcluster import machine
from vdi.devcluster.layout import Layout
from vdi.devcluster.machine import Machine
from vdi.devcluster.node import KERNEL_TUNABLES, host_folders, node, setup_commands

LAYOUT = Layout(Path("/home/alice/.local/state/vdi/demo"))


def containerd_toml(seen: Machine) -> dict[str, Any]:
    return tomllib.loads(
        machine.containerd_config(seen, LAYOUT, cni=Path("/cni"), runc=Path("/bin/runc"))
    )


@pytest.mark.parametrize("version", [(1, 6), (1, 7)])
def test_containerd_1_gets_config_version_2(version: tuple[int, int]) -> None:
    config = containerd_toml(replace(DEBIAN_12, containerd=version))
    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert config["version"] == 2
    assert cri["sandbox_image"] == machine.PAUSE_IMAGE
    assert cri["cni"]["bin_dir"] == "/cni"
    assert cri["containerd"]["snapshotter"] == "overlayfs"
    assert cri["containerd"]["runtimes"]["runc"]["options"] == {
        "BinaryName": "/bin/runc",
        "SystemdCgroup": False,
    }


@pytest.mark.parametrize(
    ("version", "cni"), [((2, 0), ("bin_dir", "/cni")), ((2, 1), ("bin_dirs", ["/cni"]))]
)
def test_containerd_2_gets_config_version_3(
    version: tuple[int, int], cni: tuple[str, object]
) -> None:
    config = containerd_toml(replace(DEBIAN_12, containerd=version))
    images, runtime = (
        config["plugins"][f"io.containerd.cri.v1.{part}"] for part in ("images", "runtime")
    )
    assert config["version"] == 3
    assert images["pinned_images"]["sandbox"] == machine.PAUSE_IMAGE
    assert images["snapshotter"] == "overlayfs"
    assert cni in runtime["cni"].items()
    assert "snapshotter" not in runtime["containerd"]
    assert "io.containerd.grpc.v1.cri" not in config["plugins"]


@pytest.mark.parametrize("may", [True, False])
def test_without_the_capability_no_oom_score_is_lowered(may: bool) -> None:
    seen = replace(DEBIAN_12, may_lower_oom_score=may)
    assert (
        containerd_toml(seen)["plugins"]["io.containerd.grpc.v1.cri"]["restrict_oom_score_adj"]
        is not may
    )
    assert (machine.kubelet_config(FULL_NODE, seen, LAYOUT)["oomScoreAdj"] == 0) is not may


@pytest.mark.parametrize(
    ("filesystem", "expected"), [("ext4", "overlayfs"), ("overlay", "native"), ("nfs4", "native")]
)
def test_overlayfs_only_where_it_can_lie(filesystem: str, expected: str) -> None:
    assert machine.snapshotter(replace(DEBIAN_12, state_filesystem=filesystem)) == expected


@pytest.mark.parametrize(
    ("nameservers", "chosen", "text"),
    [
        ({"/etc/resolv.conf": ("192.0.2.53",)}, "/etc/resolv.conf", "nameserver 192.0.2.53\n"),
        (
            {
                "/etc/resolv.conf": ("127.0.0.53",),
                "/run/systemd/resolve/resolv.conf": ("192.0.2.1", "fe80::1%eth0"),
            },
            "/run/systemd/resolve/resolv.conf",
            "nameserver 192.0.2.1\nnameserver fe80::1%eth0\n",
        ),
        ({"/etc/resolv.conf": ("127.0.0.1", "::1")}, None, ""),
        ({}, None, ""),
    ],
    ids=["plain", "systemd-resolved", "dnsmasq on loopback", "none"],
)
def test_a_resolver_on_the_hosts_loopback_is_none(
    nameservers: dict[str, tuple[str, ...]], chosen: str | None, text: str
) -> None:
    seen = replace(DEBIAN_12, nameservers=nameservers)
    assert machine.choose_resolv_conf(seen) == chosen
    assert machine.resolv_conf(seen) == text


def test_the_nodes_mounts_come_first_and_are_complete() -> None:
    commands = setup_commands(LAYOUT, FULL_NODE)
    assert commands[0] == ["mount", "--make-rshared", "/"]
    targets = {command[-1] for command in commands if command[:2] == ["mount", "--bind"]}
    assert targets == {*host_folders(LAYOUT)}


def test_only_the_kubelet_sees_files_over_proc() -> None:
    names = ("containerd", "containerd-shim-runc-v2", "runc", "kubelet", "kube-proxy", "traefik")
    components = node(LAYOUT, FULL_NODE, {name: Path("/bin") / name for name in names}, {})
    covered = {
        component.name for component in components if "/proc/sys" in " ".join(component.argv)
    }
    kubelet = next(component for component in components if component.name == "kubelet")
    script = kubelet.argv[kubelet.argv.index("-c") + 1]
    assert covered == {"kubelet"}
    assert script.startswith("mount --make-rprivate /proc && ")
    assert all(f"/proc/sys/{name}" in script for name in KERNEL_TUNABLES)


def test_a_further_node_has_addresses_and_files_of_its_own(tmp_path: Path) -> None:
    cluster = Layout(tmp_path / "demo")
    second = cluster.of_node(2)
    kubelet: Any = machine.kubelet_config(THREE_NODES, DEBIAN_12, second)
    assert (kubelet["address"], kubelet["cgroupRoot"]) == ("10.213.32.6", "/vdi-demo/node-2")
    assert kubelet["tlsCertFile"] == str(cluster.pki / "kubelet-server-2.crt")
    assert kubelet["containerRuntimeEndpoint"] == "unix:///run/vdi-demo/node-2/containerd.sock"
    (toml,) = [
        tomllib.loads(
            machine.containerd_config(DEBIAN_12, second, cni=Path("/cni"), runc=Path("/bin/runc"))
        )
    ]
    assert toml["root"] == str(cluster.root / "nodes/2/node/containerd")


@pytest.mark.parametrize(
    ("number", "first", "gateway"),
    [(1, "10.213.16.2", "10.213.16.1"), (2, "10.213.17.2", "10.213.17.1")],
)
def test_pods_keep_their_address_towards_the_pods_of_other_nodes(
    number: int, first: str, gateway: str
) -> None:
    """The plugin masquerades what leaves the subnet: that is the range of all nodes."""
    config: Any = machine.cni_config(THREE_NODES, DEBIAN_12, LAYOUT.of_node(number))
    ((pods,),) = config["plugins"][0]["ipam"]["ranges"]
    assert pods["subnet"] == "10.213.16.0/20"
    assert (pods["rangeStart"], pods["gateway"]) == (first, gateway)


def test_a_further_node_gets_its_images_before_its_kubelet() -> None:
    names = ("containerd", "containerd-shim-runc-v2", "runc", "kubelet", "kube-proxy")
    second = LAYOUT.of_node(2)
    components = node(
        second, replace(THREE_NODES, fake_gpus=2), {name: Path("/bin") / name for name in names}, {}
    )
    known = {component.name: component for component in components}
    assert list(known) == ["containerd", "kubelet", "kube-proxy", "fake-gpus"]
    assert all(set(known).issuperset(component.after) for component in components)
    assert known["kubelet"].needs_file == str(second.images_loaded)
    assert {"--hostname-override=vdi-demo-2", "--node-ip=10.213.32.6"} <= set(known["kubelet"].argv)
    assert "vdi-demo-2" in known["fake-gpus"].argv
    assert known["fake-gpus"].argv[-1] == str(LAYOUT.pki / "kubelet-2.key")


def test_volumes_of_a_further_node_are_on_its_own_disk() -> None:
    second = LAYOUT.of_node(2)
    assert ["mount", "--bind", str(second.volumes), str(LAYOUT.volumes)] in setup_commands(
        second, THREE_NODES
    )
