"""The end of grants: in this replica's memory, in the other replicas, in the database, and on the
screen.

    end()  --> memory: the next verification refuses           (this replica, microseconds)
           --> SharedState.publish: the same in every replica  (milliseconds; who misses it sees it when it polls)
           --> database: `ended`                               (survives restarts)
           --> Selkies' token table: the picture stops         (`token_tables`)

A verification reads memory only. That memory is small: a token lives for minutes, and a new one
needs the database. A verification itself sees in the session that a share has ended; the sweep here
is for connections that are open.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from vdi.api.meta import find_condition
from vdi.api.session import VDISession
from vdi.cluster.units import parse_time
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop.active_grants import ActiveGrants
from vdi.gateway.edge.tokens import LEEWAY
from vdi.gateway.rights import TOKEN_ID, keeps_access, role_in
from vdi.gateway.store.history import find_names
from vdi.gateway.store.logins import Grant, GrantStore
from vdi.kinds import SESSIONS
from vdi.kube.errors import ConnectionFailed, KubeError, NotFound
from vdi.session.conditions import ADMITTED, Reason

log = logging.getLogger(__name__)

CHANNEL = "edge/ended"
# A poll looks back so far before now: the clocks of replicas differ.
OVERLAP = timedelta(seconds=60)

# The API server gets so long to respond about one session; after that the next sweep asks again.
API_SECONDS = 5.0
# Rows of ended grants stay for so long, to be looked up after an incident.
KEPT = timedelta(days=7)


class _Ended(msgspec.Struct):
    """A message on the channel: uid of the session by id of an ended grant, and ids of ended logins
    and API tokens.
    """

    grants: dict[str, str] = {}
    logins: list[str] = []


class Revocations:
    """Ended grants and logins, for as long as a token that was made before may still be valid.

    In memory for the life of the process; after a restart it is read from the database before
    anyone is let in. Used only from the event loop's thread.
    """

    def __init__(self, token_seconds: int, clock: Callable[[], datetime]) -> None:
        # Clocks of replicas may differ by LEEWAY in both directions.
        self._kept = token_seconds + 2 * LEEWAY
        self._clock = clock
        self._grants: dict[str, float] = {}
        self._logins: dict[str, float] = {}

    @property
    def kept(self) -> timedelta:
        """Time for which a revocation is remembered."""
        return timedelta(seconds=self._kept)

    def add(self, grants: Iterable[str] = (), logins: Iterable[str] = ()) -> None:
        now = self._clock().timestamp()
        self._grants.update(dict.fromkeys(grants, now))
        self._logins.update(dict.fromkeys(logins, now))

    def covers(self, grant_id: str, login_id: str) -> bool:
        """Whether a grant, or the login it was made with, is revoked."""
        return grant_id in self._grants or login_id in self._logins

    def __contains__(self, grant_id: str) -> bool:
        return grant_id in self._grants

    def forget_old(self) -> None:
        """Drop revocations that no token can need any longer."""
        limit = self._clock().timestamp() - self._kept
        self._grants = {key: at for key, at in self._grants.items() if at > limit}
        self._logins = {key: at for key, at in self._logins.items() if at > limit}


@dataclass(eq=False, kw_only=True)
class Revoker:
    """Ends grants everywhere. `touch` has a session's token table posted again."""

    context: GatewayContext
    store: GrantStore
    active: ActiveGrants
    revocations: Revocations
    touch: Callable[[str], None]
    # Whether the database has been read once. Before that, revocations are unknown, and no one is
    # let in.
    primed: bool = field(default=False, init=False)
    # Two sweeps at once would ask the API server for the same sessions.
    _sweeping: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def end(
        self,
        *,
        user: str | None = None,
        session_uid: str | None = None,
        login_id: str | None = None,
        created_until: datetime | None = None,
        over: Iterable[str] = (),
        reason: str = "logout",
    ) -> int:
        """End all grants of this user, this session and this login (None: any); returns how many.

        `over`: logins and API tokens that have ended; a grant that is just being made with one is
        refused too. Raises DatabaseUnavailableError when the end could not be written; until a
        restart the grants are over all the same.
        """
        if (user, session_uid, login_id) == (None, None, None):
            raise ValueError("no filter is set; allowed: user, session_uid and login_id")
        named = {"user": user, "session_uid": session_uid, "login_id": login_id}
        if login_id and user is None and session_uid is None:
            whole_login = [login_id]
        else:
            whole_login = []
        known = _made_until(self.active.find(**named), created_until)
        await self._revoke(known, [*whole_login, *over])
        stored = _made_until(await self.store.open(**named), created_until)
        ids = {grant.id for grant in known}
        await self._revoke([grant for grant in stored if grant.id not in ids], ())
        await self._write(stored, reason)
        return len(stored)

    async def end_these(self, grants: Collection[Grant], reason: str) -> None:
        """End these grants. Raises DatabaseUnavailableError, as `end` does."""
        await self._revoke([grant for grant in grants if grant.id not in self.revocations], ())
        await self._write(grants, reason)

    async def end_suspended(self, uid: str, seen: datetime) -> None:
        """End the grants from before this session's suspension; `seen`: when this replica saw it.

        Raises DatabaseUnavailableError, as `end` does.
        """
        session = self.context.cluster.by_uid(uid)
        if session is None:
            return  # the next sweep ends its grants
        try:
            session = await self._read_session(
                uid, session.metadata.namespace, session.metadata.name
            )
        except (KubeError, TimeoutError) as error:
            log.warning(
                "when session %s was suspended could not be read; it counts as just now: %s",
                uid,
                error,
            )
        # If the session was resumed meanwhile, every open grant is from after its suspension.
        if session is not None and session.spec.suspended:
            moment = min(seen, _suspended_by(session) or seen)
            await self.end(session_uid=uid, created_until=moment, reason="suspended")

    async def sweep(self, uids: Collection[str] | None = None) -> None:
        """End the grants in these sessions (None: in all) whose login, share or session has ended.

        Raises DatabaseUnavailableError; KubeError and TimeoutError when the API server did not
        respond.
        """
        if not self.context.cluster.synced:
            return
        async with self._sweeping:
            now = self.context.clock()
            expired: list[Grant] = []
            lost: dict[str, list[Grant]] = {}
            for grant in self.active.find():
                if uids is not None and grant.session_uid not in uids:
                    continue
                session = self.context.cluster.by_uid(grant.session_uid)
                if grant.expires <= now:
                    expired.append(grant)
                elif session is None or not self._has_access(session, grant):
                    lost.setdefault(grant.session_uid, []).append(grant)
            await self.end_these(expired, "login-over")
            await self._end_lost(lost)

    async def poll(self) -> None:
        """Read open and ended grants from the database. Raises DatabaseUnavailableError."""
        before = self.active.ids()
        back = OVERLAP if self.primed else self.revocations.kept
        ended = await self.store.ended_since(self.context.clock() - back)
        self._note_ended(
            {grant.id: grant.session_uid for grant in ended if grant.id not in self.revocations}
        )
        # A replica that ended a login may have failed to end its grants, and an API token expires
        # by itself.
        over = await self.store.open_of_ended_logins(self.context.clock(), TOKEN_ID)
        holding = [grant for grant in await self.store.open() if grant.id not in self.revocations]
        self.active.replace(holding, before)
        self.revocations.forget_old()
        if not self.primed:
            self.primed = True
            for uid in {grant.session_uid for grant in holding}:
                # A replica may have died between writing an end and posting the table.
                self.touch(uid)
        await self.end_these(over, "login-over")

    async def listen(self) -> None:
        """Follow what other replicas end, until cancelled. Raises OSError, and
        DatabaseUnavailableError.
        """
        async with self.context.shared.subscribe(CHANNEL) as messages:
            await self.poll()  # what was published before is in the database
            async for text in messages:
                try:
                    ended = msgspec.json.decode(text, type=_Ended)
                except msgspec.MsgspecError as error:
                    log.error("a message on %s cannot be read: %s", CHANNEL, error)
                    continue
                self._note_ended(ended.grants, ended.logins)

    async def forget_old(self) -> None:
        """Delete rows that ended KEPT ago. Raises DatabaseUnavailableError."""
        await self.store.forget_before(self.context.clock() - KEPT)

    async def _revoke(self, grants: Collection[Grant], logins: Collection[str]) -> None:
        if not grants and not logins:
            return
        ended = _Ended({grant.id: grant.session_uid for grant in grants}, list(logins))
        self.revocations.add(ended.grants, ended.logins)
        for uid in set(ended.grants.values()):
            self.touch(uid)
        try:
            await self.context.shared.publish(CHANNEL, msgspec.json.encode(ended).decode())
        except OSError as error:
            log.warning(
                "the other replicas hear of %d ended grants only when they poll: %s",
                len(grants),
                error,
            )

    async def _write(self, grants: Collection[Grant], reason: str) -> None:
        ended = await self.store.end([grant.id for grant in grants], self.context.clock(), reason)
        self.active.drop(grant.id for grant in grants)
        for grant in grants:
            if grant.id in ended:  # by this replica, not by another one that has seen the same
                self.context.metrics.grants.labels(str(grant.role), "ended").inc()
                log.info(
                    "grant of %s in session %s ended: %s", grant.user, grant.session_uid, reason
                )

    def _note_ended(self, grants: Mapping[str, str], logins: Iterable[str] = ()) -> None:
        """Another replica ended these grants (uid of the session by id) and logins."""
        self.revocations.add(grants, logins)
        self.active.drop(grants)
        for uid in set(grants.values()):
            self.touch(uid)

    async def _end_lost(self, lost: dict[str, list[Grant]]) -> None:
        """End those of these grants, by session, whose end the API server confirms. Raises as
        `sweep`.
        """
        # The database is that of all replicas, and this replica's watch may be behind. It refuses
        # by its own watch, but ends a grant for all only when the API server confirms it. Without a
        # response, only expired shares end.
        names = await self._names(lost)
        failure: KubeError | TimeoutError | None = None
        for uid, name in names.items():
            try:
                session = await self._read_session(uid, *name)
            except (KubeError, TimeoutError) as error:
                failure = error
                if isinstance(error, ConnectionFailed | TimeoutError):
                    break
                continue
            grants = lost.pop(uid)
            if session is None:
                await self.end_these(grants, "session-ended")
            else:
                over = [grant for grant in grants if not self._has_access(session, grant)]
                await self.end_these(over, "access-ended")
        if failure is not None:
            rest = [grant for grants in lost.values() for grant in grants]
            await self.end_these(
                [grant for grant in rest if self._has_run_out(grant)], "access-ended"
            )
            raise failure

    async def _names(self, uids: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Namespace and name of sessions by uid, from the history where this replica does not watch
        the session.
        """
        # Without either, grants stay until they expire or their login ends: no one enters a session
        # without a watch.
        watched = {uid: self.context.cluster.by_uid(uid) for uid in uids}
        names = {
            uid: (session.metadata.namespace, session.metadata.name)
            for uid, session in watched.items()
            if session
        }
        unknown = watched.keys() - names.keys()
        if unknown:
            async with self.context.database.connect() as connection:
                names |= await find_names(connection, unknown)
        return names

    async def _read_session(self, uid: str, namespace: str, name: str) -> VDISession | None:
        """The session of this uid from the API server; None: it is gone. Raises KubeError and
        TimeoutError.
        """
        try:
            async with asyncio.timeout(API_SECONDS):
                session = await self.context.client.get(
                    SESSIONS, name, namespace=namespace, into=VDISession
                )
        except NotFound:
            return None
        return session if session.metadata.uid == uid else None

    def _has_access(self, session: VDISession, grant: Grant) -> bool:
        now = self.context.clock()
        return keeps_access(session, grant.user, grant.role, grant.login_id, now)

    def _has_run_out(self, grant: Grant) -> bool:
        """Whether the session still has the share with which the grant was made, and only its time
        is over.
        """
        session = self.context.cluster.by_uid(grant.session_uid)
        return session is not None and role_in(session, grant.user, grant.created) is grant.role


def _suspended_by(session: VDISession) -> datetime | None:
    """The time at which the operator had seen the suspension, to the second; None: not yet."""
    admitted = find_condition(session.status.conditions, ADMITTED)
    if admitted is None or admitted.reason != Reason.SUSPENDED or not admitted.last_transition_time:
        return None
    return parse_time(admitted.last_transition_time) + timedelta(seconds=1)


def _made_until(grants: Iterable[Grant], moment: datetime | None) -> list[Grant]:
    return [grant for grant in grants if moment is None or grant.created <= moment]
