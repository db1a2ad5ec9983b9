"""Every decision that depends on the machine, in one place and pure: `Machine` (what `probe` saw)
-> configuration.

What cannot be tried on the machine at hand (cgroup v2, containerd 2, systemd-resolved, other
distributions) is tested here by its inputs. Sources: containerd's own documents on config versions
2 and 3, the kernel's on cgroups.
"""

import json
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

import msgspec

from vdi.devcluster.layout import ClusterSettings, Layout

# Programs the node needs and their packages, of the same names on Debian 12/13 and Ubuntu
# 22.04/24.04.
TOOLS = {
    "ip": "iproute2",
    "iptables": "iptables",
    "mount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}

GIB = 1024**3

# Processes and threads of one pod. Without a limit, a fork bomb in one desktop leaves the node no
# process ID.
POD_PIDS = 4096
# Of the disk: with less the kubelet evicts pods and deletes images that nothing uses.
KEPT_FREE_BYTES = GIB

PAUSE_IMAGE = "registry.k8s.io/pause:3.10"

_UNFIT_FOR_OVERLAY = {"overlay", "aufs", "nfs", "nfs4", "ecryptfs", "zfs", "fuse", "9p", "virtiofs"}


class CgroupMount(msgspec.Struct, frozen=True):
    """One mounted cgroup hierarchy: v2, or the v1 controllers it carries."""

    path: str
    v2: bool
    controllers: tuple[str, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The properties of this machine; see `probe`."""

    # Major and minor version.
    containerd: tuple[int, int]
    # CAP_SYS_RESOURCE: without it the score of a process can only be raised.
    may_lower_oom_score: bool
    # Type of the file system that containerd's data will lie on.
    state_filesystem: str
    # Of /etc/resolv.conf and, where it exists, systemd-resolved's own file.
    nameservers: dict[str, tuple[str, ...]]
    mtu: int


def snapshotter(machine: Machine) -> str:
    """Overlayfs, or plain copies on a file system that cannot carry its upper layer."""
    if machine.state_filesystem in _UNFIT_FOR_OVERLAY:
        return "native"
    return "overlayfs"


def choose_resolv_conf(machine: Machine) -> str | None:
    """The first resolver file with a name server that the node's own network can reach, or None.

    A name server on 127.0.0.0/8 (systemd-resolved's stub, dnsmasq) is the host's loopback, not the
    node's.
    """
    for path, servers in machine.nameservers.items():
        if any(not ip_address(server.partition("%")[0]).is_loopback for server in servers):
            return path
    return None


def explain_missing_tools(tools: Iterable[str]) -> str:
    """One sentence with the command that installs them."""
    tools = list(tools)
    packages = " ".join(sorted({TOOLS[tool] for tool in tools}))
    return (
        f"the node needs {', '.join(tools)}: install with `apt-get install {packages}`, or add"
        " --install-packages"
    )


def containerd_config(machine: Machine, layout: Layout, *, cni: Path, runc: Path) -> str:
    """containerd's configuration: version 2 for containerd 1.x, version 3 from 2.0 on.

    All its paths are the cluster's own, `/opt/containerd` (which it would make) included.
    """
    head = f"""\
root = "{layout.node}/containerd"
state = "{layout.run}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
address = "{layout.run}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{layout.node}/opt"
"""
    old = machine.containerd < (2, 0)
    if old:
        runtime = 'plugins."io.containerd.grpc.v1.cri"'
    else:
        runtime = 'plugins."io.containerd.cri.v1.runtime"'
    images = runtime if old else 'plugins."io.containerd.cri.v1.images"'
    runtime_body = f"""\
restrict_oom_score_adj = {json.dumps(not machine.may_lower_oom_score)}
netns_mounts_under_state_dir = true
enable_unprivileged_ports = true
enable_unprivileged_icmp = true
"""
    details = f"""\
[{runtime}.containerd]
default_runtime_name = "runc"
{f'snapshotter = "{snapshotter(machine)}"' if old else ""}
[{runtime}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{runtime}.containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
[{runtime}.cni]
{f'bin_dirs = ["{cni}"]' if machine.containerd >= (2, 1) else f'bin_dir = "{cni}"'}
conf_dir = "{layout.config}/cni"
[{images}.registry]
config_path = "/etc/containerd/certs.d"
"""
    if old:
        return (
            f"version = 2\n{head}[{runtime}]\nsandbox_image ="
            f' "{PAUSE_IMAGE}"\n{runtime_body}{details}'
        )
    pinned = (
        f'[{images}]\nsnapshotter = "{snapshotter(machine)}"\n[{images}.pinned_images]\nsandbox ='
        f' "{PAUSE_IMAGE}"\n'
    )
    return f"version = 3\n{head}[{runtime}]\n{runtime_body}{pinned}{details}"


def cni_config(settings: ClusterSettings, machine: Machine, layout: Layout) -> dict[str, object]:
    """Pods on point-to-point links of their own: unlike a bridge that needs no `br_netfilter`,
    which is the host's.
    """
    pods = ip_network(settings.node_networks.pods_of(layout.number))
    # The range of all nodes, so that what pods send to those of other nodes keeps its address;
    # given are the node's.
    own = {
        "subnet": settings.node_networks.all_pods,
        "rangeStart": str(pods[2]),
        "rangeEnd": str(pods[-2]),
    }
    address = {
        "type": "host-local",
        "ranges": [[{**own, "gateway": str(pods[1])}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": f"{layout.node}/cni",
    }
    return {
        "cniVersion": "1.0.0",
        "name": f"vdi-{settings.name}",
        "plugins": [
            {"type": "ptp", "ipMasq": True, "mtu": machine.mtu, "ipam": address},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def kubelet_config(
    settings: ClusterSettings, machine: Machine, layout: Layout
) -> dict[str, object]:
    """The kubelet's configuration: a guest on the machine, so it reserves, limits and tunes nothing
    of the host's.
    """
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": settings.node_networks.address_of(layout.number),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(layout.pki / f"{layout.certificate('kubelet-server')}.crt"),
        "tlsPrivateKeyFile": str(layout.pki / f"{layout.certificate('kubelet-server')}.key"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "failCgroupV1": False,
        "clusterDNS": [settings.node_networks.dns_service],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{layout.run}/containerd.sock",
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": str(KEPT_FREE_BYTES),
            "imagefs.available": str(KEPT_FREE_BYTES),
        },
        # 5 min by default: too long for people who wait and for tests.
        "evictionPressureTransitionPeriod": "30s",
        "failSwapOn": False,
        "featureGates": {"KubeletInUserNamespace": True},  # tolerates what a guest may not set
        # Never: an image that was loaded by hand cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "podPidsLimit": POD_PIDS,
        "oomScoreAdj": -999 if machine.may_lower_oom_score else 0,
        "resolvConf": str(layout.config / "resolv.conf"),
        "serializeImagePulls": False,
        # With cgroup v2 the kernel would else end a whole desktop for one program that takes too
        # much.
        "singleProcessOOMKill": True,
        "volumePluginDir": f"{layout.node}/volume-plugins",  # else it makes one below /usr/libexec
    }


def resolv_conf(machine: Machine) -> str:
    """resolv.conf of pods that use the node's DNS: the chosen file's name servers, if any can be
    reached.
    """
    path = choose_resolv_conf(machine)
    if path:
        return "".join(f"nameserver {server}\n" for server in machine.nameservers[path])
    return ""
