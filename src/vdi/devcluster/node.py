"""A full node: containerd, kubelet and kube-proxy as supervised components, with their
configuration.

The first node runs beside the control plane, and Traefik beside it, twice: for browsers on this
machine, and for pods. Further nodes have a supervisor each.

Pure functions and writing of files; what touches the host is in `host`, what needs root goes
through `privileged`.
"""

import json
import sys
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from vdi.devcluster import fake_gpus
from vdi.devcluster.layout import ClusterSettings, Layout, write_private
from vdi.devcluster.machine import (
    Machine,
    cni_config,
    containerd_config,
    kubelet_config,
    resolv_conf,
)
from vdi.devcluster.probe import SYSTEM_PATH
from vdi.devcluster.supervisor import Component

NODE_BINARIES = (
    "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc", "cni",
    "traefik", "coredns", "local-path-provisioner", "pause",
)  # fmt: skip

# What the kubelet would set for the whole machine, and refuses to run without
# (component-helpers/node/util/sysctl). In its own mount namespace these files say what it wants to
# read; the host's kernel stays as its owner has it.
KERNEL_TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

_TRAEFIK_HEALTH, _POD_TRAEFIK_HEALTH = "127.0.0.1:8082", "127.0.0.1:8083"
_TRAEFIK_SERVICE_PORT = 443

_RESOLVE = '[ ! -e /etc/resolv.conf ] || mount --bind "$0" /etc/resolv.conf; exec "$@"'
# The words before a program that asks the cluster's DNS as pods do, although it is not a pod. It
# gets a mount namespace with the resolv.conf that follows. All become the next by exec: pid and
# socket stay.
_WITH_CLUSTER_DNS = ("unshare", "--mount", "sh", "-ec", _RESOLVE)


