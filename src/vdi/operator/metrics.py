"""What Prometheus gets to see."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vdi.api.session import PHASES, VDISession

_STARTUP_BUCKETS = (1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600)
_FAST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The operator's own registry; one per process, or per test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.startup = Histogram(
            "session_startup_seconds",
            "From a session's creation (in a later run: from its pod's) until its desktop was ready.",
            buckets=_STARTUP_BUCKETS,
            registry=self.registry,
        )
        self._reconciles = Counter(
            "vdi_reconciles", "Reconciles of a session, by outcome.", ["outcome"], registry=self.registry
        )
        self._reconcile_seconds = Histogram(
            "vdi_reconcile_seconds", "Length of a reconcile.", buckets=_FAST_BUCKETS, registry=self.registry
        )
        self._requests = Counter(
            "vdi_api_requests",
            "Requests to the Kubernetes API, by method, resource and status (0: no answer).",
            ["method", "resource", "status"],
            registry=self.registry,
        )
        for outcome in ("done", "requeue_after", "retry", "terminal"):
            self._reconciles.labels(outcome)

    def count_reconcile(self, outcome: str, seconds: float) -> None:
        """A reconcile has ended."""
        self._reconciles.labels(outcome).inc()
        self._reconcile_seconds.observe(seconds)

    def count_request(self, method: str, resource: str, status: int, _seconds: float) -> None:
        """A request to the API server was answered, or not."""
        self._requests.labels(method, resource, str(status)).inc()

    def watch_sessions(self, sessions: Callable[[], Iterable[VDISession]], waiting: Callable[[], int]) -> None:
        """Count sessions by phase, and keys in the queue, when asked."""
        self.registry.register(_State(sessions, waiting))


class _State(Collector):
    """Gauges that are computed when they are scraped."""

    def __init__(self, sessions: Callable[[], Iterable[VDISession]], waiting: Callable[[], int]) -> None:
        self._sessions = sessions
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        """Sessions by phase, and the length of the queue."""
        phases = Tally(session.status.phase or "Pending" for session in self._sessions())
        sessions = GaugeMetricFamily("vdi_sessions", "Sessions, by phase.", labels=["phase"])
        for phase in PHASES:
            sessions.add_metric([phase], phases[phase])
        yield sessions
        yield GaugeMetricFamily("vdi_queue_length", "Sessions that wait to be worked on.", value=self._waiting())
