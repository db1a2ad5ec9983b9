"""Admission to desktops by grants and tokens. Which of their requests pass is decided in `verify`.

All routes of the edge call `Authorizer`. A valid token is the common case and needs memory alone:
its claims (cached), the session of this host (watched), what was revoked (published), and the
user's role in the session as it is now. A token past half its life, and a request without one, need
the database: a grant that holds, of a login that holds, gives the next token.
"""

import asyncio
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from starlette.requests import HTTPConnection
from starlette.responses import Response

from vdi.api.session import Role, VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop.active_grants import ActiveGrants
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE, Hosts, desktop_cookie
from vdi.gateway.edge.revocation import Revocations, Revoker
from vdi.gateway.edge.tokens import Claims, KeyRing, TokenError, Tokens, UnknownKeyError
from vdi.gateway.login.logins import Logins, hash_of
from vdi.gateway.rights import keeps_access
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import Grant, GrantStore
from vdi.gateway.web.credentials import cookies_in

log = logging.getLogger(__name__)

LONGEST_HANDLE = 100
# Open grants of one user in one session, one for each browser. A desktop refuses a token table of
# more than 1 MiB: without a limit, one guest could make it so large that no one is cut off and no
# one gets in.
MOST_GRANTS = 20
# Between two reads of the keys because a token names an unknown one: forged tokens must not load
# the API server.
KEYS_PAUSE = timedelta(seconds=5)
# A request with a token that holds waits for so long for the next token, and after a failure not at
# all for a while.
DATABASE_SECONDS = 1.0
DATABASE_PAUSE = timedelta(seconds=5)
# A request without such a token waits longer. Traefik waits 30 s, and its own error page names no
# reason.
ENTRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Admitted:
    """A user who may enter a session's desktop."""

    session: VDISession
    claims: Claims
    # A new token, to be sent to the browser; empty: the browser has a good one.
    token: str = ""


