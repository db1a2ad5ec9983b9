"""Controllers wait for the Lease, are counted, and log the object that they work on."""

import asyncio
from collections.abc import Hashable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import generate_latest

from support.clock import FakeClock
from support.waiting import eventually
from vdi.kube.lease import Elector
from vdi.kube.queue import Result
from vdi.operator.caches import ClusterContext
from vdi.operator.metrics import Metrics
from vdi.operator.wiring import OperatorContext
from vdi.process import KeyValueFormatter
from vdi.session.cluster_settings import ClusterSettings
from vdi.settings import Settings


class FailingWork:
    """A context without a cluster; leads when `leading` is set."""

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


async def test_reconciles_wait_until_this_process_leads() -> None:
    failing = FailingWork()
    controller = failing.context.controller("pool", 1)
    running = asyncio.create_task(
        controller.run(failing.context.while_leading("pool", failing.fail))
    )
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
async def test_log_line_of_a_failed_reconcile_names_its_object(
    name: str,
    key: Hashable,
    subject: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All tests of a process share the handler.
    monkeypatch.setattr(caplog.handler, "formatter", KeyValueFormatter())
    failing = FailingWork()
    failing.leading.set()
    controller = failing.context.controller(name, 1)
    running = asyncio.create_task(controller.run(failing.context.while_leading(name, failing.fail)))
    controller.enqueue(key)
    await eventually(lambda: "no luck" in caplog.text, "it has failed, and said so")
    controller.stop()
    await running
    assert subject in caplog.text
