"""Whether a request to a desktop's host comes from somebody who may enter: the one place where that is decided.

The good token is the common case, and asks memory alone: claims (remembered), the session of this host (watched), what
was revoked (published), and the role in the session as it is now. A token that is half over, or none, leads to the
database: a grant that still holds, of a login that still holds, gives the next token. So does a token whose grant
this replica does not know to hold: a token of a replica whose clock is ahead lasts longer here than its revocation is
remembered.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from vdi.api.session import Role, VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE
from vdi.gateway.edge.revocation import ActiveGrants, Revocations, Revoker
from vdi.gateway.edge.tokens import Claims, KeyRing, TokenError, Tokens, UnknownKeyError
from vdi.gateway.login.logins import Logins
from vdi.gateway.rights import role_in
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.grants import Grant, GrantStore
from vdi.gateway.web.credentials import cookies_in

log = logging.getLogger(__name__)

LONGEST_HANDLE = 100
# Open grants of one user in one session, one for each browser. A desktop refuses a token table of more than 1 MiB;
# without a limit, one guest could make it so large that no one is cut off and no one gets in.
MOST_GRANTS = 20

# Between two searches for an unknown key that a token names.
KEYS_PAUSE = timedelta(seconds=5)
DATABASE_SECONDS = 1.0
# Who has no token that holds waits longer; Traefik waits 30 s for an answer, and its own has no reason in it.
ENTRY_SECONDS = 5.0
# A token that still holds is not made to wait for a database that has just not answered.
DATABASE_PAUSE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody who may enter."""

    session: VDISession
    claims: Claims
    # A new one, for the browser to take; empty: it has a good one.
    token: str = ""


class Authorizer:
    """Decides. Touched only from the event loop's thread."""

    def __init__(
        self,
        context: GatewayContext,
        *,
        ring: KeyRing,
        store: GrantStore,
        logins: Logins,
        active: ActiveGrants,
        revocations: Revocations,
        revoker: Revoker,
    ) -> None:
        settings = context.settings
        self._context = context
        self._tokens = Tokens(ring, settings.portal_url, settings.token_seconds, context.clock)
        self._ring = ring
        self._store = store
        self._logins = logins
        self._active = active
        self._revocations = revocations
        self._revoker = revoker
        self._clock = context.clock
        self._keys_asked: datetime | None = None
        self._database_failed: datetime | None = None

    async def admit(self, session: VDISession, cookie_header: str) -> Admitted | None:
        """Who comes with these cookies, if they may enter this session's desktop.

        Raises DatabaseUnavailableError where only the database can tell.
        """
        cookies = cookies_in(cookie_header)
        now = self._clock()
        claims = await self._good_claims(session, cookies.get(DESKTOP_COOKIE, ""), now)
        if claims is not None and not self._tokens.is_half_over(claims, now.timestamp()):
            return Admitted(session, claims)
        handle = cookies.get(GRANT_COOKIE, "")
        if claims is None:
            return await self._renew_in_time(session, handle) if handle else None
        if not handle or (self._database_failed and now - self._database_failed < DATABASE_PAUSE):
            return Admitted(session, claims)
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                return await self._renew(session, handle)
        except (DatabaseUnavailableError, TimeoutError) as error:
            self._database_failed = now
            log.warning("tokens are not renewed, and hold until they are over: %s", error or "no answer in time")
            return Admitted(session, claims)

    async def grant(
        self, session: VDISession, *, user: str, groups: Iterable[str], role: Role, login_id: str
    ) -> tuple[Grant, str] | None:
        """A new grant with its handle, for the cookie; None: the login has ended.

        Ends the user's oldest grants in this session if there would be too many. Raises DatabaseUnavailableError.
        """
        mine = await self._store.open(session_uid=session.metadata.uid, user=user)
        await self._revoker.end_these(mine[: max(0, len(mine) + 1 - MOST_GRANTS)], "displaced")
        handle, now = secrets.token_urlsafe(32), self._clock()
        grant = Grant(
            id=secrets.token_urlsafe(16),
            session_uid=session.metadata.uid,
            user=user,
            groups=frozenset(groups),
            role=role,
            login_id=login_id,
            created=now,
            expires=now + self._context.settings.login_max,
        )
        await self._store.add(grant, handle_hash(handle))
        if not await self._logins.is_live(login_id):
            # Whoever ended it meanwhile may have looked for its grants before this one was there.
            await self._revoker.end_these([grant], "login-over")
            return None
        self._active.put(grant)
        self._context.metrics.grants.labels(str(role), "made").inc()
        return grant, handle

    def mint(self, grant: Grant) -> str:
        """A token of this grant, for the cookie."""
        return self._tokens.mint(grant)

    async def grant_of(self, session: VDISession, cookie_header: str) -> Grant | None:
        """The grant that the browser has the handle of, if it holds here and now. Raises DatabaseUnavailableError."""
        return await self._grant_by(session, cookies_in(cookie_header).get(GRANT_COOKIE, ""))

    async def _grant_by(self, session: VDISession, handle: str) -> Grant | None:
        if not handle or len(handle) > LONGEST_HANDLE:
            return None
        grant = await self._store.by_handle(handle_hash(handle))
        now = self._clock()
        holds = (
            grant is not None
            and grant.ended is None
            and now < grant.expires
            and grant.session_uid == session.metadata.uid
            and not self._revocations.hits(grant)
            and role_in(session, grant.user, now) is grant.role
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
        good = (
            claims.aud == session.metadata.uid
            and self._tokens.holds(claims, now.timestamp())
            and self._active.has(claims.gid)
            and not self._revocations.hit(claims)
            and role_in(session, claims.sub, now) is claims.role
        )
        return claims if good else None

    async def _read(self, token: str, now: datetime) -> Claims:
        try:
            return self._tokens.read(token)
        except UnknownKeyError:
            if self._keys_asked is not None and now - self._keys_asked < KEYS_PAUSE:
                raise
            self._keys_asked = now
            await self._ring.refresh()
            return self._tokens.read(token)

    async def _renew_in_time(self, session: VDISession, handle: str) -> Admitted | None:
        try:
            async with asyncio.timeout(ENTRY_SECONDS):
                return await self._renew(session, handle)
        except TimeoutError as error:
            raise DatabaseUnavailableError(f"the database does not respond within {ENTRY_SECONDS:g} s") from error

    async def _renew(self, session: VDISession, handle: str) -> Admitted | None:
        grant = await self._grant_by(session, handle)
        if grant is None or not await self._logins.touch(grant.login_id):
            return None
        self._active.put(grant)  # another replica may have made it just now
        token = self._tokens.mint(grant)
        return Admitted(session, self._tokens.read(token), token)


def handle_hash(handle: str) -> str:
    """What is stored of a grant's handle."""
    return hashlib.sha256(handle.encode()).hexdigest()
