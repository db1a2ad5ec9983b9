"""Assembly of the operator: `build_wiring` creates every controller, poll and timer, and nothing
else does.

Called for each `Runtime` before the first lists, so that every listener gets every object from its
first state on. Until this process leads, keys gather in the queues and nothing runs.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from vdi.cluster.capacity import Demand
from vdi.kube.events import EventRecorder
from vdi.kube.lease import Elector
from vdi.kube.queue import Controller, Key, Reconcile, Result
from vdi.operator.agents import CONCURRENT_NOTICES, CONCURRENT_POLLS, Agents, NoticeKey
from vdi.operator.caches import ClusterContext, SessionKey
from vdi.operator.controllers.homes_ahead import HomesAhead
from vdi.operator.controllers.placeholders import PLACEHOLDERS, Placeholders
from vdi.operator.controllers.pool import PoolController, PoolDesktops
from vdi.operator.controllers.session import SessionController
from vdi.operator.controllers.template import TemplateController
from vdi.operator.end_reports import CONCURRENT_REPORTS, EndReports
from vdi.operator.metrics import Metrics
from vdi.operator.owned_resources import OwnedResources, UncertainCreates
from vdi.operator.pool_claims import PoolClaims
from vdi.operator.queueing import QueueManager
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.status import SessionEvents
from vdi.operator.watch_handlers import WatchHandlers
from vdi.process import set_log_subject
from vdi.session.autoscaling import NodeRequest
from vdi.session.naming import assigned_namespace
from vdi.settings import Settings


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """Everything that the components are created from."""

    cluster: ClusterContext
    recorder: EventRecorder
    metrics: Metrics
    settings: Settings
    elector: Elector
    host_key: ReleaseKey
    desktop_key: ReleaseKey

    def controller(self, name: str, workers: int) -> Controller[Any]:
        """A queue with its workers, counted in the metrics under this name."""
        return Controller(
            name,
            workers=workers,
            clock=self.cluster.clock,
            on_outcome=partial(self.metrics.count_reconcile, name),
        )

    def while_leading(self, name: str, reconcile: Reconcile[Key]) -> Reconcile[Key]:
        """The same reconcile, held back while the Lease may be lost; its log lines name the object.

        The object is a session where the key begins with (namespace, name), else one of the
        controller's `name`.
        """

        async def reconcile_leading(key: Key) -> Result:
            set_log_subject(
                *("session", "/".join(key[:2])) if isinstance(key, tuple) else (name, str(key))
            )
            # Better to wait than to fail at each write and to come back later and later.
            await self.elector.wait_leading()
            return await reconcile(key)

        return reconcile_leading


@dataclass(frozen=True, slots=True)
class Wiring:
    """The parts that work while this process leads."""

    # They finish the reconciles under way when they are stopped.
    controllers: tuple[tuple[Controller[Any], Reconcile[Any]], ...]
    # Polls and timers, which run beside the controllers until cancelled. One that returns or fails
    # ends the operator.
    helpers: tuple[Callable[[], Coroutine[object, None, None]], ...] = ()


def build_wiring(context: OperatorContext) -> Wiring:
    """Create all controllers and helpers; they listen to the caches from now on."""
    cluster = context.cluster
    settings = context.settings
    metrics = context.metrics
    recorder = context.recorder
    caches, clock = cluster.caches, cluster.clock

    # The queues exist before the components that fill them and work on them.
    sessions: Controller[SessionKey] = context.controller("session", settings.workers)
    pools: Controller[str] = context.controller("pool", 2)
    templates: Controller[str] = context.controller("template", 2)
    polls: Controller[SessionKey] = context.controller("activity", CONCURRENT_POLLS)
    notices: Controller[NoticeKey] = context.controller("notice", CONCURRENT_NOTICES)
    ends: Controller[SessionKey] = context.controller("history", CONCURRENT_REPORTS)
    homes_ahead: Controller[SessionKey] = context.controller("home-ahead", 1)

    owned = OwnedResources(cluster.client, caches)
    uncertain_creates = UncertainCreates(owned.pods)
    agents = Agents(
        cluster,
        recorder,
        polls=polls,
        enqueue_notice=notices.enqueue,
        enqueue_session=sessions.enqueue,
    )
    claims = PoolClaims(cluster, owned.pods, recorder, context.desktop_key, pools.enqueue_after)
    node_requests: dict[Demand, NodeRequest] = {}
    queue = QueueManager(
        cluster,
        weights=settings.queue_weights,
        node_requests=node_requests if settings.autoscaling.enabled else None,
        on_admitted=metrics.queue_wait.observe,
        enqueue=sessions.enqueue,
        yield_capacity=claims.yield_capacity,
    )
    reports = None
    if settings.gateway_url:
        reports = EndReports(
            settings.gateway_url,
            settings.gateway_token_file,
            caches.sessions,
            recorder,
            clock,
            enqueue_report=ends.enqueue,
            enqueue_session=sessions.enqueue,
        )
    session_controller = SessionController(
        cluster,
        owned,
        uncertain_creates,
        context.host_key,
        context.desktop_key,
        queue=queue,
        pools=claims,
        agents=agents,
        reports=reports,
        events=SessionEvents(recorder, metrics),
    )
    WatchHandlers(caches, cluster.settings.domain, sessions, session_controller.forget)
    pool_controller = PoolController(
        cluster,
        claims,
        PoolDesktops(cluster, claims, queue, uncertain_creates, context.desktop_key),
        enqueue=pools.enqueue_after,
        enqueue_session=sessions.enqueue,
    )
    has_autoscaler = settings.autoscaling.enabled
    template_controller = TemplateController(
        cluster, templates.enqueue, has_autoscaler=has_autoscaler
    )
    work: list[tuple[Controller[Any], Reconcile[Any]]] = [
        (sessions, session_controller.reconcile),
        (polls, agents.poll),
        (notices, agents.deliver),
        (pools, pool_controller.reconcile),
        (templates, template_controller.reconcile),
        (homes_ahead, HomesAhead(cluster, owned.homes, homes_ahead.enqueue).reconcile),
    ]
    if has_autoscaler:
        placeholders: Controller[str] = context.controller("placeholder", 1)
        placeholders.enqueue(PLACEHOLDERS)
        work.append(
            (
                placeholders,
                Placeholders(cluster, settings.autoscaling, queue, node_requests).reconcile,
            )
        )
    if reports:
        work.append((ends, reports.report))

    metrics.watch_waiting(queue.waits)
    metrics.watch_pools(
        lambda: (
            pool
            for pool in caches.pools.values()
            if assigned_namespace(pool.metadata, cluster.namespaces)
        ),
        clock,
    )
    controllers = (
        (controller, context.while_leading(controller.name, reconcile))
        for controller, reconcile in work
    )
    return Wiring(tuple(controllers), helpers=(queue.run,))
