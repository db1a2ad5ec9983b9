"""Controller of placeholder pods, which make a cluster autoscaler add nodes for waiting sessions.

One pass a second, which does nothing unless the queue, a template, a placeholder or an Event has
changed: so the queue itself does no more than without an autoscaler. Names follow from shape and
number, and nothing is remembered: an operator that is killed at any write leaves what the next pass
completes or deletes.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import suppress

from vdi.api.meta import ObjectMeta
from vdi.api.session import SessionSpec, VDISession
from vdi.cluster.capacity import Demand
from vdi.cluster.objects import Pod
from vdi.kube.apply import Applier
from vdi.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound
from vdi.kube.queue import Result
from vdi.kube.resource import PODS
from vdi.operator.caches import ClusterContext
from vdi.operator.queueing import QueueManager
from vdi.session import autoscaling
from vdi.session.effective import Desktop, resolve

log = logging.getLogger(__name__)


# The only key of the controller.
PLACEHOLDERS = "all"
# The longest time from a waiting session to its placeholder.
_INTERVAL_SECONDS = 1.0
# Until a refused placeholder is tried again: no event reports that a quota or a policy has changed.
_REFUSED_SECONDS = 30.0


class Placeholders:
    """Reconciles all placeholders at once, under the key `PLACEHOLDERS`."""

    def __init__(
        self,
        cluster: ClusterContext,
        settings: autoscaling.AutoscalingSettings,
        queue: QueueManager,
        requests: MutableMapping[Demand, autoscaling.NodeRequest],
    ) -> None:
        """`requests`: nodes requested by shape, kept up to date for the messages of waiting
        sessions.
        """
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
        try:
            refused = await self._update()
        except BaseException:
            self._changed = True
            raise
        self._changed |= refused
        return Result(requeue_after=_REFUSED_SECONDS if refused else _INTERVAL_SECONDS)

    async def _update(self) -> bool:
        """Create and delete pods as planned; whether one was refused. Raises KubeError for other
        failures.
        """
        waiting = self._queue.waiting_demands()
        demands = [demand for demand, _ in waiting]
        counts = autoscaling.count_placeholders(
            waiting, limit=self._settings.max_placeholders, headroom=self._headroom()
        )
        plan = autoscaling.plan_placeholders(counts, self._caches.placeholders.values())
        self._publish(demands)
        writes = [
            *map(self._pods.delete, plan.delete),
            *(self._create(name, demand) for name, demand in plan.create),
        ]
        results = await asyncio.gather(*writes, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        for failure in failures:
            # Without a quota or PriorityClass sessions still start: a refusal is logged, and the
            # operator goes on.
            if not isinstance(failure, ApiError) or not _is_refusal(failure):
                raise failure
            log.warning("a placeholder is refused: %s", failure.message)
        self._publish(demands)
        return bool(failures)

    async def _create(self, name: str, demand: Demand) -> None:
        settings = self._settings
        desired = autoscaling.build_placeholder(
            demand,
            name,
            settings.namespace,
            image=settings.image,
            priority_class=settings.priority_class,
        )
        with suppress(AlreadyExists):  # our own create whose answer was lost: the watch brings it
            await self._pods.create(desired)

    def _publish(self, demands: Iterable[Demand]) -> None:
        caches = self._caches
        requests = autoscaling.find_node_requests(
            demands, caches.placeholders.values(), caches.autoscaler_events.values()
        )
        if requests != self._requests:
            self._requests.clear()
            self._requests.update(requests)

    def _headroom(self) -> Iterator[tuple[Demand, int]]:
        """The shape of each template's default desktop, for the templates that exist and can be
        used.
        """
        for name, number in self._settings.headroom.items():
            if template := self._caches.templates.get("", name):
                plain = VDISession(
                    ObjectMeta(name), SessionSpec(user="headroom@vdi.localhost", template=name)
                )
                desktop = resolve(plain, template, self._cluster_settings)
                if isinstance(desktop, Desktop):
                    yield desktop.demand(), number

    def _note_change(self, _old: object, _new: object) -> None:
        self._changed = True


def _is_refusal(error: ApiError) -> bool:
    return isinstance(error, Forbidden | Invalid) or (
        isinstance(error, NotFound) and error.api_missing
    )
