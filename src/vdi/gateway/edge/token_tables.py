"""Posts of Selkies' token tables: who may be connected to a desktop, and as what.

A table is posted when access to a session changes, when its desktop has just become ready, and at
each WebSocket handshake. It replaces the one before: Selkies disconnects everyone who is not in it.
One post per session at a time. A post that fails is repeated for as long as the session should run,
since somebody's picture may have to end with it.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus

from vdi.api.session import Phase, VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop.active_grants import ActiveGrants
from vdi.gateway.desktop.agent import NO_AUTHORITIES, DesktopKey, DesktopKeyError, desktop_url
from vdi.gateway.edge.revocation import Revocations
from vdi.gateway.edge.selkies import token_table
from vdi.gateway.rights import keeps_access
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.logins import Grant, GrantStore
from vdi.http_client import HTTP_ERRORS, open_client, reason_of
from vdi.session.credentials import direct_table
from vdi.session.recording import refuse_picture
from vdi.session.template_image import takes_tokens

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
# After this time without a response from the database, the grants in this replica's memory are
# posted.
DATABASE_SECONDS = 1.0
CLOSING_SECONDS = 1.0
# Seconds between tries; the last one is repeated.
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
# A desktop that has been Running for so long without taking a table counts as one that takes none.
# A table is usually taken within a second of the start, and each of PAUSES has passed by then.
REFUSED_AFTER = timedelta(seconds=10)


class PostError(Exception):
    """Raised when a desktop has not taken its table; says why."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """The last table that a desktop has confirmed to this replica; `number` is that of the request
    for it.
    """

    number: int
    desktop: tuple[str, ...]
    grants: frozenset[str]


@dataclass(eq=False, kw_only=True)
class TokenTablePublisher:
    """Posts tables. `address`: base URL of a session's Selkies, for tests; None: its pod's."""

    context: GatewayContext
    store: GrantStore
    key: DesktopKey
    active: ActiveGrants
    revocations: Revocations
    address: Callable[[VDISession], str] | None = None
    # By session uid, from the request for a table until it is taken: the task, and the number of
    # the last request.
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict, init=False)
    _asked: dict[str, int] = field(default_factory=dict, init=False)
    # By session uid, for as long as the session exists: the last table, and a desktop that is
    # Running but has not taken its table, with the time since when.
    _taken: dict[str, _Taken] = field(default_factory=dict, init=False)
    _failing: dict[str, tuple[tuple[str, ...], datetime]] = field(default_factory=dict, init=False)
    _count: int = field(default=0, init=False)
    _closing: bool = field(default=False, init=False)
    # Set and replaced whenever a table was requested or taken.
    _news: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def touch(self, uid: str) -> None:
        """Post this session's table soon, and again until it is taken: access may have changed."""
        self._count += 1
        self._asked[uid] = self._count
        if uid not in self._tasks:
            self._tasks[uid] = asyncio.get_running_loop().create_task(
                self._work(uid), name=f"token table of {uid}"
            )
        self._tell()

    async def posted(self, uid: str, seconds: float) -> frozenset[str]:
        """Post the table and wait at most so long for the desktop to take it; returns the ids of
        the grants in it.
        """
        self.touch(uid)
        number = self._asked[uid]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while uid in self._tasks and not self._is_answered(uid, number):
                    await self._news.wait()
        if self._is_answered(uid, number):
            return self._taken[uid].grants
        return frozenset()

    def has_taken(self, session: VDISession, grant_id: str) -> bool:
        """Whether this desktop, not its predecessor, has confirmed a table with this grant to this
        replica.
        """
        taken = self._taken.get(session.metadata.uid)
        return (
            taken is not None and taken.desktop == desktop_of(session) and grant_id in taken.grants
        )

    def is_refused(self, session: VDISession) -> bool:
        """Whether this desktop has taken no table for so long that its viewers should read why they
        see nothing.
        """
        desktop, since = self._failing.get(session.metadata.uid, ((), self.context.clock()))
        return desktop == desktop_of(session) and self.context.clock() - since >= REFUSED_AFTER

    def forget(self, uid: str) -> None:
        """Drop what is known of a session that has ended."""
        self._taken.pop(uid, None)
        self._failing.pop(uid, None)

    def _is_answered(self, uid: str, number: int) -> bool:
        taken = self._taken.get(uid)
        return taken is not None and taken.number >= number

    async def close(self) -> None:
        """Stop all work; posts under way get CLOSING_SECONDS."""
        self._closing = True
        self._tell()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=CLOSING_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _work(self, uid: str) -> None:
        try:
            tries = 0
            while (
                not self._closing
                and (session := self.context.cluster.by_uid(uid)) is not None
                and self._wants(session)
            ):
                number = self._asked[uid]
                try:
                    grants = await self._post(session)
                except PostError as error:
                    self._note_failure(session)
                    late = tries >= len(PAUSES) and session.status.phase == Phase.RUNNING
                    if late and tries % 60 == len(PAUSES):
                        level = logging.WARNING
                    else:
                        level = logging.DEBUG
                    log.log(
                        level,
                        "session %s has not taken its token table: %s",
                        session.metadata.name,
                        error,
                    )
                    await self._pause(uid, PAUSES[min(tries, len(PAUSES) - 1)])
                    tries += 1
                    continue
                self._taken[uid] = _Taken(number, desktop_of(session), grants)
                self._failing.pop(uid, None)
                self._tell()
                if self._asked[uid] == number:
                    break
        finally:
            self._tasks.pop(uid, None)
            self._asked.pop(uid, None)
            if self.context.cluster.by_uid(uid) is None:
                self.forget(uid)
            self._tell()

    def _note_failure(self, session: VDISession) -> None:
        uid, desktop = session.metadata.uid, desktop_of(session)
        if session.status.phase == Phase.RUNNING and self._failing.get(uid, ((),))[0] != desktop:
            self._failing[uid] = desktop, self.context.clock()

    def _wants(self, session: VDISession) -> bool:
        """Whether there is, or may soon be, a desktop that takes a table; a desktop being suspended
        shows a picture.
        """
        template = self.context.cluster.template(session.spec.template)
        runs = session.status.phase in (Phase.CREATING, Phase.RUNNING)
        return runs and (template is None or takes_tokens(template.spec))

    def selkies_url(self, session: VDISession) -> str:
        """Base URL of the session's Selkies."""
        if self.address:
            return self.address(session)
        template = self.context.cluster.template(session.spec.template)
        return desktop_url(session, template.spec.port if template else 8080)

    async def _pause(self, uid: str, seconds: float) -> None:
        """Wait between two tries. A new request for the table ends the wait: there may be a new
        desktop by then.
        """
        number = self._asked[uid]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._asked[uid] == number and not self._closing:
                    await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _post(self, session: VDISession) -> frozenset[str]:
        """Try once; returns the ids of the grants that the desktop has confirmed. Raises
        PostError.
        """
        try:
            master = (await self.key.tokens(session)).password
        except DesktopKeyError as error:
            raise PostError(str(error)) from error
        grants = await self.holding(session)
        table = token_table(master, grants) | (
            {} if refuse_picture(session) else direct_table(master)
        )
        url = f"{self.selkies_url(session)}/api/tokens"
        headers = {"Authorization": f"Bearer {master}"}
        try:
            # A client for each post. A pool that all posts share looks through all of its
            # connections at each step of each post: when many desktops do not respond, that takes
            # the whole core from the users who come in. No proxy of the environment and no
            # redirects: a desktop's response is untrusted input.
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                open_client(
                    url, seconds=ANSWER_SECONDS, tls=NO_AUTHORITIES, use_proxy=False
                ) as http,
                http.stream("POST", url, json=table, headers=headers) as answer,
            ):
                status = answer.status
        except HTTP_ERRORS as error:
            raise PostError(f"{type(error).__name__}: {reason_of(error)}") from error
        if status == HTTPStatus.UNAUTHORIZED:
            self.key.reread()  # the release may have a new key
        if status != HTTPStatus.OK:
            raise PostError(f"it responds with {status}")
        return frozenset(grant.id for grant in grants)

    async def holding(self, session: VDISession) -> list[Grant]:
        """The grants that hold now, from the database of all replicas, or from memory where it does
        not respond.

        None while no one may see the desktop.
        """
        uid = session.metadata.uid
        if refuse_picture(session):
            return []
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                grants = await self.store.open(session_uid=uid)
        except (DatabaseUnavailableError, TimeoutError):
            grants = self.active.find(session_uid=uid)
        now = self.context.clock()
        return [
            grant
            for grant in grants
            if not self.revocations.covers(grant.id, grant.login_id)
            and grant.expires > now
            and keeps_access(session, grant.user, grant.role, grant.login_id, now)
        ]


def desktop_of(session: VDISession) -> tuple[str, ...]:
    """The identity of a session's desktop: another one after a restart, and elsewhere."""
    status = session.status
    return status.phase, status.pod_name, status.pod_ip, status.ready_time
