"""Life cycle of the operator: caches fill, it stands by, is elected, leads, and starts over without
the Lease.

A `Runtime` passes nothing on to the next one: a process that has lost the Lease begins like one
that was just started, since another process has written meanwhile. Only the metrics and the health
port outlive it.
"""

import asyncio
import gc
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from uuid import uuid4

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.events import EventRecorder
from vdi.kube.lease import DEFAULT_LEASE_TIMING, Elector
from vdi.kube.transport import NO_RETRY, Client
from vdi.operator.caches import Caches, ClusterContext
from vdi.operator.health import Health
from vdi.operator.metrics import Metrics
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY, ReleaseKey
from vdi.operator.wiring import OperatorContext, Wiring, build_wiring
from vdi.process import MetricsToken, TroubleLog, stop_on_signals
from vdi.settings import Settings
from vdi.version import user_agent

log = logging.getLogger(__name__)

# Name of the Lease, in the first of the sessions' namespaces.
LEASE = "vdi-operator"
_FIELD_MANAGER = "vdi-operator"

# All in seconds. Time for the reconciles under way after SIGTERM; Kubernetes kills the process
# after 30.
DRAIN = 10.0
# Time for the Events after that; a successor waits for it.
_FLUSH = 1.0
# A new leader waits this long for watches that fail; then it works with what it knows.
_CATCH_UP = 10.0
_CATCH_UP_INTERVAL = 0.1
# Between two tries to read the release's keys.
_READ_KEY_INTERVAL = 2.0
# Between two log lines on why the operator cannot start working.
_LOG_INTERVAL = 30.0


