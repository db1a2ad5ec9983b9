"""A whole operator against an API server that knows little: how it begins, leads, and ends."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import generate_latest

from support.waiting import PATIENCE, eventually
from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.operator.health import Health
from vdi.operator.metrics import Metrics
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY
from vdi.operator.runtime import LEASE, Runtime
from vdi.operator.wiring import Wiring
from vdi.process import MetricsToken
from vdi.settings import METRICS_TOKEN_FILE, Settings

NAMESPACE, OPERATOR_NAMESPACE = "ns", "ours"


class Operator:
    """One life under way."""

    def __init__(self, api: FakeApi) -> None:
        self.api = api
        for secret in (HOST_KEY, DESKTOP_KEY):
            if ("secrets", OPERATOR_NAMESPACE, secret) not in api.objects:  # the chart's, empty
                api.put("secrets", secret, namespace=OPERATOR_NAMESPACE)
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self.metrics = Metrics()
        self.health = Health(self.metrics, SYSTEM_CLOCK, MetricsToken(METRICS_TOKEN_FILE))
        settings = Settings(namespaces=(NAMESPACE,), operator_namespace=OPERATOR_NAMESPACE)
        self.life = Runtime(api.config(), settings, self.metrics, self.health, SYSTEM_CLOCK)

    @property
    def holder(self) -> str:
        lease = self.api.objects.get(("leases", NAMESPACE, LEASE))
        return lease["spec"]["holderIdentity"] if lease else ""

    def leads(self) -> bool:
        return b"\nvdi_leader 1.0\n" in generate_latest(self.metrics.registry)


@asynccontextmanager
async def living(api: FakeApi) -> AsyncIterator[Operator]:
    operator = Operator(api)
    task = asyncio.create_task(operator.life.run(operator.stop, operator.ready.set))
    try:
        yield operator
    finally:
        operator.stop.set()
        await asyncio.wait_for(task, PATIENCE)


async def test_operator_is_ready_then_leads_and_releases_its_lease() -> None:
    async with fake_api() as api:
        async with living(api) as operator:
            await eventually(operator.ready.is_set, "it is ready")
            await eventually(operator.leads, "it leads")
            assert list(operator.health.troubles()) == []
            assert operator.holder
        assert operator.holder == ""
        assert not operator.leads()


async def test_standby_is_ready_and_writes_nothing() -> None:
    async with fake_api() as api, living(api) as leader:
        await eventually(leader.leads, "the first leads")
        held = leader.holder
        async with living(api) as standby:
            await eventually(standby.ready.is_set, "the second is ready")
            await eventually(
                lambda: b"vdi_leader 0.0" in generate_latest(standby.metrics.registry),
                "it stands by",
            )
            assert list(standby.health.troubles()) == []
        assert leader.holder == held, "who only stood by has nothing to give back"


@pytest.mark.parametrize("fixed", [True, False])
async def test_new_leader_waits_for_its_watches_for_some_time(
    fixed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vdi.operator.runtime")
    monkeypatch.setattr("vdi.operator.runtime._CATCH_UP", 8.0 if fixed else 0.3)
    async with fake_api() as api:

        async def deny(request: Any) -> Any:
            if refused.is_set():
                api.faults.append(("WATCH", deny))
                return (
                    await refusal(500, "InternalError")(request)
                    if "/pods" in request.path
                    else None
                )
            return None

        refused = asyncio.Event()
        refused.set()
        api.faults.append(("WATCH", deny))
        async with living(api) as operator:
            await eventually(operator.leads, "it leads")
            assert [trouble for trouble in operator.health.troubles() if "pods: " in trouble]
            assert "working on" not in caplog.text
            if fixed:
                refused.clear()
            await eventually(lambda: "working on" in caplog.text, "it works")
            assert ("without news of pods: " in caplog.text) is not fixed


async def test_unreadable_lease_is_named_by_the_probe() -> None:
    async with fake_api() as api:

        async def deny(request: Any) -> Any:
            api.faults.append(("GET", deny))
            return await refusal(403, "Forbidden")(request) if "/leases/" in request.path else None

        api.faults.append(("GET", deny))
        async with living(api) as operator:
            await eventually(operator.ready.is_set, "it is ready")
            await eventually(
                lambda: [
                    trouble for trouble in operator.health.troubles() if "leases: " in trouble
                ],
                "it says so",
            )
            assert not operator.leads()


async def test_helper_that_ends_stops_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    async def short() -> None:
        return

    monkeypatch.setattr(
        "vdi.operator.runtime.build_wiring", lambda _parts: Wiring(controllers=(), helpers=(short,))
    )
    async with fake_api() as api:
        operator = Operator(api)
        with pytest.raises(ExceptionGroup) as failed:
            await asyncio.wait_for(operator.life.run(operator.stop, operator.ready.set), PATIENCE)
    assert failed.group_contains(RuntimeError, match="short ended unexpectedly")
    assert operator.holder, "writes of others may be under way: the lease has to run out"