def _with_tunables(layout: Layout) -> list[str]:
    """Words before the kubelet, which becomes the next by exec: files over what it reads of the
    kernel's settings.

    No other mount namespace may have them: where a part of /proc is covered, the kernel lets no one
    mount a new /proc in a user namespace. Everything but /proc stays shared, so that containerd
    sees the volumes that the kubelet mounts.
    """
    binds = [
        f"mount --bind '{_tunable_file(layout, name)}' /proc/sys/{name}" for name in KERNEL_TUNABLES
    ]
    script = " && ".join(["mount --make-rprivate /proc", *binds, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", script, "sh"]


def host_folders(layout: Layout) -> dict[str, Path]:
    """Folders that the node's programs insist on, and what they get instead inside the node's mount
    namespace.
    """
    return {
        # Where mount(8), which the kubelet calls, keeps a table.
        "/run/mount": layout.run / "mount",
        "/run/containerd": layout.run / "shims",  # shim sockets: fixed in the shim
        "/var/lib/kubelet": layout.node / "kubelet",  # device plugins look for the kubelet there
        "/var/lib/cni": layout.node / "cni",
        "/var/log/pods": layout.node / "pods",
        "/var/log/containers": layout.node / "containers",
    }


def setup_commands(layout: Layout, settings: ClusterSettings) -> list[list[str]]:
    """Commands that the node's supervisor runs first, inside its namespaces."""
    networks = settings.node_networks
    commands = [["mount", "--make-rshared", "/"]]
    commands += [
        ["mount", "--bind", str(ours), theirs] for theirs, ours in host_folders(layout).items()
    ]
    if layout.cluster:  # the class `local-path` names one path for all nodes
        commands.append(["mount", "--bind", str(layout.volumes), str(layout.cluster.volumes)])
    # Names of registries are asked where the node's network can reach, not at a stub on the host's
    # loopback.
    resolver = (
        f"[ ! -e /etc/resolv.conf ] || mount --bind '{layout.config}/resolv.conf' /etc/resolv.conf"
    )
    commands.append(["sh", "-c", resolver])
    address, gateway = networks.address_of(layout.number), networks.gateway_of(layout.number)
    prefix = ip_network(networks.link).prefixlen
    commands += [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{address}/{prefix}", "dev", "eth0"],
        ["ip", "link", "set", "eth0", "up"],
        ["ip", "route", "add", "default", "via", gateway],
        ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"],
    ]
    return commands


def node(
    layout: Layout,
    settings: ClusterSettings,
    binaries: Mapping[str, Path],
    pull_environment: Mapping[str, str],
) -> list[Component]:
    """The node's components; on the first node they start after those of the control plane.

    `pull_environment` is for containerd only: no other component sends requests out of the cluster.
    """
    tools = [binaries[name].parent for name in ("containerd", "containerd-shim-runc-v2", "runc")]
    path = ":".join([*map(str, dict.fromkeys(tools)), SYSTEM_PATH])
    socket = f"{layout.run}/containerd.sock"
    components = [
        Component(
            name="containerd",
            argv=[str(binaries["containerd"]), "--config", str(layout.config / "containerd.toml")],
            env={**pull_environment, "PATH": path},
            ready={"unix": socket},
        ),
        Component(
            name="kubelet",
            argv=[
                *_with_tunables(layout),
                str(binaries["kubelet"]),
                f"--config={layout.config / 'kubelet.json'}",
                f"--kubeconfig={layout.component_kubeconfig('kubelet')}",
                f"--hostname-override={settings.name_of(layout.number)}",
                f"--node-ip={settings.node_networks.address_of(layout.number)}",
                "--root-dir=/var/lib/kubelet",
            ],
            env={"PATH": path},
            after=["containerd", *_control_plane(layout)],
            ready={"tcp": "127.0.0.1:10248"},
            needs_file=str(layout.images_loaded) if layout.cluster else "",
        ),
        _kube_proxy(layout, settings, binaries["kube-proxy"]),
    ]
    if layout.cluster is None:
        traefik = binaries["traefik"]
        components.append(
            _traefik(layout, traefik, "traefik", _TRAEFIK_HEALTH, listen_name="websecure")
        )
        components.append(_traefik(layout, traefik, "traefik-pods", _POD_TRAEFIK_HEALTH))
    if settings.fake_gpus:
        components.append(_fake_gpus(layout, settings))
    return components


def write_node_config(
    layout: Layout, settings: ClusterSettings, machine: Machine, binaries: Mapping[str, Path]
) -> None:
    """Write what containerd, CNI and kubelet read, and on the first node Traefik."""
    (layout.config / "cni").mkdir(exist_ok=True)
    toml = containerd_config(machine, layout, cni=binaries["cni"], runc=binaries["runc"])
    (layout.config / "containerd.toml").write_text(toml)
    _write_json(
        layout.config / "cni" / f"10-vdi-{settings.name}.conflist",
        cni_config(settings, machine, layout),
    )
    _write_json(layout.config / "kubelet.json", kubelet_config(settings, machine, layout))
    (layout.config / "resolv.conf").write_text(resolv_conf(machine))
    for name, value in KERNEL_TUNABLES.items():
        _tunable_file(layout, name).write_text(f"{value}\n")
    if layout.cluster is None:
        browsers = (  # a name for the socket that Traefik is given
            f"127.0.0.1:{settings.websecure_port}"
        )
        pods = f"{settings.node_networks.address_of(layout.number)}:{_TRAEFIK_SERVICE_PORT}"
        _write_json(
            layout.config / "traefik.json", _traefik_config(layout, browsers, _TRAEFIK_HEALTH)
        )
        _write_json(
            layout.config / "traefik-pods.json", _traefik_config(layout, pods, _POD_TRAEFIK_HEALTH)
        )
        (layout.config / "traefik-resolv.conf").write_text(_cluster_resolv_conf(settings))
        certificate = {
            "certFile": str(layout.pki / "web.crt"),
            "keyFile": str(layout.pki / "web.key"),
        }
        stores = {"default": {"defaultCertificate": certificate}}
        _write_json(
            layout.config / "traefik-tls.json",
            {"tls": {"stores": stores, "certificates": [certificate]}},
        )


def _control_plane(layout: Layout) -> list[str]:
    """Dependencies of a component that needs the API server; none for a further node, since it runs
    already.
    """
    return [] if layout.cluster else ["kube-apiserver"]


def _traefik(
    layout: Layout, binary: Path, name: str, health: str, *, listen_name: str = ""
) -> Component:
    """`listen_name`: the entry point whose socket it is given; without one it listens in the node's
    own network.
    """
    return Component(
        name=name,
        argv=[
            *_WITH_CLUSTER_DNS,
            str(layout.config / "traefik-resolv.conf"),
            str(binary),
            f"--configfile={layout.config / name}.json",
        ],
        env={"KUBECONFIG": str(layout.component_kubeconfig("traefik")), "PATH": SYSTEM_PATH},
        after=_control_plane(layout),
        ready={"tcp": health},
        needs_file=str(layout.addons_applied),
        listen_name=listen_name,
    )


def _tunable_file(layout: Layout, name: str) -> Path:
    return layout.config / f"sysctl.{name.replace('/', '.')}"


def _kube_proxy(layout: Layout, settings: ClusterSettings, binary: Path) -> Component:
    return Component(
        name="kube-proxy",
        argv=[
            str(binary),
            f"--kubeconfig={layout.component_kubeconfig('kube-proxy')}",
            f"--hostname-override={settings.name_of(layout.number)}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={settings.node_networks.all_pods}",
            "--conntrack-max-per-core=0",  # the limit is the host's
            "--healthz-bind-address=127.0.0.1:10256",
            "--metrics-bind-address=127.0.0.1:10249",
        ],
        env={"PATH": SYSTEM_PATH},
        # It looks for its node in the cluster, for half a minute where that is not there yet.
        after=["kubelet"] if layout.cluster else _control_plane(layout),
        ready={"tcp": "127.0.0.1:10256"},
    )


def _fake_gpus(layout: Layout, settings: ClusterSettings) -> Component:
    pki, own = layout.pki, layout.certificate("kubelet")
    credentials = [str(pki / "ca.crt"), str(pki / f"{own}.crt"), str(pki / f"{own}.key")]
    address = f"{settings.api_host}:{settings.api_port}"
    return Component(
        name="fake-gpus",
        argv=[
            sys.executable,
            "-I",
            fake_gpus.__file__,
            address,
            settings.name_of(layout.number),
            str(settings.fake_gpus),
            *credentials,
        ],
        after=["kubelet"],
    )


def _traefik_config(layout: Layout, address: str, health: str) -> dict[str, Any]:
    return {
        "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
        "log": {"level": "INFO", "noColor": True},
        "ping": {"entryPoint": "health"},
        "entryPoints": {
            "websecure": {
                "address": address,
                "asDefault": True,
                "http": {"tls": {}},
                "transport": {"lifeCycle": {"graceTimeOut": "1s"}},
            },
            "health": {"address": health},
        },
        "providers": {
            # 2 s by default: a person waits that long for the route.
            "providersThrottleDuration": "200ms",
            "kubernetesCRD": {"allowEmptyServices": True},
            "kubernetesIngress": {"allowEmptyServices": True, "ingressClass": "traefik"},
            "file": {"filename": str(layout.config / "traefik-tls.json"), "watch": False},
        },
    }


def _cluster_resolv_conf(settings: ClusterSettings) -> str:
    """resolv.conf of pods: the cluster's DNS completes names such as
    `vdi-gateway.vdi-system.svc`.
    """
    return (
        f"nameserver {settings.node_networks.dns_service}\nsearch svc.cluster.local"
        " cluster.local\noptions ndots:5\n"
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_private(path, json.dumps(content, indent=1).encode(), mode=0o644)
