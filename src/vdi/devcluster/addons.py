"""What the cluster brings beside Kubernetes itself, as K3s does: DNS, local volumes, Traefik's kinds and rights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from string import Template

from vdi.devcluster.host_settings import without_proxies
from vdi.devcluster.layout import ClusterSettings, Layout
from vdi.devcluster.networks import Networks
from vdi.devcluster.progress import Step

_MANIFESTS = Path(__file__).parent / "manifests"


def apply_addons(step: Step, layout: Layout, settings: ClusterSettings, binaries: Mapping[str, Path]) -> None:
    """Apply Traefik's kinds and, where there is a node, all the rest. Applying again heals what was changed."""
    manifests = [binaries["traefik-crds.yaml"].read_text()]
    if settings.networks is not None:
        resolv_conf = (layout.config / "resolv.conf").read_text()
        manifests += render(layout, settings.node_name, settings.networks, resolv_conf)
    kubectl: list[str | Path] = [binaries["kubectl"], "--kubeconfig", layout.kubeconfig]
    apply: list[str | Path] = ["apply", "--server-side", "--force-conflicts", "--field-manager=vdi-cluster", "-f", "-"]
    step.run([*kubectl, *apply], env=without_proxies(os.environ), stdin="\n---\n".join(manifests).encode())
    layout.addons_applied.touch()


def render(layout: Layout, node_name: str, networks: Networks, resolv_conf: str) -> list[str]:
    """The add-ons, on the node of that name: the first one, which no one stops alone.

    Without a name server to ask, DNS answers for the cluster only, and at once.
    """
    values = {
        "dns_service": networks.dns_service,
        "forward": "forward . /etc/resolv.conf" if resolv_conf else "# this machine has no name server to ask",
        "volumes": str(layout.volumes),
        "node_name": node_name,
        "node_address": networks.node_address,
    }
    return [Template(path.read_text()).substitute(values) for path in sorted(_MANIFESTS.glob("*.yaml"))]
