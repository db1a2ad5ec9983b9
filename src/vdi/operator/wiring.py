"""What the operator consists of. A new controller, poll or timer is added in `build_wiring`, and nowhere else.

Put together anew for each life of the operator (see `vdi.operator.runtime`), before the first lists: so every listener
hears of every object from its first state on. Until this process leads, keys gather in the queues and nothing runs.
"""

import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from vdi.kube.clock import Clock
from vdi.kube.events import EventRecorder
from vdi.kube.lease import Elector
from vdi.kube.queue import Controller, Key, Result
from vdi.kube.transport import Client
from vdi.operator.activity import CONCURRENT_NOTICES, CONCURRENT_POLLS, Agents
from vdi.operator.build import Builder
from vdi.operator.caches import Caches
from vdi.operator.cleanup import Cleanup
from vdi.operator.controllers.pool import PoolController
from vdi.operator.controllers.session import Dependencies, SessionController, SessionKey
from vdi.operator.controllers.template import TemplateController
from vdi.operator.history import CONCURRENT_REPORTS, EndReports
from vdi.operator.host_key import HostKey
from vdi.operator.hosts import Hosts
from vdi.operator.logs import log_from_now_on_about
from vdi.operator.metrics import Metrics
from vdi.operator.owned_resources import OwnedResources
from vdi.operator.pool_desktops import PoolDesktops
from vdi.operator.pools import Pools
from vdi.operator.ports import Credentials
from vdi.operator.prepull import PrePuller
from vdi.operator.queueing import QueueManager
from vdi.operator.reservations import Reservations
from vdi.operator.session_events import SessionEvents
from vdi.operator.settings import Settings
from vdi.operator.template_warnings import TemplateWarnings
from vdi.operator.uncertain_creates import UncertainCreates
from vdi.operator.watch_handlers import WatchHandlers


@dataclass(frozen=True, slots=True)
class OperatorContext:
    """What everything else is made from."""

    client: Client
    """Refuses to write while this process does not lead."""
    caches: Caches
    recorder: EventRecorder
    metrics: Metrics
    settings: Settings
    clock: Clock
    elector: Elector
    host_key: HostKey

    def controller(
        self, name: str, reconcile: Callable[[Key], Awaitable[Result]], *, workers: int | None = None
    ) -> Controller[Key]:
        """A queue with its workers (as many as the settings say, if not told), counted under this name.

        Work waits while the lease may be lost: better than to fail at each write, and to come back later and later.
        Log lines name what is worked on: a session where the key begins with (namespace, name), else what `name` says.
        """

        async def reconcile_leading(key: Key) -> Result:
            about = ("session", "/".join(key[:2])) if isinstance(key, tuple) else (name, str(key))
            log_from_now_on_about(*about)
            await self.elector.wait_leading()
            return await reconcile(key)

        return Controller(
            name,
            reconcile_leading,
            workers=workers or self.settings.workers,
            clock=self.clock,
            on_outcome=partial(self.metrics.count_reconcile, name),
        )


@dataclass(frozen=True, slots=True)
class Wiring:
    """What is at work while this process leads."""

    controllers: tuple[Controller[Any], ...]
    """Told to stop, they finish the reconciles under way."""
    helpers: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    """Polls and timers: run beside the controllers until cancelled; one that returns or fails ends the operator."""


def build_wiring(parts: OperatorContext) -> Wiring:
    """All controllers and helpers, listening to the caches."""
    agents = Agents(parts.caches, parts.recorder, parts.clock, port=parts.settings.policy.agent_port)
    admission = _assemble_admission(parts)
    pools = Pools(parts.client, parts.caches, parts.recorder, parts.settings.policy, parts.clock)
    reports = _assemble_history(parts)
    owned = OwnedResources(parts.client, parts.caches)
    uncertain_creates = UncertainCreates(owned.pods)
    sessions = _assemble_sessions(parts, owned, uncertain_creates, Dependencies(admission, pools, agents, reports))
    polls = parts.controller("activity", agents.poll, workers=CONCURRENT_POLLS)
    notices = parts.controller("notice", agents.deliver, workers=CONCURRENT_NOTICES)
    agents.connect(polls, notices, sessions)
    others: list[Controller[Any]] = [
        _assemble_pools(parts, pools, admission, uncertain_creates, sessions),
        _assemble_templates(parts),
    ]
    if reports:
        report_queue: Controller[SessionKey] = parts.controller("history", reports.report, workers=CONCURRENT_REPORTS)
        reports.connect(report_queue, sessions)
        others.append(report_queue)
    return Wiring(controllers=(sessions, polls, notices, *others), helpers=(admission.run,))


