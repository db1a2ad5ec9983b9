"""`vdi upgrade --move-history`: an upgrade whose gateway has the sidecar `vdi.gateway.store.move`, with its progress."""

import asyncio
import re
from contextlib import suppress
from copy import deepcopy
from typing import Any

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.helm.arguments import Change
from vdi.helm.run import WATCH_SECONDS, View, stop_telling
from vdi.kube.errors import KubeError
from vdi.kube.resource import PODS
from vdi.kube.transport import Client
from vdi.release.apply import HelmRun, install_or_upgrade
from vdi.release.diff import Object
from vdi.release.facts import Facts, variables_of

# Value of the chart: what becomes of SQLite where the database is PostgreSQL from now on.
CHOICE = "gateway.database.sqlite"
_CONTAINER = "move-history"
_PODS = "app.kubernetes.io/name=vdi,app.kubernetes.io/component=gateway"
_COUNT = re.compile(r"(\w{1,63}): (\d{1,18}) rows")
_MAX_BYTES = 65536


def uses_sqlite(objects: list[Object]) -> bool:
    """Whether the gateway among a release's objects has its database in SQLite."""
    for obj in objects:
        if obj["kind"] == "Deployment":
            for container in obj["spec"]["template"]["spec"]["containers"]:
                if container["name"] == "gateway":
                    return "VDI_DATABASE_URL" not in variables_of(container)
    return False


def without_choice(values: dict[str, Any]) -> dict[str, Any]:
    """Values of a revision for the next one: the choice is for one upgrade."""
    kept = deepcopy(values)
    database = (kept.get("gateway") or {}).get("database") or {}
    database.pop("sqlite", None)
    return kept


async def move_history(run: HelmRun, facts: Facts, change: Change) -> dict[str, int]:
    """Upgrade to PostgreSQL; returns the rows that were moved, by table. Raises as `install_or_upgrade` does."""
    log = _MoveLog(run.client, change.place.namespace, run.view)
    following = asyncio.create_task(log.follow())
    try:
        await install_or_upgrade(run, facts, change)
    finally:
        await stop_telling(following, run.view)
    await log.look()
    return log.counts


class _Pod(msgspec.Struct):
    metadata: ObjectMeta


class _MoveLog:
    """Lines that the sidecar prints, shown once each."""

    def __init__(self, client: Client, namespace: str, view: View) -> None:
        self._client = client
        self._namespace = namespace
        self._view = view
        self._shown: set[tuple[str, str]] = set()
        self.counts: dict[str, int] = {}

    async def follow(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(WATCH_SECONDS)

    async def look(self) -> None:
        # The container may not have started, and the account may not read logs: the move needs no reader.
        with suppress(KubeError):
            for pod in await self._client.list(PODS, namespace=self._namespace, label_selector=_PODS, into=_Pod):
                await self._read(pod.metadata.name)

    async def _read(self, pod: str) -> None:
        with suppress(KubeError):
            lines = self._client.log_lines(self._namespace, pod, container=_CONTAINER, max_bytes=_MAX_BYTES)
            async for line in lines:
                if (pod, line) in self._shown:
                    continue
                self._shown.add((pod, line))
                self._view.say(f"  {line}")
                if match := _COUNT.fullmatch(line):
                    self.counts[match[1]] = int(match[2])
