"""Desktops that their users want to be ready at a time: kept, and started a little before it, by one replica at a time.

    due and claimed -> who is the user, by the last login? -> resume or start, as the user would -> next time

A start that a killed replica has begun is done again by another one. Each step finds what is there already, and a
desktop that has run since is not started again: it was started and its user has ended it.
"""

import asyncio
import logging
import re
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import uuid4

import msgspec

from vdi.gateway.actions import Actions
from vdi.gateway.component import Component
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied, FieldProblem
from vdi.gateway.history.component import History
from vdi.gateway.login.local import LocalUsers, UsersUnavailableError
from vdi.gateway.login.logins import LOCAL
from vdi.gateway.rights import may_use
from vdi.gateway.starting import generated_names
from vdi.gateway.store.audit import Act, Audit
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.store.logins import LoginStore
from vdi.gateway.store.scheduled_starts import ScheduledStart, ScheduledStartStore
from vdi.gateway.users import User, same_user
from vdi.session.request import SessionRequest, generate_name
from vdi.session.schedule import is_time_zone, next_time, previous_time

log = logging.getLogger(__name__)

DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
TIME = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
"""A time of day, HH:MM."""
LEAD = timedelta(minutes=5)
"""How long before its time a desktop is started: images are pulled, and people log in early."""
LATE = timedelta(minutes=30)
"""How long after its time a desktop is still started; later no one waits for it, and it counts as missed."""
CLAIM = timedelta(minutes=2)
"""How long one replica has for one start. It is longer than a start of a user with limits may wait for another one."""
MOST = 20
"""Scheduled starts of one user."""
_PERIOD_SECONDS = 10.0
_AT_ONCE = 8
"""Starts that are done side by side: at 8:30 there are many."""


class Result(StrEnum):
    """Values of `lastResult`."""

    STARTED = "Started"
    RESUMED = "Resumed"
    RUNNING = "Running"
    ENDED = "Ended"
    MISSED = "Missed"
    LOGIN_NEEDED = "LoginNeeded"


