"""How nodes are requested with `autoscaling.mode: Auto`: decided once, when the operator starts."""

import asyncio
import logging
from dataclasses import replace

from vdi.kube.clock import Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.errors import KubeError, NotFound
from vdi.kube.retry import NO_RETRY
from vdi.kube.transport import Client
from vdi.operator.kinds import FIELD_MANAGER, PROVISIONING_REQUESTS
from vdi.operator.settings import Settings
from vdi.session.autoscaling import AutoscalingMode
from vdi.session.provisioning import SHAPE
from vdi.version import user_agent

log = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 2.0


async def resolve_autoscaling(config: ClusterConfig, settings: Settings, clock: Clock, stop: asyncio.Event) -> Settings:
    """The settings with ProvisioningRequest or Placeholders in place of Auto; as they are when `stop` is set before.

    An API server that is out of reach is waited for.
    """
    if settings.autoscaling.mode != AutoscalingMode.AUTO:
        return settings
    agent = user_agent(FIELD_MANAGER)
    async with Client(config, field_manager=FIELD_MANAGER, user_agent=agent, retry=NO_RETRY, clock=clock) as client:
        said = ""
        while not stop.is_set():
            try:
                mode = await _find_mode(client, settings.autoscaling.namespace)
                log.info("autoscaling.mode is Auto: nodes are requested with %s", mode)
                return replace(settings, autoscaling=replace(settings.autoscaling, mode=mode))
            except KubeError as error:
                if str(error) != said:
                    log.warning("waiting to learn whether the cluster serves ProvisioningRequest: %s", error)
                    said = str(error)
            stopped = asyncio.create_task(stop.wait())
            await asyncio.wait((stopped,), timeout=_TRY_AGAIN_SECONDS)
            stopped.cancel()
    return settings


async def _find_mode(client: Client, namespace: str) -> AutoscalingMode:
    try:
        await client.list(PROVISIONING_REQUESTS, namespace=namespace, label_selector=SHAPE, into=dict)
    except NotFound as error:
        if error.api_missing:
            return AutoscalingMode.PLACEHOLDERS
        raise
    return AutoscalingMode.PROVISIONING_REQUEST
