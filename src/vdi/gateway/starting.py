"""A new desktop: whether this person may have it, under which name, and the one write that makes it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_quantity
from vdi.gateway import limits
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, FieldProblem, name_not_available, refused_address, refused_by_cluster
from vdi.gateway.history.component import History
from vdi.gateway.history.usage import Month
from vdi.gateway.limits import Limit, Limits, MonthUse, home_bytes
from vdi.gateway.rights import AddressError, User, check_address, may_use, normal_user, same_user
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.kinds import SESSIONS
from vdi.kube.errors import AlreadyExists, Invalid
from vdi.session.conditions import Reason
from vdi.session.effective import Blocked, resolve
from vdi.session.homes import Home, find_new_home, home_names
from vdi.session.request import SessionRequest, build_session, generate_name

log = logging.getLogger(__name__)

# Generated names that are tried: alice@a.example and alice@b.example want the same one.
_NAMES = 20

# How often, and how many seconds apart, it is asked whether another start of the same person is over.
_TRIES, _PAUSE = 100, 0.1
# Seconds after which a replica that died within a person's start no longer keeps that person waiting.
_TURN = 20.0


class QuotaGuard:
    """Whether a person's limits leave room for one more run. Asked by start, resume and schedule."""

    def __init__(self, context: GatewayContext, limits: Limits, history: History) -> None:
        self._client = context.client
        self._cluster = context.cluster
        self._shared = context.shared
        self._clock = context.clock
        self._limits = limits
        self._history = history

    @asynccontextmanager
    async def for_one_more(self, user: User, session: VDISession) -> AsyncIterator[None]:
        """Within, this session may be made to run. Raises ActionDenied where the limits of `user` say no.

        A person's starts come one after the other, in all replicas, and each counts what the API server has, not what
        a watch has brought so far: two clicks at once are not one more than allowed.
        """
        limit = self._limits.of(user)
        if not limit.limits_anything:
            yield
            return
        async with self._turn(user.email):
            active = [
                other
                for namespace in self._cluster.settings.namespaces
                for other in await self._client.list(SESSIONS, namespace=namespace, into=VDISession)
                if same_user(other.spec.user, user.email) and limits.counts(other)
            ]
            new, *others = [
                (other.metadata.name, limits.gpus_of(other, self._cluster.template(other.spec.template)))
                for other in (session, *active)
            ]
            used = await self._month_use(user, limit)
            why = limits.refusal(limit, user, new, others, used) or self._home_refusal(limit, user, session, active)
            if why:
                raise ActionDenied("OverLimit", why)
            yield

    @asynccontextmanager
    async def for_schedule(self, user: User, session: VDISession) -> AsyncIterator[None]:
        """Within, this session may be given a schedule. Raises ActionDenied.

        The operator, which resumes it, knows no limits. So it counts from now on as one that runs, and hours, which it
        would use up without its user, must not be limited.
        """
        limit = self._limits.of(user)
        if limit.hours is not None or limit.gpu_hours is not None:
            words = "Your hours are limited, and a scheduled desktop would use them without you. Ask an administrator."
            raise ActionDenied("OverLimit", words)
        async with self.for_one_more(user, session):
            yield

    async def _month_use(self, user: User, limit: Limit) -> MonthUse:
        """While the database is down, hours are not counted, and starts go on."""
        now = self._clock()
        if limit.hours is not None or limit.gpu_hours is not None:
            try:
                return await self._history.use_this_month(user.email, now)
            except DatabaseUnavailableError as error:
                log.error("the hours of %s are not counted: %s", user.email, error)
        return MonthUse(0.0, 0.0, Month.of(now).end)

    def _home_refusal(self, limit: Limit, user: User, session: VDISession, active: Iterable[VDISession]) -> str | None:
        """A home of a session that was just started may not exist yet, and counts too."""
        if limit.home_storage is None or (new := self.new_home(session)) is None:
            return None
        homes = {home.name: home_bytes(home) for home in self._cluster.homes_of(user.email) if not home.deleted}
        for other in active:
            if home := self.new_home(other):
                homes.setdefault(home.claim, float(parse_quantity(home.size)))
        homes.pop(new.claim, None)  # another session that waits for the same home is no second home
        return limits.home_refusal(limit, new, homes)

    def new_home(self, session: VDISession) -> Home | None:
        """The home that this session would make; None: it has none, or one that exists."""
        namespace, template = session.metadata.namespace, self._cluster.template(session.spec.template)
        found = (self._cluster.homes.get(namespace, name) for name in (*home_names(session), session.status.home_claim))
        return find_new_home(session, template, filter(None, found)) if template else None

    @asynccontextmanager
    async def _turn(self, user: str) -> AsyncIterator[None]:
        key = f"start/{user}"
        try:
            await self._wait_for(key)
        except SharedUnavailableError as error:
            log.error("no one with limits can start a desktop: %s", error)
            raise ActionDenied(
                "Unavailable", "Your usage cannot be checked against your limits right now. Try again in a minute."
            ) from error
        try:
            yield
        finally:
            with suppress(SharedUnavailableError):  # it ends by itself
                await self._shared.pop(key)

    async def _wait_for(self, key: str) -> None:
        for _ in range(_TRIES):
            if await self._shared.take_once(key, _TURN):
                return
            await asyncio.sleep(_PAUSE)
        raise ActionDenied("Conflict", "Another desktop of yours is being started. Try again in a moment.")


