"""The gateway's metrics. Components count on `context.metrics`; names and labels are in
docs/monitoring.md.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# Buckets in seconds.
_FAST = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_GLASS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
_PICTURES = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10)
_PAGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """A registry of its own per process, or per test."""

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
            "Time to the first byte of the response, by route.",
            ["route"],
            buckets=_PAGES,
            registry=registry,
        )
        self.verify_seconds = Histogram(
            "vdi_gateway_verify_seconds",
            "Duration of a verification at the edge.",
            buckets=_FAST,
            registry=registry,
        )
        self.verifications = Counter(
            "vdi_gateway_verifications",
            "Verifications at the edge, by outcome: allowed, renewed, sent (to log in), refused.",
            ["outcome"],
            registry=registry,
        )
        self.logins = Counter(
            "vdi_gateway_logins",
            "Login attempts, by source (local, oidc, cli) and outcome (in, refused, throttled).",
            ["source", "outcome"],
            registry=registry,
        )
        self.grants = Counter(
            "vdi_gateway_grants",
            "Grants of a desktop, by role and outcome.",
            ["role", "what"],
            registry=registry,
        )
        self.actions = Counter(
            "vdi_gateway_actions",
            "Actions of users on desktops, by action and outcome.",
            ["action", "outcome"],
            registry=registry,
        )
        self.notices = Counter(
            "vdi_gateway_notices",
            "Notices outside the desktop, by sink (webhook, email) and outcome: sent, failed (one"
            " try), dropped.",
            ["sink", "outcome"],
            registry=registry,
        )
        help_text = (
            "Transfers and connections that desktops report, by kind; transfers.dropped: events"
            " that were lost."
        )
        self.transfers = Counter("vdi_gateway_transfers", help_text, ["kind"], registry=registry)
        help_text = "Size of the transfers that desktops report, by kind."
        self.transfer_bytes = Counter(
            "vdi_gateway_transfer_bytes", help_text, ["kind"], registry=registry
        )
        self.sse_streams = Gauge(
            "vdi_gateway_sse_streams", "Open event streams to browsers.", registry=registry
        )
        self.recorder_lag = Gauge(
            "vdi_gateway_recorder_lag_seconds",
            "How long the oldest transition that is not yet in the database has waited; 0: all are"
            " written.",
            registry=registry,
        )
        self.dependency_up = Gauge(
            "vdi_gateway_dependency_up",
            "Whether a dependency works: the last write to database or redis, the last call of"
            " oidc; 0: it failed.",
            ["dependency"],
            registry=registry,
        )
        self.glass_to_glass = Histogram(
            "session_glass_to_glass_seconds",
            "From a key that a probe presses to the decoded picture that shows its effect, by"
            " template.",
            ["template"],
            buckets=_GLASS,
            registry=registry,
        )
        self.first_picture = Histogram(
            "session_first_picture_seconds",
            "From a probe's first request to the desktop to its first decoded picture, by"
            " template.",
            ["template"],
            buckets=_PICTURES,
            registry=registry,
        )
        self.probes = Counter(
            "vdi_probes",
            "Probes of desktops, by template and outcome: measured, or the stage that failed.",
            ["template", "outcome"],
            registry=registry,
        )
        self.probe_frame_rate = Gauge(
            "vdi_probe_frames_per_second",
            "Frames per second that the last probe received while its mark kept changing, by"
            " template.",
            ["template"],
            registry=registry,
        )
        self.probe_bitrate = Gauge(
            "vdi_probe_bitrate_bits_per_second",
            "Video bit rate that the last probe received, by template.",
            ["template"],
            registry=registry,
        )
        self.probe_frames = Counter(
            "vdi_probe_frames",
            "Frames that desktops numbered while they were probed, by template: arrived or"
            " dropped.",
            ["template", "outcome"],
            registry=registry,
        )
        self.kube_requests = Counter(
            "vdi_gateway_kube_requests",
            "Requests to the Kubernetes API, by method, resource and status.",
            ["method", "resource", "code"],
            registry=registry,
        )

    def count_kube_request(self, method: str, plural: str, status: int, _seconds: float) -> None:
        self.kube_requests.labels(method, plural, str(status)).inc()
