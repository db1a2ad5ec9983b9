"""New desktops: whether a user may have one, its name, the write that creates it, its home, and the
limits of runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import parse_quantity, parse_time
from vdi.gateway import limits
from vdi.gateway.component import Component, GatewayContext
from vdi.gateway.denied import (
    ActionDenied,
    FieldProblem,
    name_not_available,
    refused_address,
    refused_by_cluster,
)
from vdi.gateway.history.component import History
from vdi.gateway.history.usage import Month
from vdi.gateway.limits import Limit, Limits, MonthUse, home_bytes
from vdi.gateway.rights import User
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.kinds import SESSIONS
from vdi.kube.errors import AlreadyExists, Conflict, Invalid, KubeError, NotFound
from vdi.kube.resource import CLAIMS
from vdi.session.children import build_home
from vdi.session.conditions import Reason
from vdi.session.effective import Blocked, gpus_of, resolve
from vdi.session.homes import COPYING, MADE_AHEAD, Home, HomeClaim, find_new_home, home_names
from vdi.session.homes import may_use as may_use_home
from vdi.session.naming import USER_ANNOTATION, Identity
from vdi.session.request import SessionRequest, build_session, generate_name, generate_names
from vdi.session.users import AddressError, check_address, normal_user, same_user

log = logging.getLogger(__name__)

_TURN_ATTEMPTS = 100
_TURN_PAUSE_SECONDS = 0.1
_KEPT = timedelta(minutes=10)  # how long an unused home made ahead stays
_SWEEP_SECONDS = 60.0
_TURN_SECONDS = 20.0  # after these, a replica that died within a user's turn no longer holds it


@dataclass(eq=False)
class QuotaGuard:
    """Enforces the limits of a user at each new run; called by start, resume, schedule, and for
    homes made ahead.
    """

    context: GatewayContext
    limits: Limits
    history: History

    @asynccontextmanager
    async def for_one_more(self, user: User, session: VDISession) -> AsyncIterator[None]:
        """Allow the body to start this session. Raises ActionDenied when the limits of `user` are
        reached.
        """
        limit = self.limits.of(user)
        if not limit.limits_anything:
            yield
            return
        # The starts of one user take turns across all replicas, and each counts what the API server
        # has, not what a watch has brought so far. Otherwise two clicks at once would start one
        # more desktop than allowed.
        async with self._turn(user.email):
            active = []
            for namespace in self.context.cluster.settings.namespaces:
                for other in await self.context.client.list(
                    SESSIONS, namespace=namespace, into=VDISession
                ):
                    if same_user(other.spec.user, user.email) and limits.counts(other):
                        active.append(other)
            new, *others = [
                (
                    other.metadata.name,
                    gpus_of(other, self.context.cluster.template(other.spec.template)),
                )
                for other in (session, *active)
            ]
            used = await self._month_use(user, limit)
            why = limits.refusal(limit, user, new, others, used) or self._home_refusal(
                limit, user, session, active
            )
            if why:
                raise ActionDenied("OverLimit", why)
            yield

    @asynccontextmanager
    async def for_schedule(self, user: User, session: VDISession) -> AsyncIterator[None]:
        """Allow the body to give this session a schedule. Raises ActionDenied."""
        # The operator resumes it and knows no limits. The session therefore counts as running from
        # now on; and its user's hours, which it would use up while the user is away, must not be
        # limited.
        limit = self.limits.of(user)
        if limit.hours is not None or limit.gpu_hours is not None:
            message = (
                "Your hours are limited, and a scheduled desktop would use them without you. Ask an"
                " administrator."
            )
            raise ActionDenied("OverLimit", message)
        async with self.for_one_more(user, session):
            yield

    async def _month_use(self, user: User, limit: Limit) -> MonthUse:
        now = self.context.clock()
        if limit.hours is not None or limit.gpu_hours is not None:
            try:
                return await self.history.use_this_month(user.email, now)
            except DatabaseUnavailableError as error:  # a start is not refused for it
                log.error("the hours of %s are not counted: %s", user.email, error)
        return MonthUse(0.0, 0.0, Month.of(now).end)

    def _home_refusal(
        self, limit: Limit, user: User, session: VDISession, active: Iterable[VDISession]
    ) -> str | None:
        if limit.home_storage is None or (new := self.new_home(session)) is None:
            return None
        homes = {
            home.name: home_bytes(home)
            for home in self.context.cluster.homes_of(user.email)
            if not home.deleted
        }
        # A session that was started a moment ago has a home that the operator has not created yet.
        for other in active:
            if home := self.new_home(other):
                homes.setdefault(home.claim, float(parse_quantity(home.size)))
        homes.pop(new.claim, None)  # another session that waits for the same home is no second home
        return limits.home_refusal(limit, new, homes)

    def new_home(self, session: VDISession) -> Home | None:
        """The home that would be created for this session; None: it has none, or one that
        exists.
        """
        namespace = session.metadata.namespace
        template = self.context.cluster.template(session.spec.template)
        homes = (
            self.context.cluster.homes.get(namespace, name)
            for name in (*home_names(session), session.status.home_claim)
        )
        if template:
            return find_new_home(session, template, filter(None, homes))
        return None

    @asynccontextmanager
    async def _turn(self, user: str) -> AsyncIterator[None]:
        key = f"start/{user}"
        try:
            for _ in range(_TURN_ATTEMPTS):
                if await self.context.shared.take_once(key, _TURN_SECONDS):
                    break
                await asyncio.sleep(_TURN_PAUSE_SECONDS)
            else:
                raise ActionDenied(
                    "Conflict", "Another desktop of yours is being started. Try again in a moment."
                )
        except SharedUnavailableError as error:
            log.error("no one with limits can start a desktop: %s", error)
            raise ActionDenied(
                "Unavailable",
                "Your usage cannot be checked against your limits right now. Try again in a"
                " minute.",
            ) from error
        try:
            yield
        finally:
            with suppress(SharedUnavailableError):  # it ends by itself
                await self.context.shared.pop(key)


@dataclass(frozen=True, slots=True)
class Start:
    """A new session that rights and template allow, under a name that is free as far as is
    known.
    """

    body: dict[str, Any]  # as it is sent
    session: VDISession  # the same as a struct


@dataclass(eq=False)
class Starter:
    """Creates sessions: `plan` decides, `carry_out` writes."""

    context: GatewayContext
    quota: QuotaGuard

    def plan(self, user: User, request: SessionRequest) -> Start:
        """The session that would be created. Raises ActionDenied."""
        email = normal_user(request.user or user.email)
        request = msgspec.structs.replace(request, user=email)
        if not same_user(email, user.email):
            if not user.admin:
                field = FieldProblem("user", user.email, email)
                raise ActionDenied(
                    "Forbidden", f"user: {email} is not you; allowed: {user.email}.", field
                )
            try:
                check_address(email)
            except AddressError as why:
                raise refused_address(why) from None
        if (request.priority or 0) > 0 and not user.admin:
            field = FieldProblem("priority", "0 or less", request.priority)
            message = f"priority: {request.priority} is for administrators; allowed: 0 or less."
            raise ActionDenied("Forbidden", message, field)
        template = self._template(user, request.template)
        named = msgspec.structs.replace(
            request, name=request.name or self._free_name(email, request.template)
        )
        # The groups of another user are known only from that user's own login.
        groups = user.groups if same_user(email, user.email) else frozenset()
        body = build_session(named, self.context.settings.namespace_for(groups), template, groups)
        session = msgspec.convert(body, VDISession)
        if session.spec.hostname == self.context.settings.portal_label:
            raise ActionDenied(
                "Invalid",
                f"hostname: {self.context.settings.portal_label!r} is used by the portal. Choose"
                " another.",
            )
        # The operator decides the same when it sees the session. Asked here, the user reads the
        # refusal in the form.
        problem = resolve(session, template, self.context.settings.cluster)
        if isinstance(problem, Blocked):
            if problem.reason == Reason.OVER_LIMIT:
                code = "OverLimit"
            else:
                code = "Invalid"
            fields = (
                FieldProblem(error.field.removeprefix("spec."), error.allowed, error.value)
                for error in problem.errors
            )
            raise ActionDenied(code, problem.message, *fields)
        return Start(body, session)

    async def carry_out(self, user: User, start: Start) -> VDISession:
        """Create the session. Raises ActionDenied, or KubeError where the cluster refuses it."""
        if not same_user(start.session.spec.user, user.email):
            return await self._create(start)  # given by an administrator: no user's limits apply
        async with self.quota.for_one_more(user, start.session):
            return await self._create(start)

    def _template(self, user: User, name: str) -> VDITemplate:
        allowed = self.context.cluster.templates_for(user)
        if name in allowed:
            return allowed[name]
        choice = "there is no template that you can start"
        if allowed:
            choice = f"you can start: {', '.join(allowed)}"
        raise ActionDenied("NotFound", f"template: you cannot use {name!r}; {choice}.")

    def _free_name(self, user: str, template: str) -> str:
        """The first generated name that no other user has: USER-TEMPLATE, else with a number."""
        for name in generate_names(user, template):
            there = self.context.cluster.session(name)
            if there is None:
                return name
            _refuse_a_second(there, user)
        raise name_not_available(generate_name(user, template))

    async def _create(self, start: Start) -> VDISession:
        name, namespace = start.session.metadata.name, start.session.metadata.namespace
        user = start.session.spec.user
        # The API server refuses a second session of a name in one namespace only.
        there = self.context.cluster.session(name)
        if there and there.metadata.namespace != namespace:
            _refuse_a_second(there, user)
            raise name_not_available(name)
        try:
            made = await self.context.client.create(
                SESSIONS, start.body, namespace=namespace, into=VDISession
            )
        except AlreadyExists:
            there = await self.context.client.get(
                SESSIONS, name, namespace=namespace, into=VDISession
            )
            _refuse_a_second(there, user)
            raise
        except Invalid as error:
            raise refused_by_cluster(error, name, start.body) from error
        self.context.cluster.sessions.remember(made)
        return made


def _refuse_a_second(there: VDISession, user: str) -> None:
    """Raise ActionDenied if `there`, which has the name, is this user's own."""
    name = there.metadata.name
    if not same_user(there.spec.user, user):
        return
    if there.metadata.deletion_timestamp:
        raise ActionDenied(
            "Conflict",
            f"Your desktop {name!r} is ending. Try again in a moment, or choose another name.",
        )
    raise ActionDenied(
        "Conflict",
        f"You already have the desktop {name!r} ({there.status.phase or 'Pending'}). Open that one,"
        " or choose another name for the new one.",
    )


