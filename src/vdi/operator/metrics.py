"""The operator's metrics: counters and histograms, which components increment, and gauges that are
read at a scrape.

`runtime` and `wiring` register the sources of the gauges with the `watch_` methods.
"""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vdi.api.pool import VDIPool
from vdi.api.session import Phase, VDISession
from vdi.kube.clock import Clock
from vdi.kube.lease import Elector
from vdi.kube.queue import Controller
from vdi.kube.watch import Reflector
from vdi.session.pool import desired_ready
from vdi.session.template_image import renders_on_gpu

_STARTUP_BUCKETS = (1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600)
_WAIT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_FAST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The registry of one process, or one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._measures: dict[str, Callable[[], Iterator[Metric]]] = {}
        self._leads: Callable[[], bool] = lambda: True
        self.registry.register(_Measured(self._measures))
        self.startup = Histogram(
            "session_startup_seconds",
            "Time from a session's creation (in a later run: from its pod's) until its desktop was"
            " ready.",
            buckets=_STARTUP_BUCKETS,
            registry=self.registry,
        )
        self.queue_wait = Histogram(
            "vdi_queue_wait_seconds",
            "Time that an admitted session had waited for capacity.",
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )
        self._reconciles = Counter(
            "vdi_reconciles",
            "Reconciles, by controller and outcome.",
            ["controller", "outcome"],
            registry=self.registry,
        )
        self._reconcile_seconds = Histogram(
            "vdi_reconcile_seconds",
            "Duration of a reconcile.",
            ["controller"],
            buckets=_FAST_BUCKETS,
            registry=self.registry,
        )
        # Counted here and given to Prometheus only at a scrape: its own counters take a lock each
        # time.
        self._requests: Tally[tuple[str, str, int]] = Tally()
        self._measures["requests"] = self._measure_requests

        # To look up the child of these labels takes longer than to count.
        self._reconciled = lru_cache(self._reconciles.labels)
        self._reconciled_in = lru_cache(self._reconcile_seconds.labels)

    def count_reconcile(self, controller: str, outcome: str, seconds: float) -> None:
        self._reconciled(controller, outcome).inc()
        self._reconciled_in(controller).observe(seconds)

    def count_request(self, method: str, resource: str, status: int, _seconds: float) -> None:
        """Count a request to the API server; `status` is 0 without a response."""
        self._requests[method, resource, status] += 1

    def _measure_requests(self) -> Iterator[Metric]:
        description = (
            "Requests to the Kubernetes API, by method, resource and status (0: no response)."
        )
        requests = CounterMetricFamily(
            "vdi_api_requests", description, labels=["method", "resource", "status"]
        )
        for (method, resource, status), number in sorted(self._requests.items()):
            requests.add_metric([method, resource, str(status)], number)
        yield requests

    def watch_lease(self, elector: Elector) -> None:
        """Report whether this process leads. While it does not, metrics of the cluster's state are
        left out.
        """

        def measure() -> Iterator[Metric]:
            yield GaugeMetricFamily(
                "vdi_leader", "1 where this process works, 0 where it stands by.", elector.leads
            )
            if (age := elector.age) is not None:
                yield GaugeMetricFamily(
                    "vdi_lease_age_seconds", "Time since the last renewal of the lease.", age
                )

        self._measures["lease"] = measure
        self._leads = lambda: elector.leads

    def watch_sessions(self, sessions: Callable[[], Iterable[VDISession]]) -> None:
        """Report sessions by phase and graphics, by the leader alone, so that sums over replicas
        are right.
        """

        def measure() -> Iterator[Metric]:
            if not self._leads():
                return
            phases: Tally[str] = Tally()
            drawn: Tally[tuple[str, str]] = Tally()
            isolated: Tally[bool] = Tally()
            for session in sessions():
                phases[session.status.phase or Phase.PENDING] += 1
                if session.status.isolation:
                    isolated[session.status.isolation.user_namespace] += 1
                if graphics := session.status.graphics:
                    on_gpu = (renders_on_gpu(graphics), graphics.hardware_encoder)
                    drawn[
                        "gpu" if on_gpu[0] else "software", "gpu" if on_gpu[1] else "software"
                    ] += 1
            yield _gauge(
                "vdi_sessions",
                "Sessions, by phase.",
                "phase",
                {phase.value: phases[phase] for phase in Phase},
            )
            description = (
                "Running sessions whose desktop reports its graphics, by renderer and encoder: gpu"
                " or software."
            )
            by_graphics = GaugeMetricFamily(
                "vdi_session_graphics", description, labels=["renderer", "encoder"]
            )
            for renderer in ("gpu", "software"):
                for encoder in ("gpu", "software"):
                    by_graphics.add_metric([renderer, encoder], drawn[renderer, encoder])
            yield by_graphics
            counts = {"true": isolated[True], "false": isolated[False]}
            yield _gauge(
                "vdi_session_user_namespaces",
                "Sessions with a pod, by user namespace.",
                "used",
                counts,
            )

        self._measures["sessions"] = measure

    def watch_pools(self, pools: Callable[[], Iterable[VDIPool]], clock: Clock) -> None:
        """Report the desktops of each pool, as its status does."""

        def measure() -> Iterator[Metric]:
            if not self._leads():
                return
            description = "Desktops of a pool: ready, starting, and used by running sessions."
            desktops = GaugeMetricFamily("vdi_pool_desktops", description, labels=["pool", "state"])
            desired = GaugeMetricFamily(
                "vdi_pool_desired_desktops",
                "Desktops that a pool should keep ready now.",
                labels=["pool"],
            )
            for pool in pools():
                desired.add_metric([pool.metadata.name], desired_ready(pool, clock.now()))
                status = pool.status
                for state, number in (
                    ("ready", status.ready),
                    ("starting", status.starting),
                    ("claimed", status.claimed),
                ):
                    desktops.add_metric([pool.metadata.name, state], number)
            yield desktops
            yield desired

        self._measures["pools"] = measure

    def watch_caches(self, reflectors: Collection[Reflector[Any]]) -> None:
        """Report the number of cached objects by kind."""

        def measure() -> Iterator[Metric]:
            sizes: Tally[str] = Tally()
            # Several may fill one.
            of_stores = {id(reflector.store): reflector for reflector in reflectors}
            for reflector in of_stores.values():
                sizes[reflector.resource.plural] += len(reflector.store)
            yield _gauge("vdi_cache_objects", "Objects in the caches, by kind.", "kind", sizes)

        self._measures["caches"] = measure

    def watch_queues(self, controllers: Collection[Controller[Any]]) -> None:
        """Report the length of the work queues; all controllers and outcomes appear from the
        start.
        """
        for controller in controllers:
            self._reconcile_seconds.labels(controller.name)
            for outcome in controller.outcomes:
                self._reconciles.labels(controller.name, outcome)

        def measure() -> Iterator[Metric]:
            lengths = {controller.name: len(controller.queue) for controller in controllers}
            yield _gauge(
                "vdi_workqueue_depth",
                "Keys in the work queue, by controller.",
                "controller",
                lengths,
            )

        self._measures["queues"] = measure

    def watch_waiting(self, waits: Callable[..., Collection[float]]) -> None:
        """Report the capacity queue. `waits` is `QueueManager.waits`."""

        def measure() -> Iterator[Metric]:
            if not self._leads():
                return
            seconds = waits()
            yield GaugeMetricFamily(
                "vdi_waiting_sessions", "Sessions that wait for capacity.", value=len(seconds)
            )
            # A metric of its own: a label would change what `max(vdi_waiting_sessions)` means in
            # people's dashboards.
            gpu = "Sessions that wait for capacity and request a GPU."
            yield GaugeMetricFamily("vdi_waiting_gpu_sessions", gpu, value=len(waits(gpu=True)))
            longest = "Waiting time of the session that has waited longest for capacity."
            yield GaugeMetricFamily(
                "vdi_longest_wait_seconds", longest, value=max(seconds, default=0.0)
            )

        self._measures["waiting"] = measure


class _Measured(Collector):
    """Gauges that are computed when they are scraped."""

    def __init__(self, measures: Mapping[str, Callable[[], Iterator[Metric]]]) -> None:
        self._measures = measures

    def collect(self) -> Iterator[Metric]:
        for measure in self._measures.values():
            yield from measure()

    def describe(self) -> Iterator[Metric]:
        return iter(())  # nothing is measured before the first scrape


def _gauge(
    name: str, description: str, label: str, values: "Tally[str] | dict[str, int]"
) -> Metric:
    gauge = GaugeMetricFamily(name, description, labels=[label])
    for value, number in sorted(values.items()):
        gauge.add_metric([value], number)
    return gauge