def _assemble_sessions(
    parts: OperatorContext, owned: OwnedResources, uncertain_creates: UncertainCreates, dependencies: Dependencies
) -> Controller[SessionKey]:
    client, caches, policy = parts.client, parts.caches, parts.settings.policy
    reservations = Reservations()
    hosts = Hosts(client, caches, policy, parts.host_key)
    sessions = SessionController(
        client=client,
        caches=caches,
        hosts=hosts,
        reservations=reservations,
        uncertain_creates=uncertain_creates,
        builder=Builder(
            owned=owned,
            hosts=hosts,
            reservations=reservations,
            uncertain_creates=uncertain_creates,
            pools=dependencies.pools,
            policy=policy,
            new_credentials=_new_credentials,
        ),
        cleanup=Cleanup(owned),
        dependencies=dependencies,
        session_events=SessionEvents(parts.recorder, parts.metrics),
        policy=policy,
        clock=parts.clock,
    )
    controller = parts.controller("session", sessions.reconcile)
    WatchHandlers(caches, policy.domain, controller, sessions.forget)
    return controller


def _assemble_history(parts: OperatorContext) -> EndReports | None:
    settings = parts.settings
    if not settings.gateway_url:
        return None
    return EndReports(
        settings.gateway_url, settings.gateway_token_file, parts.caches.sessions, parts.recorder, parts.clock
    )


def _new_credentials() -> Credentials:
    return Credentials(password=secrets.token_urlsafe(18), agent_token=secrets.token_urlsafe(18))


def _assemble_admission(parts: OperatorContext) -> QueueManager:
    settings, metrics = parts.settings, parts.metrics
    admission = QueueManager(
        parts.caches,
        settings.policy,
        parts.clock,
        weights=settings.queue_weights,
        on_admitted=metrics.queue_wait.observe,
    )
    metrics.watch_waiting(admission.waits)
    return admission


def _assemble_pools(
    parts: OperatorContext,
    pools: Pools,
    admission: QueueManager,
    uncertain_creates: UncertainCreates,
    sessions: Controller[SessionKey],
) -> Controller[str]:
    desktops = PoolDesktops(
        client=parts.client,
        caches=parts.caches,
        pools=pools,
        queue=admission,
        uncertain_creates=uncertain_creates,
        policy=parts.settings.policy,
        namespace=parts.settings.namespace,
        new_token=lambda: secrets.token_urlsafe(18),
    )
    pool_controller = PoolController(
        client=parts.client,
        caches=parts.caches,
        pools=pools,
        desktops=desktops,
        policy=parts.settings.policy,
        clock=parts.clock,
    )
    controller = parts.controller("pool", pool_controller.reconcile, workers=2)
    pool_controller.listen(controller.enqueue_after, sessions.enqueue)
    admission.connect(sessions.enqueue, pool_controller.yield_capacity)
    parts.metrics.watch_pools(parts.caches.pools.values)
    return controller


def _assemble_templates(parts: OperatorContext) -> Controller[str]:
    settings = parts.settings
    puller = PrePuller(parts.client, parts.caches, settings.policy, settings.namespace, parts.clock)
    warnings = TemplateWarnings(parts.client, parts.caches, parts.clock)
    templates = TemplateController(parts.caches, puller, warnings)
    controller = parts.controller("template", templates.reconcile, workers=2)
    templates.listen(controller.enqueue)
    return controller