class ScheduledStarts(Component):
    """What users schedule, and the work when it is due."""

    def __init__(
        self, context: GatewayContext, *, actions: Actions, history: History, audit: Audit, local: LocalUsers
    ) -> None:
        self._cluster = context.cluster
        self._clock = context.clock
        self._store = ScheduledStartStore(context.database)
        self._logins = LoginStore(context.database)
        self._actions = actions
        self._history = history
        self._audit = audit
        self._local = local

    async def of(self, user: User) -> list[ScheduledStart]:
        """Those of this user, the oldest first. Raises DatabaseUnavailableError."""
        return await self._store.of(user.email)

    async def add(
        self, user: User, *, template: str, time: str, days: tuple[str, ...], time_zone: str, session: str = ""
    ) -> ScheduledStart:
        """Schedule a start of one's own. Raises ActionDenied and DatabaseUnavailableError."""
        known = self._cluster.template(template)
        if known is None or not may_use(known, user):
            problem = FieldProblem("template", "a template that you can start", template)
            raise ActionDenied("NotFound", f"template: there is no template {template!r} that you can start.", problem)
        now, chosen = self._clock(), tuple(day for day in DAYS if day in days)
        if not re.fullmatch(TIME, time):
            raise _invalid("time", f"{time!r} is not a time of day", "00:00 to 23:59", time)
        if not chosen:
            raise _invalid("days", "no day of the week is chosen", "one or more", days)
        due = next_time(_cron(time, chosen), time_zone, now) if is_time_zone(time_zone) else None
        if due is None:
            allowed = "a time zone, such as Europe/Berlin"
            raise _invalid("timeZone", f"{time_zone!r} is not a known time zone", allowed, time_zone)
        start = ScheduledStart(
            id=uuid4().hex,
            owner=user.email,
            template=template,
            session=session or generate_name(user.email, template),
            time=time,
            days=chosen,
            time_zone=time_zone,
            created=now,
            next_time=due,
        )
        start = self._with_own_name(start)
        detail = {"template": template, "time": time, "days": ",".join(chosen), "timeZone": time_zone}
        act = Act(actor=user.email, action="schedule.create", target=start.session, owner=user.email, detail=detail)
        async with self._audit.act(act, closed=False):
            if not await self._store.add(start, MOST):
                raise ActionDenied("OverLimit", f"You already have {MOST} scheduled starts. Delete one first.")
        return start

    async def delete(self, user: User, start_id: str) -> None:
        """Remove one of one's own. Raises ActionDenied and DatabaseUnavailableError."""
        act = Act(actor=user.email, action="schedule.delete", target=start_id, owner=user.email)
        async with self._audit.act(act, closed=False):
            if not await self._store.delete(start_id, user.email):
                raise ActionDenied("NotFound", f"You have no scheduled start {start_id!r}.")

    async def run(self) -> None:
        """Start what is due, until cancelled. A database that is down is waited for."""
        reported = ""
        while True:
            try:
                await self.start_due()
                reported = ""
            except (DatabaseUnavailableError, UsersUnavailableError) as error:
                if str(error) != reported:
                    reported = str(error)
                    log.warning("scheduled starts wait: %s", error)
            await asyncio.sleep(_PERIOD_SECONDS)

    async def start_due(self) -> None:
        """Once: do what is due and no other replica does. Raises DatabaseUnavailableError and UsersUnavailableError."""
        now = self._clock()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one_at_most(start: ScheduledStart) -> None:
            async with slots:
                await self._do(start)

        results = await asyncio.gather(
            *(one_at_most(start) for start in await self._store.due(now + LEAD, now)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _do(self, start: ScheduledStart) -> None:
        now = self._clock()
        if not await self._store.claim(start, now, now + CLAIM):
            return
        start = self._with_own_name(start)
        cron = _cron(start.time, start.days)
        # The gateway may have been away for longer than from one time to the next.
        time = max(start.next_time, previous_time(cron, start.time_zone, now + LEAD) or start.next_time)
        following = next_time(cron, start.time_zone, time)
        try:
            result, message = await self._start(start, time, now)
        except ActionDenied as why:
            if why.code == "Unavailable" and now <= time + LATE:
                return  # another try when the claim is over
            result, message = why.code, why.sentence
        log.info("scheduled start of %s for %s: %s", start.session, start.owner, result)
        if following is None:
            raise ValueError(f"{cron!r} in {start.time_zone}: there is no time after {time}")
        await self._store.finish(start, time=time, next_time=following, result=result, message=message)

    async def _start(self, start: ScheduledStart, time: datetime, now: datetime) -> tuple[str, str]:
        """Result and message. Raises ActionDenied."""
        if now > time + LATE:
            minutes = LATE // timedelta(minutes=1)
            return Result.MISSED, f"The portal was not available until {minutes} minutes after the scheduled time."
        user = await self._user(start.owner, now)
        if user is None:
            return Result.LOGIN_NEEDED, "You have not signed in recently. Sign in before the next start."
        session = self._cluster.session(start.session)
        mine = session if session is not None and same_user(session.spec.user, start.owner) else None
        if mine and mine.metadata.deletion_timestamp:
            raise ActionDenied("Unavailable", f"Your desktop {start.session!r} was still ending.")
        if mine and not mine.spec.suspended:
            return Result.RUNNING, ""
        if await self._has_run(start, time - LEAD):
            return Result.ENDED, "The desktop was started for this time, and has been ended or suspended since then."
        if mine:
            await self._actions.resume(user, start.session)
            return Result.RESUMED, ""
        try:
            await self._actions.start(user, SessionRequest(user.email, start.template, name=start.session))
        except ActionDenied as why:
            if why.code == "Conflict" and _has_generated_name(start):
                # Another user's desktop has just taken the name: there is time to start under the next one.
                raise ActionDenied("Unavailable", why.sentence) from why
            raise
        return Result.STARTED, ""

    def _with_own_name(self, start: ScheduledStart) -> ScheduledStart:
        """The start under another generated name where somebody else has its own; a name that was chosen stays.

        alice@a.example and alice@b.example are given the same one.
        """
        if _has_generated_name(start):
            for name in (start.session, *generated_names(start.owner, start.template)):
                there = self._cluster.session(name)
                if there is None or (same_user(there.spec.user, start.owner) and there.spec.template == start.template):
                    return msgspec.structs.replace(start, session=name)
        return start

    async def _has_run(self, start: ScheduledStart, since: datetime) -> bool:
        """Whether the desktop was started or resumed since then, also by a replica that was killed afterwards."""
        for past in await self._history.past(limit=1, user=start.owner, name=start.session):
            return past.session.created >= since or any(run.start >= since for run in past.runs)
        return False

    async def _user(self, email: str, now: datetime) -> User | None:
        """The user with the groups of the last login that is known; None: no login is known, or the user was removed.

        Never an administrator: no one is there who could have proven it.
        """
        last = await self._logins.last_of(email, now)
        if last is None:
            return None
        groups = last.groups
        if last.source == LOCAL:
            identity = (await self._local.identities()).get(email)
            if identity is None:
                return None
            groups = identity.groups
        return User(email, last.name, groups)


def _has_generated_name(start: ScheduledStart) -> bool:
    return start.session in generated_names(start.owner, start.template)


def _invalid(field: str, problem: str, allowed: str, value: object) -> ActionDenied:
    return ActionDenied("Invalid", f"{field}: {problem}; allowed: {allowed}.", FieldProblem(field, allowed, value))


def _cron(time: str, days: tuple[str, ...]) -> str:
    hour, _, minute = time.partition(":")
    return f"{int(minute)} {int(hour)} * * {','.join(days)}"
