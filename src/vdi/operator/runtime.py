"""The operator's life cycle: caches fill, the process stands by, is elected, leads, and starts over when the Lease is
lost.

A `Runtime` passes nothing on to the next one: a process that has lost the Lease begins as one that was just started,
since another process has written meanwhile. Only the metrics and the health port outlive it.
"""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from uuid import uuid4

from vdi.kinds import FIELD_MANAGER
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.events import EventRecorder
from vdi.kube.lease import DEFAULT_LEASE_TIMING, Elector
from vdi.kube.transport import NO_RETRY, Client
from vdi.operator.caches import Caches, ClusterContext
from vdi.operator.health import Health
from vdi.operator.metrics import Metrics
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY, ReleaseKey
from vdi.operator.wiring import AnyWorker, OperatorContext, Wiring, build_wiring
from vdi.process import MetricsToken
from vdi.settings import Settings
from vdi.version import user_agent

log = logging.getLogger(__name__)

# The name of the Lease, in the first of the sessions' namespaces.
LEASE = "vdi-operator"

# Seconds that reconciles under way may take after SIGTERM; Kubernetes kills after 30.
DRAIN = 10.0
# Seconds that Events may take then; a successor waits for it.
_FLUSH = 1.0
# Seconds that a new leader waits for watches that do not work just now; then it works with what it knows.
_CATCH_UP = 10.0
# Seconds between two looks at them.
_CATCH_UP_INTERVAL = 0.1
# Seconds between two tries to read the keys of the release.
_READ_KEY_INTERVAL = 2.0
# Seconds between two log lines on why the operator cannot start working.
_LOG_INTERVAL = 30.0