@dataclass(eq=False, kw_only=True)
class Authorizer:
    """Admits requests, and makes grants and tokens. Used only from the event loop's thread."""

    context: GatewayContext
    ring: KeyRing
    store: GrantStore
    logins: Logins
    active: ActiveGrants
    revocations: Revocations
    revoker: Revoker
    hosts: Hosts = field(init=False)
    _tokens: Tokens = field(init=False)
    _keys_asked: datetime | None = field(default=None, init=False)
    _database_failed: datetime | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        settings = self.context.settings
        self.hosts = Hosts(settings)
        self._tokens = Tokens(
            self.ring, settings.portal_url, settings.token_seconds, self.context.clock
        )

    async def admit_request(self, request: HTTPConnection) -> Admitted | None:
        """`admit` for a request to a desktop's host on the public listener."""
        label = self.hosts.label_of(request)
        session = self.context.cluster.by_host(label) if label else None
        if session:
            return await self.admit(session, request.headers.get("cookie", ""))
        return None

    async def admit(self, session: VDISession, cookie_header: str) -> Admitted | None:
        """The user with these cookies, if they may enter this session's desktop.

        Raises DatabaseUnavailableError where only the database can tell.
        """
        cookies = cookies_in(cookie_header)
        now = self.context.clock()
        claims = await self._good_claims(session, cookies.get(DESKTOP_COOKIE, ""), now)
        if claims is not None and not self._tokens.is_half_over(claims, now.timestamp()):
            return Admitted(session, claims)
        handle = cookies.get(GRANT_COOKIE, "")
        if claims is None:
            if handle:
                return await self._renew_in_time(session, handle)
            return None
        if not handle or (self._database_failed and now - self._database_failed < DATABASE_PAUSE):
            return Admitted(session, claims)
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                return await self._renew(session, handle)
        except (DatabaseUnavailableError, TimeoutError) as error:
            # The token still holds: it must not wait for a database that has just not responded.
            self._database_failed = now
            log.warning(
                "tokens are not renewed, and hold until they are over: %s",
                str(error) or "no answer in time",
            )
            return Admitted(session, claims)

    def still_holds(self, session: VDISession, claims: Claims) -> bool:
        """Whether the access of a user who was admitted earlier has not been revoked or changed."""
        unrevoked = not self.revocations.covers(claims.gid, claims.lid)
        now = self.context.clock()
        return unrevoked and keeps_access(session, claims.sub, claims.role, claims.lid, now)

    async def grant(
        self, session: VDISession, *, user: str, groups: Iterable[str], role: Role, login_id: str
    ) -> tuple[Grant, str] | None:
        """A new grant, and its handle for the cookie; None: the login has ended.

        Ends the user's oldest grants in this session beyond MOST_GRANTS. Raises
        DatabaseUnavailableError.
        """
        mine = await self.store.open(session_uid=session.metadata.uid, user=user)
        await self.revoker.end_these(mine[: max(0, len(mine) + 1 - MOST_GRANTS)], "displaced")
        handle, now = secrets.token_urlsafe(32), self.context.clock()
        grant = Grant(
            id=secrets.token_urlsafe(16),
            session_uid=session.metadata.uid,
            user=user,
            groups=frozenset(groups),
            role=role,
            login_id=login_id,
            created=now,
            expires=now + self.context.settings.login_max,
        )
        await self.store.add(grant, hash_of(handle))
        if not await self.logins.is_live(login_id):
            # Signing out lists the grants of a login, then ends them. It may have listed them just
            # before this one was written, so whoever adds a grant looks at the login once more.
            await self.revoker.end_these([grant], "login-over")
            return None
        self.active.put(grant)
        self.context.metrics.grants.labels(str(role), "made").inc()
        return grant, handle

    def send_token(self, response: Response, grant: Grant) -> None:
        """Give the browser a token of this grant."""
        self.renew_cookie(response, self._tokens.mint(grant))

    def renew_cookie(self, response: Response, token: str) -> None:
        """Give the browser this token, unless it is empty: the browser has a good one."""
        if token:
            response.raw_headers.append(desktop_cookie(token, self.context.settings.token_seconds))

    async def grant_of(self, session: VDISession, cookie_header: str) -> Grant | None:
        """The grant whose handle the browser has, if the grant holds. Raises
        DatabaseUnavailableError.
        """
        return await self._grant_by(session, cookies_in(cookie_header).get(GRANT_COOKIE, ""))

    async def _grant_by(self, session: VDISession, handle: str) -> Grant | None:
        if not handle or len(handle) > LONGEST_HANDLE:
            return None
        grant = await self.store.by_handle(hash_of(handle))
        now = self.context.clock()
        holds = (
            grant is not None
            and grant.ended is None
            and now < grant.expires
            and grant.session_uid == session.metadata.uid
            and not self.revocations.covers(grant.id, grant.login_id)
            and keeps_access(session, grant.user, grant.role, grant.login_id, now)
        )
        return grant if holds else None

    async def _good_claims(self, session: VDISession, token: str, now: datetime) -> Claims | None:
        if not token:
            return None
        try:
            claims = await self._read(token, now)
        except TokenError as error:
            log.info("a token for session %s was refused: %s", session.metadata.name, error)
            return None
        # A token whose grant is not known to be active does not count: a replica whose clock is
        # ahead issues tokens that last longer here than their revocation is remembered. Then the
        # grant's handle decides, in the database.
        good = (
            claims.aud == session.metadata.uid
            and self._tokens.holds(claims, now.timestamp())
            and claims.gid in self.active
            and not self.revocations.covers(claims.gid, claims.lid)
            and keeps_access(session, claims.sub, claims.role, claims.lid, now)
        )
        return claims if good else None

    async def _read(self, token: str, now: datetime) -> Claims:
        try:
            return self._tokens.read(token)
        except UnknownKeyError:
            if self._keys_asked is not None and now - self._keys_asked < KEYS_PAUSE:
                raise
            self._keys_asked = now
            await self.ring.refresh()
            return self._tokens.read(token)

    async def _renew_in_time(self, session: VDISession, handle: str) -> Admitted | None:
        try:
            async with asyncio.timeout(ENTRY_SECONDS):
                return await self._renew(session, handle)
        except TimeoutError as error:
            raise DatabaseUnavailableError(
                f"the database does not respond within {ENTRY_SECONDS:g} s"
            ) from error

    async def _renew(self, session: VDISession, handle: str) -> Admitted | None:
        grant = await self._grant_by(session, handle)
        if grant is None or not await self.logins.touch(grant.login_id):
            return None
        self.active.put(grant)  # another replica may have made the grant just now
        token = self._tokens.mint(grant)
        return Admitted(session, self._tokens.read(token), token)
