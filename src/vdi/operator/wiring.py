"""What the operator consists of. A new controller, poll or timer is added in `build_wiring`, and nowhere else.

Built for each `vdi.operator.runtime.Runtime`, before the first lists: so every listener gets every object from its
first state on. Until this process leads, keys gather in the queues and nothing runs.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Generic

from vdi.cluster.capacity import Demand
from vdi.kube.events import EventRecorder
from vdi.kube.lease import Elector
from vdi.kube.queue import Controller, Key, Reconcile, Result
from vdi.operator.agents import CONCURRENT_NOTICES, CONCURRENT_POLLS, Agents, NoticeKey
from vdi.operator.caches import ClusterContext
from vdi.operator.children import Builder, Cleanup
from vdi.operator.controllers.homes_ahead import HomesAhead
from vdi.operator.controllers.placeholders import PLACEHOLDERS, Placeholders
from vdi.operator.controllers.pool import PoolController, PoolDesktops
from vdi.operator.controllers.session import Dependencies, SessionController, SessionKey
from vdi.operator.controllers.template import PrePuller, TemplateController, TemplateWarnings
from vdi.operator.end_reports import CONCURRENT_REPORTS, EndReports
from vdi.operator.metrics import Metrics
from vdi.operator.owned_resources import OwnedResources, UncertainCreates
from vdi.operator.pools import Pools
from vdi.operator.queueing import QueueManager
from vdi.operator.release_keys import ReleaseKey
from vdi.operator.reservations import Hosts, Reservations
from vdi.operator.status import SessionEvents
from vdi.operator.watch_handlers import WatchHandlers
from vdi.process import log_from_now_on_about
from vdi.session.autoscaling import NodeRequest
from vdi.session.naming import assigned_namespace
from vdi.settings import Settings


@dataclass(frozen=True, slots=True)
class Worker(Generic[Key]):
    """A controller and what it reconciles with."""

    controller: Controller[Key]
    reconcile: Reconcile[Key]

    async def run(self) -> None:
        """Work until the controller is stopped, or until cancelled."""

        await self.controller.run(self.reconcile)


AnyWorker = Worker[str] | Worker[SessionKey] | Worker[NoticeKey]


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """What everything else is made from."""

    cluster: ClusterContext
    recorder: EventRecorder
    metrics: Metrics
    settings: Settings
    elector: Elector
    host_key: ReleaseKey
    desktop_key: ReleaseKey

    def controller(self, name: str, *, workers: int | None = None) -> Controller[Key]:
        """A queue with its workers (by default as many as the settings say), counted under this name."""
        return Controller(
            name,
            workers=workers or self.settings.workers,
            clock=self.cluster.clock,
            on_outcome=partial(self.metrics.count_reconcile, name),
        )

    def worker(self, controller: Controller[Key], reconcile: Reconcile[Key]) -> Worker[Key]:
        """Reconciles while this process leads.

        Work waits while the lease may be lost: better than to fail at each write, and to come back later and later.
        Log lines carry the object: a session where the key begins with (namespace, name), else the controller's name.
        """

        async def reconcile_leading(key: Key) -> Result:
            about = ("session", "/".join(key[:2])) if isinstance(key, tuple) else (controller.name, str(key))
            log_from_now_on_about(*about)
            await self.elector.wait_leading()
            return await reconcile(key)

        return Worker(controller, reconcile_leading)


@dataclass(frozen=True, slots=True)
class Wiring:
    """What is at work while this process leads."""

    # Their controllers finish the reconciles under way when they are stopped.
    workers: tuple[AnyWorker, ...]
    # Polls and timers: run beside the controllers until cancelled; one that returns or fails ends the operator.
    helpers: tuple[Callable[[], Coroutine[object, None, None]], ...] = ()


@dataclass(frozen=True, slots=True)
class _Controllers:
    """The queues, which exist before the components that fill them and work on them."""

    sessions: Controller[SessionKey]
    pools: Controller[str]
    templates: Controller[str]
    polls: Controller[SessionKey]
    notices: Controller[NoticeKey]
    reports: Controller[SessionKey]
    homes_ahead: Controller[SessionKey]


def build_wiring(context: OperatorContext) -> Wiring:
    """All controllers and helpers, listening to the caches."""
    cluster, settings = context.cluster, context.settings
    queues = _Controllers(
        sessions=context.controller("session"),
        pools=context.controller("pool", workers=2),
        templates=context.controller("template", workers=2),
        polls=context.controller("activity", workers=CONCURRENT_POLLS),
        notices=context.controller("notice", workers=CONCURRENT_NOTICES),
        reports=context.controller("history", workers=CONCURRENT_REPORTS),
        homes_ahead=context.controller("home-ahead", workers=1),
    )
    agents = Agents(
        cluster.caches,
        context.recorder,
        cluster.clock,
        port=cluster.settings.agent_port,
        enqueue_poll=queues.polls.enqueue,
        enqueue_notice=queues.notices.enqueue,
        enqueue_session=queues.sessions.enqueue,
    )
    pools = Pools(cluster, context.recorder, context.desktop_key, queues.pools.enqueue_after)
    node_requests: dict[Demand, NodeRequest] = {}
    manager = QueueManager(
        cluster,
        weights=settings.queue_weights,
        node_requests=node_requests if settings.autoscaling.enabled else None,
        on_admitted=context.metrics.queue_wait.observe,
        enqueue=queues.sessions.enqueue,
        yield_capacity=pools.yield_capacity,
    )
    context.metrics.watch_waiting(manager.waits)
    reports = _build_reports(context, queues)
    owned = OwnedResources(cluster.client, cluster.caches)
    uncertain_creates = UncertainCreates(owned.pods)
    dependencies = Dependencies(manager, pools, agents, reports)
    sessions = _build_session_controller(context, owned, uncertain_creates, dependencies)
    WatchHandlers(cluster.caches, cluster.settings.domain, queues.sessions, sessions.forget)
    pool_controller = _build_pool_controller(context, queues, pools, manager, uncertain_creates)
    workers: list[AnyWorker] = [
        context.worker(queues.sessions, sessions.reconcile),
        context.worker(queues.polls, agents.poll),
        context.worker(queues.notices, agents.deliver),
        context.worker(queues.pools, pool_controller.reconcile),
        context.worker(queues.templates, _build_template_controller(context, queues).reconcile),
        context.worker(queues.homes_ahead, HomesAhead(cluster, owned.homes, queues.homes_ahead.enqueue).reconcile),
    ]
    if settings.autoscaling.enabled:
        workers.append(_build_placeholders(context, manager, node_requests))
    if reports:
        workers.append(context.worker(queues.reports, reports.report))
    return Wiring(tuple(workers), helpers=(manager.run,))


def _build_session_controller(
    context: OperatorContext,
    owned: OwnedResources,
    uncertain_creates: UncertainCreates,
    dependencies: Dependencies,
) -> SessionController:
    cluster = context.cluster
    reservations = Reservations()
    hosts = Hosts(cluster, context.host_key)
    return SessionController(
        cluster,
        hosts=hosts,
        reservations=reservations,
        uncertain_creates=uncertain_creates,
        builder=Builder(
            owned=owned,
            hosts=hosts,
            reservations=reservations,
            uncertain_creates=uncertain_creates,
            desktop_key=context.desktop_key,
            settings=cluster.settings,
        ),
        cleanup=Cleanup(owned, cluster.clock),
        dependencies=dependencies,
        session_events=SessionEvents(context.recorder, context.metrics),
    )


def _build_reports(context: OperatorContext, queues: _Controllers) -> EndReports | None:
    settings = context.settings
    if not settings.gateway_url:
        return None
    return EndReports(
        settings.gateway_url,
        settings.gateway_token_file,
        context.cluster.caches.sessions,
        context.recorder,
        context.cluster.clock,
        enqueue_report=queues.reports.enqueue,
        enqueue_session=queues.sessions.enqueue,
    )


def _build_pool_controller(
    context: OperatorContext,
    queues: _Controllers,
    pools: Pools,
    manager: QueueManager,
    uncertain_creates: UncertainCreates,
) -> PoolController:
    cluster = context.cluster
    desktops = PoolDesktops(
        cluster, pools=pools, queue=manager, uncertain_creates=uncertain_creates, key=context.desktop_key
    )
    context.metrics.watch_pools(
        lambda: (
            pool for pool in cluster.caches.pools.values() if assigned_namespace(pool.metadata, cluster.namespaces)
        ),
        cluster.clock,
    )
    return PoolController(
        cluster,
        pools=pools,
        desktops=desktops,
        enqueue=queues.pools.enqueue_after,
        enqueue_session=queues.sessions.enqueue,
    )


def _build_placeholders(
    context: OperatorContext, manager: QueueManager, node_requests: dict[Demand, NodeRequest]
) -> Worker[str]:
    placeholders = Placeholders(context.cluster, context.settings.autoscaling, manager, node_requests)
    controller: Controller[str] = context.controller("placeholder", workers=1)
    controller.enqueue(PLACEHOLDERS)
    return context.worker(controller, placeholders.reconcile)


def _build_template_controller(context: OperatorContext, queues: _Controllers) -> TemplateController:
    cluster = context.cluster
    return TemplateController(cluster, PrePuller(cluster), TemplateWarnings(cluster), queues.templates.enqueue)
