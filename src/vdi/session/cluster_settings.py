"""Settings of the cluster's administrator that hold for every session. `vdi.settings` reads
them.
"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Pure data, so that gateway, CLI and doctor decide as the operator does."""

    # Desktops answer at `<label>.<domain>`.
    domain: str = "vdi.localhost"
    # Port of the desktops' URLs as browsers see it; left out of `status.url` when it is 443.
    url_port: int = 443
    entry_point: str = "websecure"
    # Secret with the wildcard certificate: in the portal's namespace, or without a gateway in the
    # sessions'; None: Traefik's default certificate.
    tls_secret: str | None = None
    # Traefik's certificate resolver, when no Secret is named.
    cert_resolver: str | None = None
    # CPU that the scheduler reserves per desktop, never above its limit.
    requests_cpu: str = "250m"
    # Memory that the scheduler reserves per desktop, never above its limit.
    requests_memory: str = "1Gi"
    # Extended resource that stands for one GPU (slice).
    gpu_resource: str = "nvidia.com/gpu"
    # A drain may evict the desktops of a cordoned node only after this time.
    drain_notice: timedelta = timedelta(seconds=60)
    # Port of the agent in the desktop, which reports activity and shows notices.
    agent_port: int = 8082
    # Traefik Middleware in the sessions' namespace that lets the gateway check each request; None:
    # there is no gateway, and every desktop asks for its own password.
    edge_middleware: str | None = None
    # First label of the gateway's own host, which no desktop may have where there is a gateway.
    portal_label: str = "portal"
    # The longest run of a session whose template has no `lifecycle.maxTimeout`; None: there is no
    # limit.
    max_timeout: str | None = None

    def host(self, label: str) -> str:
        """The full host name of a desktop."""
        return f"{label}.{self.domain}"

    def url(self, host: str) -> str:
        """The URL of a host as browsers see it."""
        port = "" if self.url_port == 443 else f":{self.url_port}"
        return f"https://{host}{port}"
