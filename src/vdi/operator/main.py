"""Puts the operator together and runs it until it is told to stop. Called by `vdi operator run` and by the tests."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.events import EventRecorder
from vdi.kube.queue import Controller
from vdi.kube.transport import Client
from vdi.operator.assembly import Assembly, Parts, assemble
from vdi.operator.caches import Caches
from vdi.operator.health import Health
from vdi.operator.kinds import FIELD_MANAGER
from vdi.operator.metrics import Metrics
from vdi.operator.settings import Settings

log = logging.getLogger(__name__)

DRAIN = 10.0
"""Seconds that reconciles under way may take after SIGTERM; Kubernetes kills after 30."""
_SAY_AGAIN = 30.0
"""Seconds between two log lines on why the operator cannot start working."""


async def run_operator(
    config: ClusterConfig,
    settings: Settings,
    *,
    stop: asyncio.Event,
    clock: Clock = SYSTEM_CLOCK,
    on_ready: Callable[[int], None] | None = None,
) -> None:
    """Run until `stop` is set, then finish what is under way. `on_ready` gets the health port once the caches are full.

    Raises OSError when the health port is taken, KubeError when the configuration cannot be used at all. A cluster that
    is out of reach, lacks the CRDs or refuses permission is waited for, and said so.
    """
    metrics = Metrics()
    client = Client(config, field_manager=FIELD_MANAGER, on_request=metrics.count_request, clock=clock)
    async with client:
        caches = Caches(client, settings.namespace, clock)
        recorder = EventRecorder(client, controller="kasm.io/vdi-operator", instance=socket.gethostname(), clock=clock)
        assembly = assemble(Parts(client, caches, recorder, metrics, settings, clock))
        metrics.watch_sessions(caches.sessions.values)
        metrics.watch_caches(caches.reflectors)
        metrics.watch_queues(assembly.controllers)
        health = Health(caches, metrics, clock)
        async with health.serve(settings.metrics_host, settings.metrics_port) as port:
            log.info("serving /healthz, /readyz and /metrics on port %d", port)
            lookouts: list[Coroutine[Any, Any, None]] = [reflector.run() for reflector in caches.reflectors]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in [*lookouts, recorder.run()]]
                if await _wait_until_synced(caches, health, stop):
                    if on_ready:
                        on_ready(port)
                    log.info("working on %d sessions in namespace %s", len(caches.sessions), settings.namespace)
                    await _work(assembly, stop)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(recorder.flush(), 2.0)
                for task in tasks:
                    task.cancel()
    log.info("stopped")


async def _wait_until_synced(caches: Caches, health: Health, stop: asyncio.Event) -> bool:
    """Wait for the first list of every kind; False when told to stop before. Says in the log what is waited for."""
    synced = asyncio.create_task(caches.wait_synced(), name="first lists")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        while not caches.synced and not stop.is_set():
            await asyncio.wait((synced, stopped), timeout=_SAY_AGAIN, return_when=asyncio.FIRST_COMPLETED)
            if not caches.synced and not stop.is_set():
                for trouble in health.troubles():
                    log.warning("waiting for %s", trouble)
    finally:
        synced.cancel()
        stopped.cancel()
    if not stop.is_set():
        # What was just listed lives on: keep the collector from walking through it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
    return not stop.is_set()


async def _work(assembly: Assembly, stop: asyncio.Event) -> None:
    """Run controllers and helpers until told to stop; then the reconciles under way may end, for `DRAIN` seconds.

    Raises what a helper has failed with, and RuntimeError when one has ended: without it the operator is not whole.
    """
    working = asyncio.create_task(_run_all(assembly.controllers), name="controllers")
    helpers = [asyncio.create_task(helper(), name=getattr(helper, "__qualname__", "")) for helper in assembly.helpers]
    stopped = asyncio.create_task(stop.wait(), name="stop")
    tasks: list[asyncio.Task[Any]] = [working, stopped, *helpers]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for helper in helpers:
            if helper.done():
                raise RuntimeError(f"{helper.get_name()} has ended by itself") from helper.exception()
        for controller in assembly.controllers:
            controller.stop()
        await asyncio.wait_for(working, DRAIN)
    except TimeoutError:
        log.warning("reconciles under way were cut off after %.0f s", DRAIN)
    finally:
        for task in tasks:
            task.cancel()


async def _run_all(controllers: Iterable[Controller[Any]]) -> None:
    async with asyncio.TaskGroup() as group:
        for controller in controllers:
            group.create_task(controller.run(), name=controller.name)


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


def run_process(config: ClusterConfig, settings: Settings) -> None:
    """The whole life of an operator process, on uvloop."""
    import uvloop

    async def life() -> None:
        stop = asyncio.Event()
        with stop_on_signals(stop):
            await run_operator(config, settings, stop=stop)

    uvloop.run(life())