class Runtime:
    """Made for `run`, once."""

    def __init__(
        self, config: ClusterConfig, settings: Settings, metrics: Metrics, health: Health, clock: Clock
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._health = health
        make_client = partial(
            Client,
            config,
            field_manager=FIELD_MANAGER,
            user_agent=user_agent(FIELD_MANAGER),
            on_request=metrics.count_request,
            clock=clock,
        )
        # Two renewals in a row may fail by their timeout before the lease is anybody's.
        timeout = DEFAULT_LEASE_TIMING.deadline - DEFAULT_LEASE_TIMING.renew
        self._lease_client = make_client(retry=NO_RETRY, request_timeout=timeout)
        host = socket.gethostname()
        identity = f"{host}_{uuid4()}"
        self._elector = Elector(
            self._lease_client, namespace=settings.namespace, name=LEASE, identity=identity, clock=clock
        )
        self._client = make_client(lease_guard=self._elector.allowance)
        self._caches = Caches(
            self._client,
            settings.namespaces,
            clock,
            count_others=settings.count_other_workloads,
            placeholders_namespace=settings.autoscaling.namespace if settings.autoscaling.enabled else "",
        )
        self._recorder = EventRecorder(self._client, controller="kasm.io/vdi-operator", instance=host, clock=clock)
        host_key, desktop_key = self._keys = (
            ReleaseKey(self._client, settings.operator_namespace, HOST_KEY),
            ReleaseKey(self._client, settings.operator_namespace, DESKTOP_KEY),
        )
        cluster = ClusterContext(self._client, self._caches, settings.cluster, clock, settings.namespaces)
        self._wiring = build_wiring(
            OperatorContext(cluster, self._recorder, metrics, settings, self._elector, host_key, desktop_key)
        )
        health.watch(self._caches, self._elector, self._keys)
        metrics.watch_lease(self._elector)
        metrics.watch_sessions(self._caches.sessions.values)
        metrics.watch_caches(self._caches.reflectors)
        metrics.watch_queues([worker.controller for worker in self._wiring.workers])

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Live until `stop` is set or the lease is lost. `on_ready` is called when the caches are full.

        Raises what a helper of the assembly failed with, RuntimeError when one has ended by itself.
        """
        async with self._lease_client, self._client, asyncio.TaskGroup() as group:
            work = [*(reflector.run() for reflector in self._caches.reflectors), self._recorder.run()]
            tasks = [group.create_task(one) for one in work]
            if await self._wait_until_synced(stop):
                on_ready()
                await self._run_election(stop)
            for task in tasks:
                task.cancel()

    async def _wait_until_synced(self, stop: asyncio.Event) -> bool:
        """Wait for the first list of every kind; False when stopped before. Logs what is missing."""
        synced = asyncio.create_task(self._caches.wait_synced(), name="first lists")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not self._caches.synced and not stop.is_set():
                await asyncio.wait((synced, stopped), timeout=_LOG_INTERVAL, return_when=asyncio.FIRST_COMPLETED)
                if not self._caches.synced and not stop.is_set():
                    for trouble in self._health.troubles():
                        log.warning("waiting for %s", trouble)
        finally:
            synced.cancel()
            stopped.cancel()
        return not stop.is_set()

    async def _run_election(self, stop: asyncio.Event) -> None:
        """Stand for election, lead, and hand over: the lease is given back once nothing can be written any more."""
        elector = self._elector
        candidacy = asyncio.create_task(elector.run(), name="election")
        elected = asyncio.create_task(elector.wait_leading(), name="elected")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        clean = True
        try:
            await asyncio.wait((candidacy, elected, stopped), return_when=asyncio.FIRST_COMPLETED)
            if elector.leads and not stop.is_set():
                await self._catch_up(candidacy, stopped)
                if await self._read_keys(candidacy, stopped):
                    where = ", ".join(self._settings.namespaces)
                    log.info("working on %d sessions in %s", len(self._caches.sessions), where)
                    clean = await self._lead(self._wiring, stopped, candidacy)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._recorder.flush(), _FLUSH if elector.leads else 0)
        finally:
            for task in (candidacy, elected, stopped):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await candidacy
        if clean:
            await elector.release()

    async def _catch_up(self, *ends: "asyncio.Task[object]") -> None:
        """Wait until watches that reconnect have brought what the last leader did.

        A pod that we do not know has capacity that we would give away. When the API server comes back, our elector may
        get the Lease before our watches are complete.
        """
        until = self._clock.monotonic() + _CATCH_UP
        while (troubles := list(self._caches.troubles())) and not any(end.done() for end in ends):
            if self._clock.monotonic() >= until:
                log.warning("beginning to work without news of %s", "; ".join(troubles))
                return
            await asyncio.wait(ends, timeout=_CATCH_UP_INTERVAL)

    async def _read_keys(self, *ends: "asyncio.Task[object]") -> bool:
        """Wait for the keys of the release; False when it is over before. No session is worked on without them."""
        while not any(end.done() for end in ends):
            if all([await key.load() for key in self._keys]):
                return True
            await asyncio.wait(ends, timeout=_READ_KEY_INTERVAL)
        return False

    async def _lead(self, wiring: Wiring, stopped: "asyncio.Task[object]", lost: "asyncio.Task[object]") -> bool:
        """Run everything until stopped; then let the reconciles under way end. Gives whether they have."""
        working = asyncio.create_task(_run_all(wiring.workers), name="controllers")
        helpers = [asyncio.create_task(helper(), name=getattr(helper, "__qualname__", "")) for helper in wiring.helpers]
        try:
            await asyncio.wait((working, stopped, lost, *helpers), return_when=asyncio.FIRST_COMPLETED)
            for helper in helpers:
                if helper.done():
                    raise RuntimeError(f"{helper.get_name()} ended unexpectedly") from helper.exception()
            for worker in wiring.workers:
                worker.controller.stop()
            if not self._elector.leads:
                return False
            await asyncio.wait_for(working, DRAIN)
        except TimeoutError:
            log.warning("reconciles under way were cut off after %.0f s", DRAIN)
            return False
        finally:
            for task in (working, *helpers):
                task.cancel()
            await asyncio.gather(working, *helpers, return_exceptions=True)
        return True


async def _run_all(workers: Iterable[AnyWorker]) -> None:
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run(), name=worker.controller.name)


async def run_operator(
    config: ClusterConfig,
    settings: Settings,
    *,
    stop: asyncio.Event,
    clock: Clock = SYSTEM_CLOCK,
    on_ready: Callable[[int], None],
) -> None:
    """Run until `stop` is set, then finish what is under way.

    `on_ready` gets the health port whenever the caches are full: at the start, and again after a lost lease.

    Raises OSError when the health port is taken, KubeError when the configuration cannot be used at all. A cluster that
    is out of reach, lacks the CRDs or refuses permission is waited for, and said so; while another operator works for
    this namespace, this one stands by.
    """
    metrics = Metrics()
    health = Health(metrics, clock, MetricsToken(settings.metrics_token_file))
    async with health.serve(settings.metrics_host, settings.metrics_port) as port:
        log.info("serving /healthz, /readyz and /metrics on port %d", port)
        while not stop.is_set():
            await Runtime(config, settings, metrics, health, clock).run(stop, partial(on_ready, port))
    log.info("stopped")


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop` while the context lasts."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def settle_memory() -> None:
    """What was just listed lives on: keep the garbage collector from walking through it again and again."""
    gc.unfreeze()  # what a lost lease left behind
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def run_process(config: ClusterConfig, settings: Settings) -> None:
    """The whole life of an operator process, on uvloop."""
    import uvloop

    async def life() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await run_operator(config, settings, stop=stop, on_ready=lambda _: settle_memory())

    uvloop.run(life())
