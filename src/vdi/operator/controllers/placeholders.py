"""Controller of placeholder pods, which make a cluster autoscaler add nodes for waiting sessions.

One pass a second, which does nothing unless the queue, a template, a placeholder or an Event has changed: so the queue
itself does no more than without an autoscaler. Names follow from shape and number, and nothing is remembered: an
operator that is killed at any write leaves what the next pass completes or deletes.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Protocol

from vdi.api.meta import ObjectMeta
from vdi.api.session import SessionSpec, VDISession
from vdi.cluster.capacity import Demand
from vdi.cluster.objects import Pod
from vdi.kube.apply import Applier
from vdi.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound
from vdi.kube.queue import Result
from vdi.kube.resource import PODS
from vdi.operator.caches import ClusterContext
from vdi.session.autoscaling import (
    AutoscalingSettings,
    NodeRequest,
    build_placeholder,
    count_placeholders,
    find_node_requests,
    plan_placeholders,
)
from vdi.session.effective import Desktop, resolve

log = logging.getLogger(__name__)


async def write_all(*writes: Coroutine[Any, Any, object], kind: str) -> bool:
    """Whether the API server refused one: that is logged, and no reason to give up. Raises KubeError for the rest."""

    refused = False
    for result in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(result, ApiError) and _is_refusal(result):
            log.warning("a %s is refused: %s", kind, result.message)
            refused = True
        elif isinstance(result, BaseException):
            raise result
    return refused


async def create_unless_exists(applier: Applier[Any], desired: Mapping[str, Any]) -> None:
    """Create it; one of this name is our own create whose answer was lost, and the watch brings it."""
    try:
        await applier.create(desired)
    except AlreadyExists:
        return


def _is_refusal(error: ApiError) -> bool:
    return isinstance(error, Forbidden | Invalid) or (isinstance(error, NotFound) and error.api_missing)


# The only key of the controller.
PLACEHOLDERS = "all"
# The longest time from a session that waits to its placeholder.
_INTERVAL_SECONDS = 1.0
# Until a refused placeholder is tried again: nothing reports that a quota or a policy has changed.
_REFUSED_SECONDS = 30.0


class WaitingSessions(Protocol):
    """What is asked of the queue."""

    @property
    def changes(self) -> int:
        """Goes up with every change of what there is or who waits."""

    def waiting_demands(self) -> list[tuple[Demand, int]]:
        """How many sessions wait for each shape, the first in line first."""


class Placeholders:
    """Reconciles all placeholders at once."""

    def __init__(
        self,
        cluster: ClusterContext,
        settings: AutoscalingSettings,
        queue: WaitingSessions,
        requests: MutableMapping[Demand, NodeRequest],
    ) -> None:
        """`requests` is kept up to date for whoever explains to a session why it waits."""
        caches = cluster.caches
        self._caches = caches
        self._cluster_settings = cluster.settings
        self._settings = settings
        self._queue = queue
        self._requests = requests
        self._pods = Applier(cluster.client, PODS, Pod, caches.placeholders)
        self._seen = -1  # the queue's changes at the last pass
        self._changed = True
        caches.placeholders.listen(self._note_change)
        caches.autoscaler_events.listen(self._note_change)
        caches.templates.listen(self._note_change)

    async def reconcile(self, _key: str) -> Result:
        """One pass. Raises KubeError for what another try may fix."""
        if not self._changed and self._seen == self._queue.changes:
            return Result(requeue_after=_INTERVAL_SECONDS)
        self._changed, self._seen = False, self._queue.changes
        refused = False
        try:
            refused = await self._update()
        except BaseException:
            self._changed = True
            raise
        if refused:
            self._changed = True
        return Result(requeue_after=_REFUSED_SECONDS if refused else _INTERVAL_SECONDS)

    async def _update(self) -> bool:
        """Create and delete what the plan says; whether the API server refused one."""
        waiting = self._queue.waiting_demands()
        demands = [demand for demand, _ in waiting]
        counts = count_placeholders(waiting, limit=self._settings.max_placeholders, headroom=self._headroom())
        plan = plan_placeholders(counts, self._caches.placeholders.values())
        self._publish(demands)
        refused = await write_all(
            *(self._pods.delete(pod) for pod in plan.delete),
            *(self._create(name, demand) for name, demand in plan.create),
            kind="placeholder",
        )
        self._publish(demands)
        return refused

    async def _create(self, name: str, demand: Demand) -> None:
        settings = self._settings
        desired = build_placeholder(
            demand, name, settings.namespace, image=settings.image, priority_class=settings.priority_class
        )
        await create_unless_exists(self._pods, desired)

    def _publish(self, demands: Iterable[Demand]) -> None:
        caches = self._caches
        found = find_node_requests(demands, caches.placeholders.values(), caches.autoscaler_events.values())
        if found != self._requests:
            self._requests.clear()
            self._requests.update(found)

    def _headroom(self) -> Iterator[tuple[Demand, int]]:
        """The shape of each template's default desktop; nothing for a template that is not there or cannot be used."""
        for name, number in self._settings.headroom.items():
            if template := self._caches.templates.get("", name):
                plain = VDISession(ObjectMeta(name), SessionSpec(user="headroom@vdi.localhost", template=name))
                desktop = resolve(plain, template, self._cluster_settings)
                if isinstance(desktop, Desktop):
                    yield desktop.demand(), number

    def _note_change(self, _old: object, _new: object) -> None:
        self._changed = True
