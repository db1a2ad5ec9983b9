"""What the operator's settings say about every session. Pure data; `vdi.operator.settings` reads it."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """Choices of the cluster's administrator that hold for all sessions."""

    domain: str = "vdi.localhost"
    """Desktops answer at `<label>.<domain>`."""
    url_port: int = 443
    """Port of the desktops' URLs as browsers see it; left out of `status.url` when it is 443."""
    entry_point: str = "websecure"
    """Traefik's entry point."""
    tls_secret: str | None = None
    """Secret with the wildcard certificate: in the portal's namespace, or without a gateway in the sessions'; None:
    Traefik's default certificate."""
    cert_resolver: str | None = None
    """Traefik's certificate resolver, when no Secret is named."""
    requests_cpu: str = "250m"
    """CPU that the scheduler reserves per desktop, never above its limit."""
    requests_memory: str = "1Gi"
    """Memory that the scheduler reserves per desktop, never above its limit."""
    gpu_resource: str = "nvidia.com/gpu"
    """Extended resource that stands for one GPU (slice)."""
    drain_notice: timedelta = timedelta(seconds=60)
    """How long the desktops of a cordoned node are kept before a drain may evict them."""
    agent_port: int = 8082
    """Port of the agent in the desktop, which tells whether it is used and shows notices."""

    edge_middleware: str | None = None
    """Traefik Middleware in the sessions' namespace that lets in only whom the gateway knows; None: every desktop asks
    for its own password."""
    portal_label: str = "portal"
    """First label of the gateway's own host, which no desktop may have where there is a gateway."""
    max_timeout: str | None = None
    """The longest run of a session whose template has no `lifecycle.maxTimeout`; None: there is no limit."""

    def host(self, label: str) -> str:
        """The full host name of a desktop."""
        return f"{label}.{self.domain}"

    def url(self, host: str) -> str:
        """Where the browser finds the desktop at `host`."""
        port = "" if self.url_port == 443 else f":{self.url_port}"
        return f"https://{host}{port}"
