"""What the operator consists of. A new controller, poll or timer is added in `assemble`, and nowhere else.

Put together anew for each life of the operator (see `vdi.operator.life`), before the first lists: so every listener
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
from vdi.operator.activity import ASKED_AT_ONCE, TOLD_AT_ONCE, Agents
from vdi.operator.announce import Announcer
from vdi.operator.build import Builder
from vdi.operator.caches import Caches
from vdi.operator.controllers.session import SessionController, SessionKey
from vdi.operator.metrics import Metrics
from vdi.operator.reservations import Reservations
from vdi.operator.settings import Settings
from vdi.operator.wakeups import Wakeups


@dataclass(frozen=True, slots=True)
class Parts:
    """What everything else is made from."""

    client: Client
    """Refuses to write while this process does not lead."""
    caches: Caches
    recorder: EventRecorder
    metrics: Metrics
    settings: Settings
    clock: Clock
    elector: Elector

    def controller(
        self, name: str, reconcile: Callable[[Key], Awaitable[Result]], *, workers: int | None = None
    ) -> Controller[Key]:
        """A queue with its workers (as many as the settings say, if not told), counted under this name.

        Work waits while the lease may be lost: better than to fail at each write, and to come back later and later.
        """

        async def reconcile_leading(key: Key) -> Result:
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
class Assembly:
    """What is at work while this process leads."""

    controllers: tuple[Controller[Any], ...]
    """Told to stop, they finish the reconciles under way."""
    helpers: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    """Polls and timers: run beside the controllers until cancelled; one that returns or fails ends the operator."""


def assemble(parts: Parts) -> Assembly:
    """All controllers and helpers, listening to the caches."""
    agents = Agents(parts.caches, parts.recorder, parts.clock, port=parts.settings.policy.agent_port)
    sessions = _assemble_sessions(parts)
    asks = parts.controller("activity", agents.ask, workers=ASKED_AT_ONCE)
    notices = parts.controller("notice", agents.deliver, workers=TOLD_AT_ONCE)
    agents.connect(asks, notices, sessions)
    return Assembly(controllers=(sessions, asks, notices), helpers=(agents.run,))


def _assemble_sessions(parts: Parts) -> Controller[SessionKey]:
    client, caches, policy = parts.client, parts.caches, parts.settings.policy
    reservations = Reservations()
    builder = Builder(client, caches, reservations, policy, new_password=lambda: secrets.token_urlsafe(18))
    sessions = SessionController(
        client=client,
        caches=caches,
        reservations=reservations,
        builder=builder,
        announcer=Announcer(parts.recorder, parts.metrics),
        policy=policy,
        clock=parts.clock,
    )
    controller = parts.controller("session", sessions.reconcile)
    Wakeups(caches, policy.domain, controller.enqueue, sessions.forget)
    return controller
