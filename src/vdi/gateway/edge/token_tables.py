"""Selkies' token tables: posted when who may be connected has changed, when a desktop has just become ready, and at
each WebSocket handshake. A table replaces the one before it: who is connected without being in it is cut off.

One post per session at a time. A post that fails is repeated for as long as the session should run: somebody's picture
may depend on it.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus

from vdi.api.session import Phase, VDISession
from vdi.gateway.addresses import NO_AUTHORITIES
from vdi.gateway.component import GatewayContext
from vdi.gateway.desktop_agent import DesktopKey, DesktopKeyError
from vdi.gateway.edge.revocation import ActiveGrants, Revocations
from vdi.gateway.edge.selkies import token_table
from vdi.gateway.rights import role_in
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.store.grants import Grant, GrantStore
from vdi.http_client import HTTP_ERRORS, HttpClient, open_client, reason_of
from vdi.session.credentials import direct_table
from vdi.session.streaming import takes_tokens

log = logging.getLogger(__name__)

ANSWER_SECONDS = 3.0
# Longer is not waited for: then what this replica remembers goes out.
DATABASE_SECONDS = 1.0

CLOSING_SECONDS = 1.0
# Seconds between tries; the last one is repeated.
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
# A desktop that has been Running for so long without taking a table counts as one that takes none. Tables are taken
# within a second of the start, and each of `PAUSES` has passed by then.
REFUSED_AFTER = timedelta(seconds=10)


class PostError(Exception):
    """Raised when a desktop has not taken its table; says why."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """The last table that a desktop has confirmed to this replica."""

    # Which request for a table it answers.
    number: int
    desktop: tuple[str, ...]
    grants: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Failing:
    """A desktop that is Running and has not taken its table."""

    desktop: tuple[str, ...]
    since: datetime


class TokenTablePublisher:
    """Posts tables. `address` gives the URL of a session's Selkies, without a slash at its end."""

    def __init__(
        self,
        context: GatewayContext,
        *,
        store: GrantStore,
        key: DesktopKey,
        active: ActiveGrants,
        revocations: Revocations,
        address: Callable[[VDISession], str],
    ) -> None:
        self._cluster = context.cluster
        self._clock = context.clock
        self._store = store
        self._key = key
        self._active = active
        self._revocations = revocations
        self._address = address
        # By session, from when a table is asked for until it is taken: the task, and the number of the last asking.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, int] = {}
        # By session, for as long as it exists.
        self._taken: dict[str, _Taken] = {}
        self._failing: dict[str, _Failing] = {}
        self._count = 0
        self._closing = False
        self._news = asyncio.Event()  # set and replaced whenever a table was requested or taken

    def touch(self, uid: str) -> None:
        """Who may be connected to this session may have changed: post its table, soon, until it is taken."""
        self._count += 1
        self._asked[uid] = self._count
        if uid not in self._tasks:
            self._tasks[uid] = asyncio.get_running_loop().create_task(self._work(uid), name=f"token table of {uid}")
        self._tell()

    async def posted(self, uid: str, seconds: float) -> frozenset[str]:
        """Post the table now, and wait until the desktop has taken it; not longer than this.

        Returns the ids of the grants in it; none if the desktop has not taken it.
        """
        self.touch(uid)
        number = self._asked[uid]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while uid in self._tasks and not self._is_answered(uid, number):
                    await self._news.wait()
        return self._taken[uid].grants if self._is_answered(uid, number) else frozenset()

    def has_taken(self, session: VDISession, grant_id: str) -> bool:
        """Whether this desktop, not the one before a restart, has confirmed a table with this grant to this replica."""
        taken = self._taken.get(session.metadata.uid)
        return taken is not None and taken.desktop == desktop_of(session) and grant_id in taken.grants

    def is_refused(self, session: VDISession) -> bool:
        """Whether this desktop has taken no table for so long that its viewers should read why they see nothing."""
        failing = self._failing.get(session.metadata.uid)
        return (
            failing is not None
            and failing.desktop == desktop_of(session)
            and self._clock() - failing.since >= REFUSED_AFTER
        )

    def forget(self, uid: str) -> None:
        """This session has ended."""
        self._taken.pop(uid, None)
        self._failing.pop(uid, None)

    def _is_answered(self, uid: str, number: int) -> bool:
        taken = self._taken.get(uid)
        return taken is not None and taken.number >= number

    async def close(self) -> None:
        """Stop all work; what is under way may end, but not for long."""
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
            while not self._closing and (session := self._cluster.by_uid(uid)) is not None and self._wants(session):
                number = self._asked[uid]
                try:
                    grants = await self._post(session)
                except PostError as error:
                    self._note_failure(session)
                    late = tries >= len(PAUSES) and session.status.phase == Phase.RUNNING
                    level = logging.WARNING if late and tries % 60 == len(PAUSES) else logging.DEBUG
                    log.log(level, "session %s has not taken its token table: %s", session.metadata.name, error)
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
            if self._cluster.by_uid(uid) is None:
                self.forget(uid)
            self._tell()

    def _note_failure(self, session: VDISession) -> None:
        uid, desktop = session.metadata.uid, desktop_of(session)
        failing = self._failing.get(uid)
        if session.status.phase == Phase.RUNNING and (failing is None or failing.desktop != desktop):
            self._failing[uid] = _Failing(desktop, self._clock())

    def _wants(self, session: VDISession) -> bool:
        """Whether there is, or may soon be, a desktop that takes a table."""
        template = self._cluster.template(session.spec.template)
        return should_run(session) and (template is None or takes_tokens(template.spec))

    async def _pause(self, uid: str, seconds: float) -> None:
        """Between two tries; over when the table is asked for again, since then there may be a new desktop."""
        number = self._asked[uid]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._asked[uid] == number and not self._closing:
                    await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _post(self, session: VDISession) -> frozenset[str]:
        """One try. Returns the ids of the grants that the desktop has confirmed. Raises PostError."""
        try:
            master = (await self._key.tokens(session)).password
        except DesktopKeyError as error:
            raise PostError(str(error)) from error
        grants = await self._holding(session)
        table = token_table(master, grants) | direct_table(master)
        url, headers = f"{self._address(session)}/api/tokens", {"Authorization": f"Bearer {master}"}
        try:
            async with (
                asyncio.timeout(ANSWER_SECONDS),
                _client(url) as http,
                http.stream("POST", url, json=table, headers=headers) as answer,
            ):
                status = answer.status
        except HTTP_ERRORS as error:
            raise PostError(f"{type(error).__name__}: {reason_of(error)}") from error
        if status == HTTPStatus.UNAUTHORIZED:
            self._key.reread()  # perhaps there is another key
        if status != HTTPStatus.OK:
            raise PostError(f"it responds with {status}")
        return frozenset(grant.id for grant in grants)

    async def _holding(self, session: VDISession) -> list[Grant]:
        uid = session.metadata.uid
        try:
            async with asyncio.timeout(DATABASE_SECONDS):
                grants = await self._store.open(session_uid=uid)
        except (DatabaseUnavailableError, TimeoutError):
            grants = self._active.find(session_uid=uid)
        now = self._clock()
        return [
            grant
            for grant in grants
            if not self._revocations.hits(grant)
            and grant.expires > now
            and role_in(session, grant.user, now) is grant.role
        ]


def _client(url: str) -> HttpClient:
    """For one post. A pool that all posts share looks through all of its connections at each step of each of them: when
    many desktops do not answer, that takes the whole core from those who come in.

    No proxy of the environment, no redirects: a desktop's answer is untrusted input.
    """
    return open_client(url, seconds=ANSWER_SECONDS, tls=NO_AUTHORITIES, use_proxy=False)


def should_run(session: VDISession) -> bool:
    """Whether there is, or may soon be, a desktop to speak to. One that is being suspended still shows its picture."""
    return session.status.phase in (Phase.CREATING, Phase.RUNNING)


def desktop_of(session: VDISession) -> tuple[str, ...]:
    """What identifies the desktop of a session: another one after a restart, and elsewhere."""
    status = session.status
    return status.phase, status.pod_name, status.pod_ip, status.ready_time
