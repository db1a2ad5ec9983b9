"""A new desktop: whether this person may have it, under which name, and the one write that makes it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.gateway import limits
from vdi.gateway.context import GatewayContext
from vdi.gateway.denied import ActionDenied, FieldProblem, refused_address, refused_by_cluster
from vdi.gateway.history.component import History
from vdi.gateway.limits import Limits
from vdi.gateway.rights import may_use
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.users import AddressError, User, check_address, normal_user, same_user
from vdi.kube.errors import AlreadyExists, Invalid
from vdi.operator.kinds import SESSIONS
from vdi.session.conditions import Reason
from vdi.session.effective import Blocked, resolve
from vdi.session.request import SessionRequest, build_session, generate_name

log = logging.getLogger(__name__)

_NAMES = 20
"""Generated names that are tried: alice@a.example and alice@b.example want the same one."""
_TRIES, _PAUSE = 100, 0.1
"""How often, and how many seconds apart, it is asked whether another start of the same person is over."""
_TURN = 20.0
"""Seconds after which a replica that died within a person's start no longer keeps that person waiting."""


class QuotaGuard:
    """Whether a person's limits leave room for one more run. Asked by start and resume."""

    def __init__(self, context: GatewayContext, limits: Limits, history: History) -> None:
        self._client = context.client
        self._cluster = context.cluster
        self._shared = context.shared
        self._clock = context.clock
        self._limits = limits
        self._history = history

    @asynccontextmanager
    async def for_one_more(self, user: User, name: str, gpus: int) -> AsyncIterator[None]:
        """Within, the session `name` may be made to run. Raises ActionDenied where the limits of `person` say no.

        A person's starts come one after the other, in all replicas, and each counts what the API server has, not what
        a watch has brought so far: two clicks at once are not one more than allowed.
        """
        limit = self._limits.of(user)
        if not limit.limits_anything:
            yield
            return
        async with self._turn(user.email):
            others = [
                (session.metadata.name, limits.gpus_of(session, self._cluster.template(session.spec.template)))
                for namespace in self._cluster.settings.namespaces
                for session in await self._client.list(SESSIONS, namespace=namespace, into=VDISession)
                if same_user(session.spec.user, user.email)
                and not session.spec.suspended
                and not session.metadata.deletion_timestamp
            ]
            used = await self._hours(user) if limit.hours is not None else 0.0
            why = limits.refusal(limit, user, (name, gpus), others, used)
            if why:
                raise ActionDenied("OverLimit", why)
            yield

    async def _hours(self, user: User) -> float:
        """While the database is down, hours are not counted, and starts go on."""
        try:
            return await self._history.hours_this_month(user.email, self._clock())
        except DatabaseUnavailableError as error:
            log.error("the hours of %s are not counted: %s", user.email, error)
            return 0.0

    @asynccontextmanager
    async def _turn(self, user: str) -> AsyncIterator[None]:
        key = f"start/{user}"
        try:
            await self._wait_for(key)
        except SharedUnavailableError as error:
            log.error("nobody with limits can start: %s", error)
            raise ActionDenied(
                "Unavailable", "Your limits cannot be counted just now. Try again in a minute."
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
        raise ActionDenied("Conflict", "Another start of yours is still under way. Try again in a moment.")


@dataclass(frozen=True, slots=True)
class Start:
    """A start that rights and template allow, under a name that is free as far as is known."""

    request: SessionRequest
    """With its name."""
    namespace: str
    template: VDITemplate
    gpus: int


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
                raise ActionDenied("Forbidden", f"user: {email} is not you; allowed is {user.email}.", field)
            try:
                check_address(email)
            except AddressError as why:
                raise refused_address(why) from None
        if request.priority and not user.admin:
            field = FieldProblem("priority", "0", request.priority)
            raise ActionDenied("Forbidden", f"priority: {request.priority} is for administrators; allowed is 0.", field)
        template = self._template(user, request.template)
        named = replace(request, name=request.name or self._free_name(request))
        # Which groups another person is in is known only of that person's own login.
        namespace = self._settings.namespace_for(user.groups if same_user(email, user.email) else ())
        session = msgspec.convert(build_session(named, namespace, template), VDISession)
        if session.spec.hostname == self._settings.portal_label:
            raise ActionDenied(
                "Invalid", f"hostname: {self._settings.portal_label!r} is the portal's own; choose another."
            )
        problem = resolve(session, template, self._settings.cluster)
        if isinstance(problem, Blocked):
            code = "OverLimit" if problem.reason == Reason.OVER_LIMIT else "Invalid"
            fields = (
                FieldProblem(error.field.removeprefix("spec."), error.allowed, error.value) for error in problem.errors
            )
            raise ActionDenied(code, problem.message, *fields)
        return Start(named, namespace, template, limits.gpus_of(session, template))

    async def carry_out(self, user: User, start: Start) -> VDISession:
        """Make the session. Raises ActionDenied, or KubeError where the cluster does."""
        if not same_user(start.request.user, user.email):
            return await self._create(start)  # given by an administrator: no user's limits apply
        async with self._quota.for_one_more(user, start.request.name or "", start.gpus):
            return await self._create(start)

    def _template(self, user: User, name: str) -> VDITemplate:
        template = self._cluster.template(name)
        if template is not None and may_use(template, user):
            return template
        allowed = sorted(
            template.metadata.name for template in self._cluster.templates.values() if may_use(template, user)
        )
        words = f"you may start: {', '.join(allowed)}" if allowed else "there is no template that you may start"
        raise ActionDenied("NotFound", f"template: there is no {name!r} for you; {words}.")

    def _free_name(self, request: SessionRequest) -> str:
        """USER-TEMPLATE; with a number where another person with the same first part of the address has that."""
        stem = generate_name(request.user, request.template)
        for name in (stem, *(f"{stem[:60]}-{number}" for number in range(2, _NAMES))):
            there = self._cluster.session(name)
            if there is None:
                return name
            _refuse_a_second(there, request)
        raise ActionDenied("Conflict", f"name: {stem!r} is taken; choose another.")

    async def _create(self, start: Start) -> VDISession:
        namespace, request = start.namespace, start.request
        self._refuse_a_taken_name(start)
        body = build_session(request, namespace, start.template)
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
            name = there.metadata.name
            raise ActionDenied("Conflict", f"There is a desktop named {name!r} already; choose another name.")


def _refuse_a_second(there: VDISession, request: SessionRequest) -> None:
    """Raise ActionDenied if `there`, which has the name, is this user's own."""
    name = there.metadata.name
    if not same_user(there.spec.user, request.user):
        return
    if there.metadata.deletion_timestamp:
        raise ActionDenied(
            "Conflict", f"Your desktop {name!r} is just ending. Try again in a moment, or choose a name."
        )
    raise ActionDenied(
        "Conflict",
        f"You have the desktop {name!r} already ({there.status.phase or 'Pending'}). "
        "Open that one, or give the new one another name.",
    )
