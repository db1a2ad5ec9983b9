"""What Prometheus gets to see."""

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from vdi.api.pool import VDIPool
from vdi.api.session import PHASES, VDISession
from vdi.kube.lease import Elector
from vdi.kube.queue import Controller
from vdi.kube.watch import Reflector
from vdi.operator.exposition import Counter, Histogram, Labels, gauge

_STARTUP_BUCKETS = (1, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600)
_WAIT_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400)
_FAST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

Measure = Callable[[], Iterator[str]]
"""Computes gauges when they are asked for; gives their lines."""


class Metrics:
    """What was counted, and who is to be asked for the rest; one per process, or per test."""

    def __init__(self) -> None:
        self.startup = Histogram(
            "session_startup_seconds",
            "From a session's creation (in a later run: from its pod's) until its desktop was ready.",
            _STARTUP_BUCKETS,
        )
        self.queue_wait = Histogram(
            "vdi_queue_wait_seconds", "How long a session that was admitted had waited for room.", _WAIT_BUCKETS
        )
        self._reconciles = Counter(
            "vdi_reconciles_total", "Reconciles, by controller and outcome.", ["controller", "outcome"]
        )
        self._reconcile_seconds = Histogram(
            "vdi_reconcile_seconds", "Length of a reconcile.", _FAST_BUCKETS, ["controller"]
        )
        self._requests = Counter(
            "vdi_api_requests_total",
            "Requests to the Kubernetes API, by method, resource and status (0: no answer).",
            ["method", "resource", "status"],
        )
        self._measures: dict[str, Measure] = {}  # by subject: a new life of the operator takes the place of the old one
        self._leads: Callable[[], bool] = lambda: True

    def render(self) -> bytes:
        """Everything, as Prometheus reads it."""
        counted = (self.startup, self.queue_wait, self._reconciles, self._reconcile_seconds, self._requests)
        lines = [line for metric in counted for line in metric.lines()]
        lines += [line for measure in self._measures.values() for line in measure()]
        return "".join(lines).encode()

    def count_reconcile(self, controller: str, outcome: str, seconds: float) -> None:
        """A reconcile has ended."""
        self._reconciles.add(controller, outcome)
        self._reconcile_seconds.observe(seconds, controller)

    def count_request(self, method: str, resource: str, status: int, _seconds: float) -> None:
        """A request to the API server was answered, or not."""
        self._requests.add(method, resource, str(status))

    def watch_lease(self, elector: Elector) -> None:
        """Tell whether this process leads; what only the leader knows is left out while it does not."""

        def measure() -> Iterator[str]:
            yield from gauge("vdi_leader", "1 where this process works, 0 where it stands by.", elector.leads)
            if (age := elector.age) is not None:
                yield from gauge("vdi_lease_age_seconds", "Since the last renewal of the lease.", age)

        self._measures["lease"] = measure
        self._leads = lambda: elector.leads

    def watch_sessions(self, sessions: Callable[[], Iterable[VDISession]]) -> None:
        """Count sessions by phase when asked; only the leader does, so that they are not counted twice."""

        def measure() -> Iterator[str]:
            if self._leads():
                phases = Tally(session.status.phase or "Pending" for session in sessions())
                yield from gauge(
                    "vdi_sessions", "Sessions, by phase.", {(phase,): phases[phase] for phase in PHASES}, ["phase"]
                )

        self._measures["sessions"] = measure

    def watch_pools(self, pools: Callable[[], Iterable[VDIPool]]) -> None:
        """Count the desktops of each pool when asked, as its status does."""

        def measure() -> Iterator[str]:
            if self._leads():
                desktops: dict[Labels, float] = {}
                for pool in pools():
                    name, status = pool.metadata.name, pool.status
                    desktops |= {
                        (name, "ready"): status.ready,
                        (name, "starting"): status.starting,
                        (name, "claimed"): status.claimed,
                    }
                words = "Desktops of a pool: ready to be taken, starting, and taken by sessions that run."
                yield from gauge("vdi_pool_desktops", words, desktops, ["pool", "state"])

        self._measures["pools"] = measure

    def watch_caches(self, reflectors: Collection[Reflector[Any]]) -> None:
        """Count what is known of the cluster when asked."""

        def measure() -> Iterator[str]:
            sizes: Tally[Labels] = Tally()
            for reflector in reflectors:
                sizes[(reflector.resource.plural,)] += len(reflector.store)
            yield from gauge("vdi_cache_objects", "Objects in the caches, by kind.", sizes, ["kind"])

        self._measures["caches"] = measure

    def watch_queues(self, controllers: Collection[Controller[Any]]) -> None:
        """Measure the work that waits when asked; every controller shows from the start on."""
        for controller in controllers:
            self._reconcile_seconds.show(controller.name)
            for outcome in controller.outcomes:
                self._reconciles.add(controller.name, outcome, number=0)

        def measure() -> Iterator[str]:
            lengths: dict[Labels, float] = {(controller.name,): len(controller.queue) for controller in controllers}
            words = "Keys that wait to be worked on, by controller."
            yield from gauge("vdi_queue_length", words, lengths, ["controller"])

        self._measures["queues"] = measure

    def watch_waiting(self, waiting: Callable[[], Collection[float]]) -> None:
        """Measure those who wait for room when asked: `waiting` gives how many seconds each has waited by now."""

        def measure() -> Iterator[str]:
            if self._leads():
                waits = waiting()
                yield from gauge("vdi_waiting_sessions", "Sessions that wait for room.", len(waits))
                longest = "How long the session that waits longest for room has waited."
                yield from gauge("vdi_longest_wait_seconds", longest, max(waits, default=0.0))

        self._measures["waiting"] = measure
