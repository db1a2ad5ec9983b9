"""What Prometheus gets to see of the gateway."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_PAGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The gateway's own registry; one per process, or per test."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "vdi_gateway_requests",
            "Requests, by route, method and status code.",
            ["route", "method", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "vdi_gateway_request_seconds",
            "Time until the answer's first byte, by route.",
            ["route"],
            buckets=_PAGES,
            registry=registry,
        )
        self.verify_seconds = Histogram(
            "vdi_gateway_verify_seconds", "Length of a verification at the edge.", buckets=_FAST, registry=registry
        )
        self.verifications = Counter(
            "vdi_gateway_verifications",
            "Verifications at the edge, by outcome: allowed, renewed, sent (to log in), refused.",
            ["outcome"],
            registry=registry,
        )
        self.logins = Counter(
            "vdi_gateway_logins",
            "Attempts to log in, by source (local, oidc, cli) and outcome (in, refused, throttled).",
            ["source", "outcome"],
            registry=registry,
        )
        self.grants = Counter(
            "vdi_gateway_grants", "Grants of a desktop, by role and what happened.", ["role", "what"], registry=registry
        )
        self.actions = Counter(
            "vdi_gateway_actions",
            "What people did with desktops, by action and outcome.",
            ["action", "outcome"],
            registry=registry,
        )
        self.sse_streams = Gauge("vdi_gateway_sse_streams", "Live streams of events to browsers.", registry=registry)
        self.recorder_lag = Gauge(
            "vdi_gateway_recorder_lag_seconds",
            "How long the oldest transition that is not in the database yet has waited; 0: all is written.",
            registry=registry,
        )
        self.kube_requests = Counter(
            "vdi_gateway_kube_requests",
            "Requests to the Kubernetes API, by method, resource and status.",
            ["method", "resource", "code"],
            registry=registry,
        )

    def count_kube_request(self, method: str, plural: str, status: int, _seconds: float) -> None:
        """For `Client(on_request=...)`."""
        self.kube_requests.labels(method, plural, str(status)).inc()
