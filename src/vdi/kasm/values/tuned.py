"""What the parts of Kasm may take on one small K3s node. Data; the figures of the core are requirement E5's.

The core's requests are real, so that a full node is seen at once; limits leave room for a login storm. Proxy, share,
guac and the RDP gateways have no figures there: theirs are what an idle one takes, with room above.
"""

from collections.abc import Iterator

from vdi.kasm.generations import Generation, Resources, Version
from vdi.kasm.values.options import Profile

_CORE = {
    "db": Resources("250m", "512Mi", "500m", "1Gi"),
    "redis": Resources("100m", "256Mi", "200m", "512Mi"),
    "manager": Resources("500m", "1Gi", "1000m", "2Gi"),
    "api": Resources("250m", "512Mi", "500m", "1Gi"),
    "proxy": Resources("100m", "128Mi", "500m", "512Mi"),
    "share": Resources("100m", "128Mi", "250m", "256Mi"),
}
_GATEWAY = Resources("100m", "256Mi", "500m", "1Gi")
_NGINX = Resources("50m", "64Mi", "250m", "256Mi")
GATEWAYS = frozenset({"guac", "rdp-gateway", "rdp-https-gateway", "connection-proxy"})
"""Only needed for sessions on Windows machines and other servers by RDP, VNC and SSH."""


def tuned(generation: Generation, version: Version, profile: Profile) -> Iterator[tuple[str, object, str]]:
    """Values, in order, as path, value and comment, which cut the chart to this profile's node."""
    if profile is Profile.CHART:
        return
    for component in generation.present(version):
        if component.may_be_absent:
            continue
        if component.key in GATEWAYS and profile is Profile.NODE_4GB:
            yield component.switch, False, "for RDP, VNC and SSH to other machines: does not fit a 4 GB node"
            continue
        for container in component.containers:
            nginx = component.key in GATEWAYS and "nginx" in container.name
            resources = _CORE.get(component.key) or (_NGINX if nginx else _GATEWAY)
            yield container.resources_path, block(resources), ""


def block(resources: Resources) -> dict[str, dict[str, str]]:
    """As Kubernetes and the charts write it."""
    return {
        "requests": {"cpu": resources.cpu, "memory": resources.memory},
        "limits": {"cpu": resources.cpu_limit, "memory": resources.memory_limit},
    }
