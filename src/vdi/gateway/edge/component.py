"""The edge as a component of the gateway: builds its objects, names its routes, runs its background work."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from vdi.api.session import Phase, VDISession
from vdi.gateway.actions import Actions
from vdi.gateway.addresses import desktop_url
from vdi.gateway.cluster_cache import ClusterCache, Kind
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.desktop_agent import DesktopKey
from vdi.gateway.edge import webrtc
from vdi.gateway.edge.assets import PATHS, serve_asset
from vdi.gateway.edge.authorizer import Authorizer
from vdi.gateway.edge.revocation import ActiveGrants, Revocations, Revoker
from vdi.gateway.edge.ticket_handoff import TicketHandoff
from vdi.gateway.edge.token_tables import TokenTablePublisher, desktop_of
from vdi.gateway.edge.tokens import KeyRing
from vdi.gateway.edge.verify import BasicAuth, Verify
from vdi.gateway.edge.wait import WaitingPage
from vdi.gateway.login.guard import Guard
from vdi.gateway.login.logins import Logins
from vdi.gateway.rights import User
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.grants import GrantStore
from vdi.gateway.web.assets import asset_routes
from vdi.kube.errors import KubeError

log = logging.getLogger(__name__)

KEYS_SECONDS = 60.0
POLL_SECONDS = 5.0
# How late a connection ends whose share runs out; a new one is refused at once.
SWEEP_SECONDS = 1.0

FORGET_SECONDS = 3600.0
# After background work has failed.
AGAIN_SECONDS = 2.0


class Edge(Component):
    """The way to the desktops. `address`: where a session's Selkies is reached; for tests."""

    def __init__(
        self,
        context: GatewayContext,
        *,
        logins: Logins,
        guard: Guard,
        actions: Actions,
        address: Callable[[VDISession], str] | None = None,
    ) -> None:
        cluster, settings = context.cluster, context.settings
        self._cluster = cluster
        self._clock = context.clock
        store = GrantStore(context.database)
        active = ActiveGrants()
        self._brand = settings.brand
        revocations = Revocations(settings.token_seconds, context.clock)
        self.desktop_key = DesktopKey(context.client, settings.gateway_namespace)
        self.ring = KeyRing(context.client, settings, context.clock)
        self.tables = TokenTablePublisher(
            context,
            store=store,
            key=self.desktop_key,
            active=active,
            revocations=revocations,
            address=address or (lambda session: _service(cluster, session)),
        )
        self.revoker = Revoker(context, store=store, active=active, revocations=revocations, touch=self.tables.touch)
        authorizer = Authorizer(
            context,
            ring=self.ring,
            store=store,
            logins=logins,
            active=active,
            revocations=revocations,
            revoker=self.revoker,
        )
        self.verify = Verify(
            context,
            authorizer=authorizer,
            key=self.desktop_key,
            logins=BasicAuth(context.client, time.monotonic),
            tables=self.tables,
            ready=lambda: self.ready,
        )
        self._handoff = TicketHandoff(
            context, logins=logins, guard=guard, authorizer=authorizer, revoker=self.revoker, tables=self.tables
        )
        self._waiting = WaitingPage(
            context,
            actions=actions,
            authorizer=authorizer,
            handoff=self._handoff,
            revocations=revocations,
            tables=self.tables,
        )
        self._turn = webrtc.TurnPage(context, authorizer)
        self._transport = webrtc.TransportPage(context, authorizer=authorizer, key=self.desktop_key)
        self._active = active
        # Sessions that have changed since the last sweep, and those that were suspended, with the moment.
        self._changed: set[str] = set()
        self._suspended: dict[str, datetime] = {}
        self._news = asyncio.Event()
        cluster.listen(self._see)

    @property
    def ready(self) -> bool:
        """Whether there are keys to sign with, and it is known what was revoked."""
        return self.ring.ready and self.revoker.primed and self._cluster.synced

    def portal_routes(self) -> Sequence[BaseRoute]:
        """See Component."""
        return (Route("/enter", self._handoff.portal_enter), Route("/.well-known/jwks.json", self._jwks))

    def desktop_routes(self) -> Sequence[BaseRoute]:
        """See Component. The last one takes everything, so no component after it gets anything on a desktop's host."""
        return (
            Route("/.vdi/start", self._handoff.start),
            Route("/.vdi/enter", self._handoff.enter),
            Route("/.vdi/leave", self._handoff.leave, methods=["POST"]),
            Route("/.vdi/wait", self._waiting.page),
            Route("/.vdi/open", self._waiting.opening),
            Route("/.vdi/events", self._waiting.events),
            Route("/.vdi/resume", self._waiting.resume, methods=["POST"]),
            Route(webrtc.TRANSPORT_PATH, self._transport.page),
            *(Route(path, serve_asset) for path in PATHS),
            *asset_routes(self._brand, "/.vdi/static"),
            Route(webrtc.TURN_PATH, self._turn.answer),
            Route("/{path:path}", self._waiting.anywhere, methods=_EVERY_METHOD),
        )

    def internal_routes(self) -> Sequence[BaseRoute]:
        """See Component."""
        return (Route("/edge/verify", self.verify),)

    async def issue_ticket(self, user: User, session: VDISession, state: str) -> str:
        """See `TicketHandoff.issue_ticket`."""
        return await self._handoff.issue_ticket(user, session, state)

    async def end_grants(
        self,
        *,
        user: str | None = None,
        session_uid: str | None = None,
        login_id: str | None = None,
        login_ids: Collection[str] = (),
    ) -> int:
        """End all grants of this user, this session and this login, as far as they are named; pictures stop.

        `login_ids`: logins and API tokens that have ended; a grant that is just being made with one is refused too.
        Returns how many there were. Raises DatabaseUnavailableError when it could not be written down; here and now
        they are over all the same.
        """
        reason = "logout" if login_id else "ended"
        return await self.revoker.end(
            user=user, session_uid=session_uid, login_id=login_id, over=login_ids, reason=reason
        )

    async def run(self) -> None:
        """See Component."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._repeat("signing keys", KEYS_SECONDS, self._refresh_keys))
                tasks.create_task(self._repeat("polling revocations", POLL_SECONDS, self.revoker.poll))
                tasks.create_task(self._repeat("old grants", FORGET_SECONDS, self.revoker.forget_old))
                tasks.create_task(self._repeat("messages of other replicas", AGAIN_SECONDS, self.revoker.listen))
                tasks.create_task(self._repeat("grants without a session", SWEEP_SECONDS, self.revoker.sweep))
                tasks.create_task(self._repeat("grants of changed sessions", 0.0, self._follow))
        finally:
            await self.tables.close()

    def problems(self) -> Iterator[str]:
        """See Component. Keys in memory sign and verify also while their Secret cannot be read."""
        if not self.ring.ready:
            yield f"signing keys: {self.ring.trouble}"
        if not self.revoker.primed:
            yield "revocations: not read from the database yet"

    async def external_problems(self) -> Sequence[str]:
        """The Secret with the keys, and WebSockets that something between the browsers and Traefik cuts, one line for
        each session.
        """
        unread = [f"signing keys: {self.ring.trouble}"] if self.ring.trouble and self.ring.ready else []
        return [*unread, *self.verify.disconnects.problems(time.monotonic())]

    async def _repeat(self, what: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        failing = False
        while True:
            try:
                await work()
                pause, failing = seconds, False
            except (DatabaseUnavailableError, KubeError, OSError) as error:
                log.log(logging.DEBUG if failing else logging.WARNING, "%s: %s", what, error)
                pause, failing = max(seconds, AGAIN_SECONDS), True
            await asyncio.sleep(pause)

    async def _refresh_keys(self) -> None:
        """Until it succeeds: while the Secret cannot be read, keys of other replicas are not known here."""
        await self.ring.refresh()
        while self.ring.trouble:
            await asyncio.sleep(AGAIN_SECONDS)
            await self.ring.refresh()

    async def _follow(self) -> None:
        """Once something has changed: end what has lost its ground by it."""
        await self._news.wait()
        self._news.clear()
        changed, self._changed = self._changed, set()
        try:
            for uid, moment in list(self._suspended.items()):
                await self.revoker.end_suspended(uid, moment)
                del self._suspended[uid]
            await self.revoker.sweep(changed)
        except DatabaseUnavailableError:
            self._news.set()  # what was suspended stays to be done; the rest is found by the next sweep of all
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
            self._suspended[uid] = self._clock()
        if old is None or old.spec != new.spec:
            self._changed.add(uid)
            self._news.set()
        if self._is_new_desktop(old, new):
            self.tables.touch(uid)

    def _is_new_desktop(self, old: VDISession | None, new: VDISession) -> bool:
        """Whether a desktop has just become ready that has no token table yet."""
        if new.status.phase != Phase.RUNNING or not self._active.find(session_uid=new.metadata.uid):
            return False
        return old is None or desktop_of(old) != desktop_of(new)

    async def _jwks(self, _request: Request) -> Response:
        return JSONResponse(self.ring.jwks(), headers={"Cache-Control": f"public, max-age={int(_JWKS_AGE)}"})


# Less than the time for which a key is published before it signs.
_JWKS_AGE = timedelta(minutes=5).total_seconds()
_EVERY_METHOD = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def _service(cluster: ClusterCache, session: VDISession) -> str:
    template = cluster.template(session.spec.template)
    return desktop_url(session, template.spec.port if template else 8080)
