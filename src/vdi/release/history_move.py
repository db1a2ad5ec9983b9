"""`vdi upgrade --move-history`: an upgrade whose gateway has the sidecar `vdi.gateway.store.move`,
and its progress.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

from vdi.helm.arguments import Change
from vdi.helm.releases import Revision
from vdi.helm.run import WATCH_SECONDS, View, stop_telling
from vdi.kube.errors import KubeError
from vdi.kube.resource import PODS
from vdi.kube.transport import Client
from vdi.release.apply import HelmRun, install_or_upgrade
from vdi.release.facts import Facts, pods_of, variables_of
from vdi.snapshot.objects.meta import Named

_CONTAINER = "move-history"
_PODS = "app.kubernetes.io/name=vdi,app.kubernetes.io/component=gateway"
_COUNT = re.compile(r"(\w{1,63}): (\d{1,18}) rows")
_MAX_BYTES = 65536


class Steps(NamedTuple):
    """Upgrades of one command."""

    change: Change
    # Without the sidecar and SQLite's volume, when the history was moved.
    after_move: Change | None = None


def choose_steps(change: Change, before: Revision | None, choice: str) -> Steps:
    """`choice`: `move`, `leave` or nothing. It counts only where the gateway uses SQLite until
    now.
    """
    if not choice or before is None or not _uses_sqlite(before):
        return Steps(change)
    typed = {**change.values.typed, "gateway.database.sqlite": choice}
    chosen = replace(change, values=replace(change.values, typed=typed))
    return Steps(chosen, change if choice == "move" else None)


def _uses_sqlite(revision: Revision) -> bool:
    variables = variables_of(pods_of(revision.objects()), "gateway")
    return variables is not None and "VDI_DATABASE_URL" not in variables


def without_choice(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a revision for the next one: a choice is for one upgrade."""
    kept = deepcopy(dict(values))
    database = (kept.get("gateway") or {}).get("database") or {}
    database.pop("sqlite", None)
    return kept


async def move_history(run: HelmRun, facts: Facts, change: Change) -> dict[str, int]:
    """Upgrade to PostgreSQL; returns the rows that were moved, by table. Raises as
    `install_or_upgrade` does.
    """
    log = _MoveLog(run.client, change.place.namespace, run.view)
    following = asyncio.create_task(log.follow())
    try:
        await install_or_upgrade(run, facts, change)
    finally:
        await stop_telling(following, run.view)
    await log.look()
    return log.counts


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
        # The container may not have started, and the account may not read logs: the move needs no
        # reader.
        with suppress(KubeError):
            for pod in await self._client.list(
                PODS, namespace=self._namespace, label_selector=_PODS, into=Named
            ):
                await self._read(pod.metadata.name)

    async def _read(self, pod: str) -> None:
        with suppress(KubeError):
            lines = self._client.log_lines(
                self._namespace, pod, container=_CONTAINER, max_bytes=_MAX_BYTES
            )
            async for line in lines:
                if (pod, line) in self._shown:
                    continue
                self._shown.add((pod, line))
                self._view.say(f"  {line}")
                if match := _COUNT.fullmatch(line):
                    self.counts[match[1]] = int(match[2])
