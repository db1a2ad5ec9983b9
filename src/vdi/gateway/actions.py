"""Everything that people can do with desktops, for the portal, the API and the waiting page alike.

Each action: rights, then limits, then one write to the Kubernetes API by the gateway's own account, then the audit.
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec

from vdi.api.schedule import SessionSchedule
from vdi.api.session import FULL_CONTROL, Access, GuestRole, VDISession
from vdi.cluster.units import ALLOWED_DURATIONS, format_duration, format_time, parse_duration, parse_time
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, FieldProblem, refused_by_cluster
from vdi.gateway.guests import add_guest, remove_guest
from vdi.gateway.history.component import History
from vdi.gateway.limits import Limits
from vdi.gateway.rights import Action, User, knows_of, normal_user, refusal, same_user
from vdi.gateway.starting import QuotaGuard, Starter
from vdi.gateway.store.audit import Act, Audit, NotAuditedError
from vdi.kinds import SESSIONS
from vdi.kube.errors import Conflict, Invalid, KubeError, NotFound, Replaced
from vdi.kube.resource import CLAIMS
from vdi.session.homes import HomeSummary, may_use, retained_claim, why_not_deleted
from vdi.session.lifetime import is_capped, run_length
from vdi.session.naming import RESTARTED_AT
from vdi.session.request import SessionRequest
from vdi.session.schedule import describe_schedule, find_session_problem
from vdi.session.streaming import refuse_view_only
from vdi.session.volumes import GROUPS, groups_annotation

log = logging.getLogger(__name__)

# What may be put into a path: names such as `..` would lead to another resource.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

# How often an edit of a list starts again because another writer, mostly the operator, was faster.
_TRIES = 20
# Characters of a refused value that are shown.
_SHOWN = 100
# Seconds that the pause before another try grows with each.
_PAUSE = 0.01


class Actions:
    """Raises ActionDenied for whatever cannot be done, and nothing else. Returns the session as it is then."""

    def __init__(self, context: GatewayContext, *, limits: Limits, history: History, audit: Audit) -> None:
        self._client = context.client
        self._cluster = context.cluster
        self._metrics = context.metrics
        self._settings = context.settings
        self._clock = context.clock
        self._audit = audit
        self._quota = QuotaGuard(context, limits, history)
        self._starter = Starter(context, self._quota)

    async def start(self, user: User, request: SessionRequest) -> VDISession:
        """A new desktop. `request.user` other than the person's own, and a priority above 0, are for administrators."""
        async with self._counted("start", request.name or ""):
            async with self._refusal_written(user, "start", request.name or "", {"template": request.template}):
                start = self._starter.plan(user, request)
            name, owner = start.request.name or "", start.request.user
            act = Act(
                actor=user.email,
                action="session.start",
                target=name,
                owner=owner,
                detail={"template": request.template},
            )
            async with self._written(user, act):
                return await self._starter.carry_out(user, start)

    async def extend(self, user: User, name: str, length: str) -> VDISession:
        """Set the length of the whole run, such as `10h`; not more than the template allows."""
        async with self._authorized(user, Action.EXTEND, name, {"length": length}) as session:
            self._check_length(session, length)
            return await self._patch(session, {"spec": {"timeout": length}})

    async def schedule(self, user: User, name: str, schedule: SessionSchedule | None) -> VDISession:
        """Set when the operator resumes and suspends the desktop by itself; None: only people do."""
        if schedule and (problem := find_session_problem(schedule)):
            field, value, allowed = problem[0], problem[1][:_SHOWN], problem[2]
            words = f"{field}: {value!r} is not allowed; allowed: {allowed}."
            raise ActionDenied("Invalid", words, FieldProblem(field, allowed, value))
        detail = {"schedule": describe_schedule(schedule) if schedule else "none"}
        async with self._authorized(user, Action.SCHEDULE, name, detail) as session:
            change = {"spec": {"schedule": msgspec.to_builtins(schedule)}}
            if schedule is None or (user.admin and not same_user(user.email, session.spec.user)):
                return await self._patch(session, change)
            async with self._quota.for_schedule(user, session):
                return await self._patch(session, change)

    async def suspend(self, user: User, name: str) -> VDISession:
        """Stop the desktop, keep home and address."""
        async with self._authorized(user, Action.SUSPEND, name, {}) as session:
            return await self._patch(session, {"spec": {"suspended": True}})

    async def resume(self, user: User, name: str) -> VDISession:
        """A new run, within the owner's limits whoever asks (but an administrator)."""
        async with self._authorized(user, Action.RESUME, name, {}) as session:
            if not session.spec.suspended:
                return session
            change = {"spec": {"suspended": False}, "metadata": {"annotations": self._known_groups(user, session)}}
            mine = same_user(user.email, session.spec.user)
            if user.admin and not mine:
                return await self._patch(session, change)
            # Which groups the owner is in is known only of the owner's own login.
            owner = user if mine else User(normal_user(session.spec.user))
            async with self._quota.for_one_more(owner, session):
                return await self._patch(session, change)

    async def restart(self, user: User, name: str) -> VDISession:
        """A new desktop on the same home, within the same run."""
        async with self._authorized(user, Action.RESTART, name, {}) as session:
            if session.spec.suspended:
                raise ActionDenied(
                    "Conflict", f"The desktop {name!r} is suspended, so there is nothing to restart. Resume it instead."
                )
            now = format_time(self._clock())
            annotations = {RESTARTED_AT: now, **self._known_groups(user, session)}
            return await self._patch(session, {"metadata": {"annotations": annotations}})

    async def end(self, user: User, name: str, *, delete_home: bool = False) -> None:
        """Delete the session, and with `delete_home` the files too."""
        async with self._authorized(user, Action.END, name, {"home": "deleted"} if delete_home else {}) as session:
            meta = session.metadata
            claim = self._claim_to_delete(session) if delete_home else None
            if claim:  # where it may not be deleted, the desktop is there to try again
                with suppress(NotFound):
                    await self._client.delete(CLAIMS, claim, namespace=meta.namespace, dry_run=True, into=msgspec.Raw)
            with suppress(NotFound, Replaced):
                await self._client.delete(SESSIONS, name, namespace=meta.namespace, uid=meta.uid, into=msgspec.Raw)
            if claim:  # not before: without a pod on a node it is gone at once, and the operator makes another one
                with suppress(NotFound):
                    await self._client.delete(CLAIMS, claim, namespace=meta.namespace, into=msgspec.Raw)

    async def delete_home(self, user: User, name: str) -> None:
        """Delete one of the person's own homes, with all files in it. A home with a session is refused."""
        async with self._counted("delete-home", name):
            home = self.own_home(user, name)
            same_name = [other.namespace for other in self._cluster.homes_of(user.email) if other.name == name]
            if len(same_name) > 1:
                spaces = " and ".join(same_name)
                words = f"You have a home {name!r} in each of the namespaces {spaces}. Nothing was deleted."
                raise ActionDenied(
                    "Conflict", f"{words} An administrator can delete one with: vdi home rm -n NAMESPACE."
                )
            if why := why_not_deleted(home, self._cluster.sessions.values()):
                raise ActionDenied("Conflict", f"{why} Nothing was deleted.")
            act = Act(actor=user.email, action="home.delete", target=name, uid=home.uid, owner=home.user)
            async with self._written(user, act):
                with suppress(NotFound, Replaced):
                    await self._client.delete(CLAIMS, name, namespace=home.namespace, uid=home.uid, into=msgspec.Raw)

    def own_home(self, user: User, name: str) -> HomeSummary:
        """One of the person's own homes. Raises ActionDenied; it does not say whether another person has this one."""
        home = self._cluster.home_of(user.email, name)
        if home is None:
            raise ActionDenied("NotFound", f"You have no home {name!r}.")
        return home

    async def share(self, user: User, name: str, email: str, role: GuestRole, expires: datetime | None) -> VDISession:
        """Let `user` in as collaborator or viewer; a share that is there is replaced."""
        detail = {
            "user": normal_user(email),
            "role": str(role),
            "expires": format_time(expires) if expires else "never",
        }
        async with self._authorized(user, Action.SHARE, name, detail) as session:
            now = self._clock()
            template = self._cluster.template(session.spec.template)
            if role not in FULL_CONTROL and (why := refuse_view_only(template)):
                raise ActionDenied("ViewOnlyUnavailable", why, FieldProblem("role", GuestRole.COLLABORATOR, str(role)))
            return await self._edit_guests(session, lambda current: add_guest(current, email, role, expires, now))

    async def unshare(self, user: User, name: str, email: str) -> VDISession:
        """Take that back."""
        async with self._authorized(user, Action.UNSHARE, name, {"user": normal_user(email)}) as session:
            return await self._edit_guests(session, lambda current: remove_guest(current, email))

    async def _allowed(self, user: User, action: Action, name: str) -> VDISession:
        """The session, if this person may do that with it. Raises ActionDenied.

        Read from the API server: what this person has just done through another replica counts already.
        """
        unknown = ActionDenied(
            "NotFound", f"You have no desktop {name!r}, and no desktop with this name is shared with you."
        )
        if not _NAME.fullmatch(name):
            raise unknown
        session, now = await self._read(name), self._clock()
        if session is None or not knows_of(session, user, now):
            raise unknown
        if why := refusal(user, action, session, now):
            raise ActionDenied("Forbidden", why)
        if session.metadata.deletion_timestamp and action is not Action.END:
            raise ActionDenied("Conflict", f"The desktop {name!r} is ending and can no longer be changed.")
        return session

    async def _read(self, name: str) -> VDISession | None:
        """The session of this name: where it was seen last, or made by another replica a moment ago."""
        seen = self._cluster.session(name)
        first = [seen.metadata.namespace] if seen else []
        for namespace in dict.fromkeys((*first, *self._settings.namespaces)):
            with suppress(NotFound):
                return await self._client.get(SESSIONS, name, namespace=namespace, into=VDISession)
        return None

    async def _patch(self, session: VDISession, change: dict[str, Any]) -> VDISession:
        """Change this incarnation of the session, and no later one of its name."""
        meta = session.metadata
        body = {**change, "metadata": {"uid": meta.uid, **change.get("metadata", {})}}
        return await self._send(session, body)

    async def _send(self, session: VDISession, body: dict[str, Any]) -> VDISession:
        name, namespace = session.metadata.name, session.metadata.namespace
        try:
            changed = await self._client.patch(SESSIONS, name, body, namespace=namespace, into=VDISession)
        except Invalid as error:
            raise refused_by_cluster(error, name, body) from error
        self._cluster.sessions.remember(changed)
        return changed

    async def _edit_guests(self, session: VDISession, edit: Callable[[VDISession], tuple[Access, ...]]) -> VDISession:
        """Replace the list as it was read, or read it again: two edits at once, here or elsewhere, both count."""
        meta = session.metadata
        for number in range(_TRIES):
            body = {
                "metadata": {"uid": meta.uid, "resourceVersion": session.metadata.resource_version},
                "spec": {"access": msgspec.to_builtins(edit(session))},
            }
            try:
                return await self._send(session, body)
            except Replaced:
                raise
            except Conflict:
                await asyncio.sleep(_PAUSE * number * random.random())  # noqa: S311 - spreads load, guards nothing
                session = await self._client.get(SESSIONS, meta.name, namespace=meta.namespace, into=VDISession)
                if session.metadata.uid != meta.uid:
                    raise  # another session has its name: rights in that one were never asked
        raise ActionDenied("Conflict", f"Someone else is changing the desktop {meta.name!r}. Try again in a moment.")

    def _known_groups(self, user: User, session: VDISession) -> dict[str, str | None]:
        """The annotation with the groups of the session's user, of that user's own login; else it stays as it is."""
        template = self._cluster.template(session.spec.template)
        if template is None or not same_user(user.email, session.spec.user):
            return {}
        annotation = groups_annotation(template, user.groups)
        return {} if annotation == session.metadata.annotations.get(GROUPS) else {GROUPS: annotation}

    def _check_length(self, session: VDISession, length: str) -> None:
        try:
            desired = parse_duration(length)
        except ValueError as why:
            raise ActionDenied(
                "Invalid", f"length: {why}.", FieldProblem("timeout", ALLOWED_DURATIONS, length)
            ) from why
        template = self._cluster.template(session.spec.template)
        asked = msgspec.structs.replace(session, spec=msgspec.structs.replace(session.spec, timeout=length))
        cluster = self._settings.cluster
        most = run_length(asked, template, cluster) or desired
        if most < desired and is_capped(asked, template, cluster):
            raise ActionDenied(
                "OverLimit",
                f"length: {length} is more than {format_duration(most)}, the maximum for template "
                f"{session.spec.template!r}.",
                FieldProblem("timeout", f"at most {format_duration(most)}", length),
            )
        start = parse_time(session.status.start_time) if session.status.start_time else None
        if start and start + desired <= self._clock():
            ran = format_duration(self._clock() - start)
            raise ActionDenied(
                "Invalid",
                f"length: {length} is too short, because this run has already lasted {ran}; allowed: more than "
                "that. To stop the desktop, suspend or end it.",
                FieldProblem("timeout", f"more than {ran}", length),
            )

    def _claim_to_delete(self, session: VDISession) -> str | None:
        """The home that goes with the session; None where it has none. Raises ActionDenied where others use it too."""
        claim, name, namespace = retained_claim(session), session.metadata.name, session.metadata.namespace
        if claim is None:
            return None  # the session has no home, or it is the session's own and goes with it
        for other in self._cluster.sessions.values():
            # A claim of the same name in another namespace is another home: names are made of user and template.
            if other.metadata.namespace == namespace and other.metadata.name != name and may_use(other, claim):
                raise ActionDenied(
                    "Conflict",
                    f"The desktops {name!r} and {other.metadata.name!r} share their files, so nothing was deleted. "
                    f"End {other.metadata.name!r} first, or keep the files.",
                )
        return claim

    @asynccontextmanager
    async def _authorized(
        self, user: User, action: Action, name: str, detail: Mapping[str, str]
    ) -> AsyncIterator[VDISession]:
        """Give the session, if the person may do this with it; what is done within is counted and audited."""
        async with self._counted(str(action), name):
            async with self._refusal_written(user, str(action), name, detail):
                session = await self._allowed(user, action, name)
            act = Act(
                actor=user.email,
                action=f"session.{action}",
                target=name,
                uid=session.metadata.uid,
                owner=session.spec.user,
                detail=detail,
            )
            async with self._written(user, act):
                yield session

    @asynccontextmanager
    async def _written(self, user: User, act: Act) -> AsyncIterator[None]:
        """An administrator's act on what is another's is done only if it can be written down."""
        closed = user.admin and not same_user(user.email, act.owner)
        try:
            async with self._audit.act(act, closed=closed):
                try:
                    yield
                except KubeError as error:
                    refused = refused_by_cluster(error, act.target)
                    if refused.code == "Unavailable":
                        log.warning("%s of %s: %s", act.action, act.target, error)
                    raise refused from error
        except NotAuditedError as error:
            raise ActionDenied("Unavailable", str(error)) from error

    @asynccontextmanager
    async def _refusal_written(
        self, user: User, action: str, name: str, detail: Mapping[str, str]
    ) -> AsyncIterator[None]:
        """Audit who tried what is not theirs; the act itself does not begin."""
        try:
            yield
        except ActionDenied as why:
            if why.code == "Forbidden":
                await self._audit.record(
                    actor=user.email,
                    action=f"session.{action}",
                    target=name,
                    outcome=why.code,
                    detail=detail,
                    at=self._clock(),
                )
            raise

    @asynccontextmanager
    async def _counted(self, action: str, name: str) -> AsyncIterator[None]:
        """Count what comes of it, and let nothing but ActionDenied out."""
        outcome = "Unavailable"
        try:
            yield
            outcome = "done"
        except ActionDenied as why:
            outcome = why.code
            raise
        except KubeError as error:
            refused = refused_by_cluster(error, name)
            outcome = refused.code
            log.warning("%s of %s: %s", action, name, error)
            raise refused from error
        finally:
            self._metrics.actions.labels(action, outcome).inc()