class Runtime:
    """One life of the operator, from empty caches to a lost Lease or the end of the process. `run`
    it once.
    """

    def __init__(
        self,
        config: ClusterConfig,
        settings: Settings,
        metrics: Metrics,
        health: Health,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._health = health
        make_client = partial(
            Client,
            config,
            field_manager=_FIELD_MANAGER,
            user_agent=user_agent(_FIELD_MANAGER),
            on_request=metrics.count_request,
            clock=clock,
        )
        # Two renewals in a row may fail by this timeout before the Lease runs out.
        timeout = DEFAULT_LEASE_TIMING.deadline - DEFAULT_LEASE_TIMING.renew
        self._lease_client = make_client(retry=NO_RETRY, request_timeout=timeout)
        host = socket.gethostname()
        identity = f"{host}_{uuid4()}"
        self._elector = Elector(
            self._lease_client,
            namespace=settings.namespace,
            name=LEASE,
            identity=identity,
            clock=clock,
        )
        self._client = make_client(lease_guard=self._elector.allowance)
        self._caches = Caches(
            self._client,
            settings.namespaces,
            clock,
            count_others=settings.count_other_workloads,
            placeholders_namespace=(
                settings.autoscaling.namespace if settings.autoscaling.enabled else ""
            ),
        )
        self._recorder = EventRecorder(
            self._client, controller="kasm.io/vdi-operator", instance=host, clock=clock
        )
        self._keys = tuple(
            ReleaseKey(self._client, settings.operator_namespace, name)
            for name in (HOST_KEY, DESKTOP_KEY)
        )
        cluster = ClusterContext(
            self._client, self._caches, settings.cluster, clock, settings.namespaces
        )
        self._wiring = build_wiring(
            OperatorContext(cluster, self._recorder, metrics, settings, self._elector, *self._keys)
        )
        health.watch(self._caches, self._elector, self._keys)
        metrics.watch_lease(self._elector)
        metrics.watch_sessions(self._caches.sessions.values)
        metrics.watch_caches(self._caches.reflectors)
        metrics.watch_queues([controller for controller, _ in self._wiring.controllers])

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Run until `stop` is set or the Lease is lost; `on_ready` is called when the caches are
        full.

        Raises the error of a helper that has failed, RuntimeError for one that has ended by itself.
        """
        async with self._lease_client, self._client, asyncio.TaskGroup() as group:
            work = [
                *(reflector.run() for reflector in self._caches.reflectors),
                self._recorder.run(),
            ]
            work.append(self._log_troubles())
            tasks = [group.create_task(one) for one in work]
            if await self._wait_until_synced(stop):
                on_ready()
                await self._run_election(stop)
            for task in tasks:
                task.cancel()

    async def _log_troubles(self) -> None:
        lasting = TroubleLog(log)
        while True:
            lasting.note(self._health.troubles())
            await asyncio.sleep(TroubleLog.LOOK_SECONDS)

    async def _wait_until_synced(self, stop: asyncio.Event) -> bool:
        """Wait for the first list of every kind, and log which are missing; False when stopped
        before.
        """
        synced = asyncio.create_task(self._caches.wait_synced(), name="first lists")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not self._caches.synced and not stop.is_set():
                await asyncio.wait(
                    (synced, stopped), timeout=_LOG_INTERVAL, return_when=asyncio.FIRST_COMPLETED
                )
                if not self._caches.synced and not stop.is_set():
                    for trouble in self._health.troubles():
                        log.warning("waiting for %s", trouble)
        finally:
            synced.cancel()
            stopped.cancel()
        return not stop.is_set()

    async def _run_election(self, stop: asyncio.Event) -> None:
        """Stand by, lead, and hand over."""
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
                        await asyncio.wait_for(
                            self._recorder.flush(), _FLUSH if elector.leads else 0
                        )
        finally:
            for task in (candidacy, elected, stopped):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await candidacy
        # A reconcile that was cut off may have a write on its way: then the Lease is not given back
        # but runs out.
        if clean:
            await elector.release()

    async def _catch_up(self, *ends: "asyncio.Task[object]") -> None:
        """Wait until all watches work, but not for ever."""
        # When the API server comes back, the elector may get the Lease before the watches are
        # complete. They may not show a pod yet that the last leader created, and its capacity would
        # be given to another session.
        until = self._clock.monotonic() + _CATCH_UP
        while (troubles := list(self._caches.troubles())) and not any(end.done() for end in ends):
            if self._clock.monotonic() >= until:
                log.warning("beginning to work without news of %s", "; ".join(troubles))
                return
            await asyncio.wait(ends, timeout=_CATCH_UP_INTERVAL)

    async def _read_keys(self, *ends: "asyncio.Task[object]") -> bool:
        """Wait for the keys, without which no session is reconciled; False where one of `ends`
        comes first.
        """
        while not any(end.done() for end in ends):
            if all([await key.load() for key in self._keys]):
                return True
            await asyncio.wait(ends, timeout=_READ_KEY_INTERVAL)
        return False

    async def _lead(
        self, wiring: Wiring, stopped: "asyncio.Task[object]", lost: "asyncio.Task[object]"
    ) -> bool:
        """Run controllers and helpers until stopped; then whether the reconciles under way have
        ended in time.
        """
        working = asyncio.create_task(_run_all(wiring), name="controllers")
        helpers = [
            asyncio.create_task(helper(), name=getattr(helper, "__qualname__", ""))
            for helper in wiring.helpers
        ]
        try:
            await asyncio.wait(
                (working, stopped, lost, *helpers), return_when=asyncio.FIRST_COMPLETED
            )
            for helper in helpers:
                if helper.done():
                    raise RuntimeError(
                        f"{helper.get_name()} ended unexpectedly"
                    ) from helper.exception()
            for controller, _ in wiring.controllers:
                controller.stop()
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


async def _run_all(wiring: Wiring) -> None:
    async with asyncio.TaskGroup() as group:
        for controller, reconcile in wiring.controllers:
            group.create_task(controller.run(reconcile), name=controller.name)


async def run_operator(
    config: ClusterConfig,
    settings: Settings,
    *,
    stop: asyncio.Event,
    clock: Clock = SYSTEM_CLOCK,
    on_ready: Callable[[int], None],
) -> None:
    """Run one `Runtime` after the other until `stop` is set, then finish the reconciles under way.

    `on_ready` gets the health port whenever the caches are full: at the start, and again after a
    lost Lease.

    Raises OSError when the health port is taken, KubeError when the configuration cannot be used at
    all. The operator waits for a cluster that is out of reach, lacks the CRDs or refuses
    permission, and logs why.
    """
    metrics = Metrics()
    health = Health(metrics, clock, MetricsToken(settings.metrics_token_file))
    async with health.serve(settings.metrics_host, settings.metrics_port) as port:
        log.info("serving /healthz, /readyz and /metrics on port %d", port)
        while not stop.is_set():
            await Runtime(config, settings, metrics, health, clock).run(
                stop, partial(on_ready, port)
            )
    log.info("stopped")


def settle_memory() -> None:
    """Keep the garbage collector from walking through the listed objects, which stay, again and
    again.
    """
    gc.unfreeze()  # objects of a runtime that has lost its Lease
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def run_process(config: ClusterConfig, settings: Settings) -> None:
    """Run the operator as this process, on uvloop, until SIGTERM or SIGINT."""
    import uvloop

    async def life() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await run_operator(config, settings, stop=stop, on_ready=lambda _: settle_memory())

    uvloop.run(life())