@dataclass(eq=False)
class HomesAhead(Component):
    """Homes of first desktops, created while the user fills in the start form: a volume takes
    seconds. A user has one.

    form opened -> claim with `MADE_AHEAD` -> the operator chooses the node where there is only one
    -> the volume desktop started -> the operator takes the annotation away, then the desktop uses
    the claim nothing started for ten minutes -> the claim is deleted, as it was when it still had
    the annotation
    """

    context: GatewayContext
    starter: Starter

    async def make(self, user: User, template: str) -> None:
        """Make the home of this user's first desktop of the template, if that desktop is still to
        come and may be started. What goes wrong is logged: the home is made with the desktop then.
        """
        try:
            await self._make(user, template)
        except ActionDenied as why:
            log.debug("no home ahead of a desktop of %s: %s", template, why.sentence)
        except KubeError as error:
            log.warning("no home ahead of a desktop of %s: %s", template, error)

    async def run(self) -> None:
        """Delete what no one has used, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                await self.delete_unused()
            except KubeError as error:
                log.warning("homes that no one has used are kept: %s", error)

    async def delete_unused(self) -> None:
        """Once: delete what was made ahead and has waited long enough. Raises KubeError."""
        oldest = self.context.clock() - _KEPT
        for claim in list(self.context.cluster.homes.values()):
            if (
                MADE_AHEAD in claim.metadata.annotations
                and parse_time(claim.metadata.creation_timestamp) <= oldest
            ):
                await self._delete_if_unused(claim)

    async def _make(self, user: User, template: str) -> None:
        start = self.starter.plan(user, SessionRequest(template=template))
        home = self.starter.quota.new_home(start.session)
        if home is None or not home.retain:
            return
        for claim in list(self.context.cluster.homes.values()):
            if same_user(claim.metadata.annotations.get(USER_ANNOTATION, ""), user.email):
                await self._delete_if_unused(claim)
        async with self.starter.quota.for_one_more(user, start.session):
            body = build_home(identity=Identity.of(start.session), home=home)
            body["metadata"]["annotations"][MADE_AHEAD] = template
            with suppress(AlreadyExists):
                made = await self.context.client.create(
                    CLAIMS, body, namespace=start.session.metadata.namespace, into=HomeClaim
                )
                self.context.cluster.homes.remember(made)

    async def _delete_if_unused(self, claim: HomeClaim) -> None:
        """Unless a session has it or may have it: with the version that is known here, so that
        whoever takes the annotation away is never too late.
        """
        meta = claim.metadata
        if (
            MADE_AHEAD not in meta.annotations
            or COPYING in meta.annotations
            or meta.deletion_timestamp
        ):
            return
        if any(
            session.metadata.namespace == meta.namespace and may_use_home(session, meta.name)
            for session in self.context.cluster.sessions.values()
        ):
            return
        with suppress(NotFound, Conflict):  # used or deleted by somebody else meanwhile
            await self.context.client.delete(
                CLAIMS,
                meta.name,
                namespace=meta.namespace,
                uid=meta.uid,
                resource_version=meta.resource_version,
                into=msgspec.Raw,
            )
