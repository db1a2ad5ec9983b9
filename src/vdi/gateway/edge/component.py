"""The edge as a component of the gateway: its objects, routes and background work. `app` builds one
per process.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vdi.api.session import Phase, VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.cluster_cache import Kind, Subscriptions
from vdi.gateway.component import AGAIN_SECONDS, Component, GatewayContext, repeat
from vdi.gateway.desktop.agent import DesktopAgent
from vdi.gateway.edge.authorizer import Authorizer
from vdi.gateway.edge.bar import CHANGES, DesktopBar
from vdi.gateway.edge.revocation import Revoker
from vdi.gateway.edge.selkies import TRANSPORT_PATH
from vdi.gateway.edge.ticket_handoff import TicketHandoff
from vdi.gateway.edge.token_tables import TokenTablePublisher, desktop_of
from vdi.gateway.edge.tokens import KeyRing
from vdi.gateway.edge.verify import BasicAuth, Verify
from vdi.gateway.edge.wait import WaitingPage
from vdi.gateway.edge.webrtc import TURN_PATH, TransportPage, TurnPage
from vdi.gateway.history.component import History
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.rights import taken_by
from vdi.gateway.session_actions import SessionActions
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.assets import asset_routes
from vdi.session.recording import refuse_picture

log = logging.getLogger(__name__)

KEYS_SECONDS = 60.0
POLL_SECONDS = 5.0
EXPIRED_SECONDS = 5.0
# An open connection whose share runs out ends at most so much later; a new one is refused at once.
SWEEP_SECONDS = 1.0
FORGET_SECONDS = 3600.0
# Less than the time for which a key is published before it signs (tokens.KEY_LEAD).
_JWKS_AGE_SECONDS = 300
_EVERY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


class Edge(Component):
    """Access to desktops: who comes in, and how long."""

    def __init__(
        self,
        context: GatewayContext,
        *,
        tables: TokenTablePublisher,
        revoker: Revoker,
        logins: Logins,
        guard: Guard,
        actions: Actions,
        subscriptions: Subscriptions,
        history: History,
        agent: DesktopAgent,
        session_actions: SessionActions,
    ) -> None:
        self._context = context
        self.tables, self.revoker = tables, revoker
        self._actions = actions
        self.ring = KeyRing(context.client, context.settings, context.clock)
        authorizer = Authorizer(
            context=context,
            ring=self.ring,
            store=revoker.store,
            logins=logins,
            active=revoker.active,
            revocations=revoker.revocations,
            revoker=revoker,
        )
        self.verify = Verify(
            context=context,
            authorizer=authorizer,
            key=tables.key,
            logins=BasicAuth(context.client, time.monotonic),
            tables=tables,
            ready=lambda: self.ready,
        )
        self.handoff = TicketHandoff(
            context=context,
            logins=logins,
            guard=guard,
            authorizer=authorizer,
            revoker=revoker,
            tables=tables,
            history=history,
            audit=actions.audit,
        )
        self._waiting = WaitingPage(
            context=context,
            actions=session_actions,
            authorizer=authorizer,
            handoff=self.handoff,
            tables=tables,
            subscriptions=subscriptions,
        )
        self._bar = DesktopBar(
            context=context,
            agent=agent,
            actions=session_actions,
            authorizer=authorizer,
            handoff=self.handoff,
            tables=tables,
            subscriptions=subscriptions,
        )
        self._turn = TurnPage(context=context, authorizer=authorizer)
        self._transport = TransportPage(context=context, authorizer=authorizer, key=tables.key)
        # Uids of sessions that have changed since the last sweep; those of suspended ones, with the
        # time.
        self._changed: set[str] = set()
        self._suspended: dict[str, datetime] = {}
        self._news = asyncio.Event()
        context.cluster.listen(self._see)

    @property
    def ready(self) -> bool:
        """Whether there are keys to sign with, and revocations are known. Before that, no one is
        let in.
        """
        return self.ring.ready and self.revoker.primed and self._context.cluster.synced

    def portal_routes(self) -> Sequence[BaseRoute]:
        return (
            Route("/enter", self.handoff.portal_enter),
            Route("/.well-known/jwks.json", self._jwks),
        )

    def desktop_routes(self) -> Sequence[BaseRoute]:
        """Routes of every desktop's host; the last one matches all paths, so components after this
        one have none.
        """
        return (
            Route("/.vdi/start", self.handoff.start),
            Route("/.vdi/enter", self.handoff.enter),
            Route("/.vdi/leave", self.handoff.leave, methods=["POST"]),
            Route("/.vdi/wait", self._waiting.page),
            Route("/.vdi/open", self._waiting.opening),
            Route("/.vdi/events", self._waiting.events),
            Route("/.vdi/resume", self._waiting.resume, methods=["POST"]),
            Route("/.vdi/bar", self._bar.show),
            Route("/.vdi/presence", self._bar.presence),
            *(Route(f"/.vdi/{change}", self._bar.change, methods=["POST"]) for change in CHANGES),
            Route(TRANSPORT_PATH, self._transport.page),
            *asset_routes(self._context.settings.brand, "/.vdi/static"),
            Route(TURN_PATH, self._turn.answer),
            Route("/{path:path}", self._waiting.anywhere, methods=_EVERY_METHOD),
        )

    def internal_routes(self) -> Sequence[BaseRoute]:
        return (Route("/edge/verify", self.verify),)

    async def run(self) -> None:
        work = (
            ("signing keys", KEYS_SECONDS, self._refresh_keys),
            ("polling revocations", POLL_SECONDS, self.revoker.poll),
            ("old grants", FORGET_SECONDS, self.revoker.forget_old),
            ("messages of other replicas", AGAIN_SECONDS, self.revoker.listen),
            ("grants without a session", SWEEP_SECONDS, self.revoker.sweep),
            ("expired access", EXPIRED_SECONDS, self._actions.drop_expired_access),
            ("grants of changed sessions", 0.0, self._follow),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for what, seconds, do in work:
                    tasks.create_task(repeat(what, seconds, do), name=what)
        finally:
            await self.tables.close()

    def problems(self) -> Iterator[str]:
        # Keys in memory still sign and verify while their Secret cannot be read.
        if not self.ring.ready:
            yield f"signing keys: {self.ring.trouble}"
        if not self.revoker.primed:
            yield "revocations: not read from the database yet"

    async def external_problems(self) -> Sequence[str]:
        """A Secret of keys that cannot be read, and sessions whose WebSockets a proxy cuts."""
        problems = self.verify.disconnects.problems(time.monotonic())
        if self.ring.trouble and self.ring.ready:
            return [f"signing keys: {self.ring.trouble}", *problems]
        return [*problems]

    async def _refresh_keys(self) -> None:
        # Again soon after a failure: while the Secret cannot be read, new keys of other replicas
        # are not known here.
        await self.ring.refresh()
        while self.ring.trouble:
            await asyncio.sleep(AGAIN_SECONDS)
            await self.ring.refresh()

    async def _follow(self) -> None:
        """Wait for changed sessions, then end the grants that the changes ended."""
        await self._news.wait()
        self._news.clear()
        changed, self._changed = self._changed, set()
        try:
            for uid, moment in list(self._suspended.items()):
                await self.revoker.end_suspended(uid, moment)
                del self._suspended[uid]
            await self.revoker.sweep(changed)
        except DatabaseUnavailableError:
            # Suspensions stay in their list; the next sweep of all sessions finds the rest.
            self._news.set()
            raise

    def _see(self, kind: Kind, old: VDISession | None, new: VDISession | None) -> None:
        if kind != "session":
            return
        if new is None:
            if old is not None:
                self.tables.forget(old.metadata.uid)
                self._changed.add(old.metadata.uid)
                self._news.set()
            return
        uid = new.metadata.uid
        if old is not None and new.spec.suspended and not old.spec.suspended:
            self._suspended[uid] = self._context.clock()
        is_taken = old is not None and taken_by(old) != taken_by(new)
        if old is None or old.spec != new.spec or is_taken:
            self._changed.add(uid)
            self._news.set()
        # With a take-over, streams that API tokens have opened end; also those whose grants only
        # the database has.
        if is_taken or self._is_new_desktop(old, new):
            self.tables.touch(uid)

    def _is_new_desktop(self, old: VDISession | None, new: VDISession) -> bool:
        """Whether a desktop has just become ready that needs a token table, or may be seen again,
        or no longer.
        """
        if new.status.phase != Phase.RUNNING or not self.revoker.active.find(
            session_uid=new.metadata.uid
        ):
            return False
        if old is None or desktop_of(old) != desktop_of(new):
            return True
        # The table of a desktop without its recording names no one, so that every picture ends.
        return bool(refuse_picture(old)) != bool(refuse_picture(new))

    async def _jwks(self, _request: Request) -> Response:
        return JSONResponse(
            self.ring.jwks(), headers={"Cache-Control": f"public, max-age={_JWKS_AGE_SECONDS}"}
        )
