"""`autoscaling.mode: Auto` while the API server cannot be asked; what it decides is in tests/cluster."""

import asyncio

import pytest

from support.waiting import eventually
from vdi.kube.clock import SystemClock
from vdi.kube.config import ClusterConfig
from vdi.operator.autoscaling_mode import resolve_autoscaling
from vdi.operator.settings import Settings
from vdi.session.autoscaling import AutoscalingMode, AutoscalingSettings

NOWHERE = ClusterConfig(server="http://127.0.0.1:9")


def settings_with(mode: AutoscalingMode) -> Settings:
    return Settings(autoscaling=AutoscalingSettings(mode, namespace="places", image="i", priority_class="low"))


async def test_an_api_server_that_is_out_of_reach_is_waited_for_until_the_operator_is_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, stop = settings_with(AutoscalingMode.AUTO), asyncio.Event()
    resolving = asyncio.create_task(resolve_autoscaling(NOWHERE, settings, SystemClock(), stop))

    async def said() -> bool:
        return "waiting to learn whether the cluster serves ProvisioningRequest: no response" in caplog.text

    await eventually(said, "the operator says what it waits for")
    assert not resolving.done()
    stop.set()
    assert await resolving is settings


@pytest.mark.parametrize("mode", [mode for mode in AutoscalingMode if mode != AutoscalingMode.AUTO])
async def test_a_mode_that_is_chosen_asks_no_one(mode: AutoscalingMode) -> None:
    settings = settings_with(mode)
    assert await resolve_autoscaling(NOWHERE, settings, SystemClock(), asyncio.Event()) is settings