@dataclass(frozen=True, slots=True)
class Start:
    """A start that rights and template allow, under a name that is free as far as is known."""

    # With its name.
    request: SessionRequest
    namespace: str
    template: VDITemplate
    session: VDISession
    # Of the user whose desktop it is; empty where they are not known.
    groups: frozenset[str]


class Starter:
    """Makes sessions: `plan` decides, `carry_out` writes."""

    def __init__(self, context: GatewayContext, quota: QuotaGuard) -> None:
        self._client = context.client
        self._cluster = context.cluster
        self._settings = context.settings
        self._quota = quota

    def plan(self, user: User, request: SessionRequest) -> Start:
        """What would be made. Raises ActionDenied."""
        email = normal_user(request.user)
        request = replace(request, user=email)
        if not same_user(email, user.email):
            if not user.admin:
                field = FieldProblem("user", user.email, email)
                raise ActionDenied("Forbidden", f"user: {email} is not you; allowed: {user.email}.", field)
            try:
                check_address(email)
            except AddressError as why:
                raise refused_address(why) from None
        if (request.priority or 0) > 0 and not user.admin:
            field = FieldProblem("priority", "0 or less", request.priority)
            words = f"priority: {request.priority} is for administrators; allowed: 0 or less."
            raise ActionDenied("Forbidden", words, field)
        template = self._template(user, request.template)
        named = replace(request, name=request.name or self._free_name(request))
        # Which groups another person is in is known only of that person's own login.
        groups = user.groups if same_user(email, user.email) else frozenset()
        namespace = self._settings.namespace_for(groups)
        session = msgspec.convert(build_session(named, namespace, template, groups), VDISession)
        if session.spec.hostname == self._settings.portal_label:
            raise ActionDenied(
                "Invalid", f"hostname: {self._settings.portal_label!r} is used by the portal. Choose another."
            )
        problem = resolve(session, template, self._settings.cluster)
        if isinstance(problem, Blocked):
            code = "OverLimit" if problem.reason == Reason.OVER_LIMIT else "Invalid"
            fields = (
                FieldProblem(error.field.removeprefix("spec."), error.allowed, error.value) for error in problem.errors
            )
            raise ActionDenied(code, problem.message, *fields)
        return Start(named, namespace, template, session, groups)

    async def carry_out(self, user: User, start: Start) -> VDISession:
        """Make the session. Raises ActionDenied, or KubeError where the cluster does."""
        if not same_user(start.request.user, user.email):
            return await self._create(start)  # given by an administrator: no user's limits apply
        async with self._quota.for_one_more(user, start.session):
            return await self._create(start)

    def _template(self, user: User, name: str) -> VDITemplate:
        template = self._cluster.template(name)
        if template is not None and may_use(template, user):
            return template
        allowed = sorted(
            template.metadata.name for template in self._cluster.templates.values() if may_use(template, user)
        )
        words = f"you can start: {', '.join(allowed)}" if allowed else "there is no template that you can start"
        raise ActionDenied("NotFound", f"template: you cannot use {name!r}; {words}.")

    def _free_name(self, request: SessionRequest) -> str:
        """The first generated name that no other person has."""
        names = generated_names(request.user, request.template)
        for name in names:
            there = self._cluster.session(name)
            if there is None:
                return name
            _refuse_a_second(there, request)
        raise name_not_available(names[0])

    async def _create(self, start: Start) -> VDISession:
        namespace, request = start.namespace, start.request
        self._refuse_a_taken_name(start)
        body = build_session(request, namespace, start.template, start.groups)
        try:
            made = await self._client.create(SESSIONS, body, namespace=namespace, into=VDISession)
        except AlreadyExists:
            there = await self._client.get(SESSIONS, request.name or "", namespace=namespace, into=VDISession)
            _refuse_a_second(there, request)
            raise
        except Invalid as error:
            raise refused_by_cluster(error, request.name or "", body) from error
        self._cluster.sessions.remember(made)
        return made

    def _refuse_a_taken_name(self, start: Start) -> None:
        """The API server refuses a second session of a name in one namespace; of the others it says nothing."""
        there = self._cluster.session(start.request.name or "")
        if there and there.metadata.namespace != start.namespace:
            _refuse_a_second(there, start.request)
            raise name_not_available(there.metadata.name)


def generated_names(user: str, template: str) -> list[str]:
    """USER-TEMPLATE, and with numbers, for where another person with the same first part of the address has that."""
    stem = generate_name(user, template)
    return [stem, *(f"{stem[:60]}-{number}" for number in range(2, _NAMES))]


def _refuse_a_second(there: VDISession, request: SessionRequest) -> None:
    """Raise ActionDenied if `there`, which has the name, is this user's own."""
    name = there.metadata.name
    if not same_user(there.spec.user, request.user):
        return
    if there.metadata.deletion_timestamp:
        raise ActionDenied(
            "Conflict", f"Your desktop {name!r} is ending. Try again in a moment, or choose another name."
        )
    raise ActionDenied(
        "Conflict",
        f"You already have the desktop {name!r} ({there.status.phase or 'Pending'}). Open that one, or choose "
        "another name for the new one.",
    )
