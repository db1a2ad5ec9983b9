"""Runs the operator until it is stopped, one `Runtime` after the other. Called by `vdi operator run` and the tests."""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.config import ClusterConfig
from vdi.operator.health import Health
from vdi.operator.metrics import Metrics
from vdi.operator.metrics_token import MetricsToken
from vdi.operator.runtime import Runtime
from vdi.operator.settings import Settings

log = logging.getLogger(__name__)


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
