"""Who may speak to whom in the cluster: certificates and kubeconfigs of every component and of the administrator."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdi.devcluster.layout import ClusterSettings, Layout, give_to_invoker, write_private
from vdi.devcluster.networks import CONTROL_PLANE_SERVICES
from vdi.devcluster.pki import Authority, authority, service_account_key

WEB_DOMAIN = "vdi.localhost"
"""Names below `localhost` reach this machine without any DNS: browsers and resolvers agree on that."""


@dataclass(frozen=True)
class Client:
    """A component that talks to the API server: its certificate's common name and group."""

    user: str
    group: str = ""


CONTROL_PLANE_CLIENTS = {
    "kube-controller-manager": Client("system:kube-controller-manager"),
    "kube-scheduler": Client("system:kube-scheduler"),
}


TRAEFIK = Client("vdi:traefik")
"""It gets its rights from our manifest, not from being trusted."""


def node_clients(node_name: str) -> dict[str, Client]:
    """The clients that a node has."""
    return {"kubelet": Client(f"system:node:{node_name}", "system:nodes"), "kube-proxy": Client("system:kube-proxy")}


def write_credentials(layout: Layout, settings: ClusterSettings) -> None:
    """Make every key, certificate and kubeconfig that is not there yet."""
    layout.config.mkdir(mode=0o700, exist_ok=True)
    ca = authority(layout.pki, "ca", f"vdi cluster {settings.name}")
    services = settings.networks.services if settings.networks else CONTROL_PLANE_SERVICES
    api_service = settings.networks.api_service if settings.networks else services.replace(".0/16", ".1")
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    ca.issue("apiserver", "kube-apiserver", names=[*names, "localhost", settings.api_host, api_service], server=True)
    ca.issue("apiserver-kubelet", "kube-apiserver-kubelet", organisation="system:masters")
    service_account_key(layout.pki)

    etcd_ca = authority(layout.pki, "etcd-ca", f"vdi cluster {settings.name} etcd")
    etcd_ca.issue("etcd", "etcd", names=["localhost", "127.0.0.1"], server=True)
    etcd_ca.issue("apiserver-etcd", "kube-apiserver")

    clients = dict(CONTROL_PLANE_CLIENTS)
    if not settings.control_plane_only:
        clients["traefik"] = TRAEFIK
        write_node_credentials(layout, settings)
        web_ca = authority(layout.pki, "web-ca", f"vdi cluster {settings.name} desktops", only_domain=WEB_DOMAIN)
        web_ca.issue("web", f"*.{WEB_DOMAIN}", names=[f"*.{WEB_DOMAIN}", WEB_DOMAIN], server=True)
    _write_clients(layout, settings, ca, clients)
    admin = ca.issue("admin", "vdi:admin", organisation="system:masters")
    _write_kubeconfig(layout.kubeconfig, settings, ca, admin, f"vdi-{settings.name}")
    give_to_invoker(layout.kubeconfig)


def write_node_credentials(layout: Layout, settings: ClusterSettings) -> None:
    """Make what the node of this layout needs: kubelet's own certificate, and those of its clients."""
    layout.config.mkdir(mode=0o700, parents=True, exist_ok=True)
    ca = authority(layout.pki, "ca", f"vdi cluster {settings.name}")
    name, address = settings.name_of(layout.number), settings.node_networks.address_of(layout.number)
    ca.issue(layout.certificate("kubelet-server"), name, names=[name, address], server=True)
    _write_clients(layout, settings, ca, node_clients(name))


def _write_clients(layout: Layout, settings: ClusterSettings, ca: Authority, clients: Mapping[str, Client]) -> None:
    for component, client in clients.items():
        certificate = ca.issue(layout.certificate(component), client.user, organisation=client.group)
        _write_kubeconfig(layout.component_kubeconfig(component), settings, ca, certificate, component)


def _write_kubeconfig(
    path: Path, settings: ClusterSettings, ca: Authority, certificate: tuple[Path, Path], user: str
) -> None:
    context = f"vdi-{settings.name}"
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": context,
        "clusters": [
            {"name": context, "cluster": {"server": settings.server, "certificate-authority-data": _inline(ca.file)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _inline(certificate[0]),
                    "client-key-data": _inline(certificate[1]),
                },
            }
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
    }
    write_private(path, json.dumps(content, indent=1).encode())  # JSON is YAML, and every reader takes it


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
