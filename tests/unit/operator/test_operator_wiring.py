"""What every controller has from the assembly: it waits for the lease, is counted, and its log lines say of whom."""

import asyncio
import logging
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from support.clock import FakeClock
from support.waiting import eventually
from vdi.kube.lease import Elector
from vdi.kube.queue import Controller, Result
from vdi.operator.caches import ClusterContext
from vdi.operator.metrics import Metrics
from vdi.operator.wiring import OperatorContext
from vdi.process import KeyValueFormatter
from vdi.session.cluster_settings import ClusterSettings
from vdi.settings import Settings


class FailingWork:
    """Parts without a cluster; leads when `leading` is set."""

    def __init__(self) -> None:
        self.leading = asyncio.Event()
        self.metrics = Metrics()
        elector = SimpleNamespace(wait_leading=self.leading.wait)
        nothing: Any = None
        cluster = ClusterContext(nothing, nothing, ClusterSettings(), FakeClock(), ("desks",))
        self.context = OperatorContext(
            cluster, nothing, self.metrics, Settings(), cast(Elector, elector), nothing, nothing
        )
        self.worked: list[Hashable] = []

    async def fail(self, key: Hashable) -> Result:
        self.worked.append(key)
        raise OSError("no luck")


async def test_nothing_is_worked_on_until_this_process_leads() -> None:
    failing = FailingWork()
    controller: Controller[str] = failing.context.controller("pool", workers=1)
    running = asyncio.create_task(failing.context.worker(controller, failing.fail).run())
    controller.enqueue("gpu")
    await eventually(lambda: not len(controller.queue), "a worker has it")
    assert failing.worked == []
    failing.leading.set()
    await eventually(lambda: failing.worked == ["gpu"], "it is worked on")
    failing.metrics.count_request("POST", "pods", 201, 0.01)
    page = generate_latest(failing.metrics.registry).decode()
    assert 'vdi_reconciles_total{controller="pool",outcome="retry"} 1.0' in page
    assert 'vdi_api_requests_total{method="POST",resource="pods",status="201"} 1.0' in page
    controller.stop()
    await running


@pytest.mark.parametrize(
    ("name", "key", "subject"),
    [
        ("session", ("desks", "alice"), " session=desks/alice "),
        ("notice", ("desks", "alice", "idle"), " session=desks/alice "),
        ("pool", "gpu", " pool=gpu "),
    ],
)
async def test_the_line_on_a_failed_reconcile_names_what_it_is_about(name: str, key: Hashable, subject: str) -> None:
    lines = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(KeyValueFormatter().format(record))

    failing, ear = FailingWork(), Ear()
    failing.leading.set()
    logging.getLogger("vdi.kube.queue").addHandler(ear)
    try:
        controller: Controller[Hashable] = failing.context.controller(name, workers=1)
        running = asyncio.create_task(failing.context.worker(controller, failing.fail).run())
        controller.enqueue(key)
        await eventually(lambda: lines, "it has failed, and said so")
        controller.stop()
        await running
    finally:
        logging.getLogger("vdi.kube.queue").removeHandler(ear)
    assert subject in lines[0]
    assert "no luck" in lines[0]
