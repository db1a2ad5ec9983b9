"""Actions of users on desktops and homes, for the portal, the REST API and the waiting page alike.

Each action: rights, then limits, then one write to the Kubernetes API by the gateway's own account,
then the audit. What may be done to a session in its present state is decided by
`vdi.session.actions`.
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from vdi.api.schedule import SessionSchedule
from vdi.api.session import GuestRole, PlannedEnd, VDISession
from vdi.cluster.units import format_time
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, FieldProblem, invalid, refused_by_cluster
from vdi.gateway.rights import Action, User, knows_of, no_desktop, refusal
from vdi.gateway.starting import Starter
from vdi.gateway.store.audit import Act, Audit, NotAuditedError, act_on
from vdi.gateway.store.banner import MAX_CHARACTERS, save_banner
from vdi.kinds import SESSIONS
from vdi.kube.errors import Conflict, Invalid, KubeError, NotFound, Replaced
from vdi.kube.resource import CLAIMS
from vdi.printable import is_printable
from vdi.session.actions import (
    AnswerAccess,
    Extend,
    PlanEnd,
    Refusal,
    Request,
    RequestAccess,
    Resize,
    Restart,
    Resume,
    SetSchedule,
    Share,
    Suspend,
    Unshare,
    check_schedule,
    decide,
    drop_expired,
    find_home_to_delete,
)
from vdi.session.homes import HomeSummary, why_not_deleted
from vdi.session.request import SessionRequest
from vdi.session.schedule import describe_schedule
from vdi.session.users import normal_user, same_user
from vdi.session.volumes import GROUPS, groups_annotation

log = logging.getLogger(__name__)

AnyRequest = Request | RequestAccess | AnswerAccess
# Checked before a name is put into a path of the API server: `..` would lead to another resource.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_MAX_ATTEMPTS = 20
_PAUSE_SECONDS = 0.01  # grows by as much with each attempt


@dataclass(eq=False)
class Actions:
    """Changes sessions and deletes homes for users. Raises ActionDenied and nothing else.

    An action on a session returns the session as the API server then has it.
    """

    context: GatewayContext
    starter: Starter
    audit: Audit

    async def start(self, user: User, request: SessionRequest) -> VDISession:
        """Create a session. For another user, and with a priority above 0, only as an
        administrator.
        """
        with self._counted("start", request.name or ""):
            async with self._refusal_written(
                user, "start", request.name or "", {"template": request.template}
            ):
                start = self.starter.plan(user, request)
            new = start.session
            act = Act(
                actor=user.email,
                action="session.start",
                target=new.metadata.name,
                owner=new.spec.user,
                detail={"template": request.template} | request.options,
            )
            async with self._written(user, act):
                return await self.starter.carry_out(user, start)

    async def extend(self, user: User, name: str, length: str) -> VDISession:
        """Set the length of the whole run, such as `10h`."""
        return await self._act(user, Action.EXTEND, name, Extend(length), {"length": length})

    async def resize(
        self,
        user: User,
        name: str,
        memory: str | None = None,
        cpu: str | None = None,
        gpu: str = "",
    ) -> VDISession:
        """Set memory and CPU, of the running desktop too, or fewer GPUs for one that waits; None:
        as it is.
        """
        if not re.fullmatch(r"[0-9]{0,4}", gpu):
            raise invalid("gpu", gpu[:20], "a whole number")
        detail = {
            field: value
            for field, value in (("memory", memory), ("cpu", cpu), ("gpu", gpu))
            if value
        }
        return await self._act(
            user, Action.RESIZE, name, Resize(memory, cpu, int(gpu or 0)), detail
        )

    async def schedule(self, user: User, name: str, schedule: SessionSchedule | None) -> VDISession:
        """Set the times at which the operator resumes and suspends the desktop; None: remove
        them.
        """
        # Checked before the audit keeps a description of it: it is untrusted text of any length.
        if schedule and (problem := check_schedule(schedule)):
            raise _denied(problem)
        detail = {"schedule": describe_schedule(schedule) if schedule else "none"}
        return await self._act(user, Action.SCHEDULE, name, SetSchedule(schedule), detail)

    async def suspend(self, user: User, name: str) -> VDISession:
        """Stop the desktop; home and address are kept."""
        return await self._act(user, Action.SUSPEND, name, Suspend(), {})

    async def resume(self, user: User, name: str) -> VDISession:
        """Start a new run. It counts in the owner's limits whoever resumes it, except an
        administrator.
        """
        return await self._act(user, Action.RESUME, name, Resume(), {})

    async def restart(self, user: User, name: str) -> VDISession:
        """Start a new desktop on the same home, within the same run."""
        return await self._act(user, Action.RESTART, name, Restart(), {})

    async def share(
        self, user: User, name: str, email: str, role: GuestRole, expires: datetime | None
    ) -> VDISession:
        """Give a guest access, in place of an earlier share with that guest."""
        ends = format_time(expires) if expires else "never"
        detail = {"user": normal_user(email), "role": str(role), "expires": ends}
        return await self._act(user, Action.SHARE, name, Share(email, role, expires), detail)

    async def unshare(self, user: User, name: str, email: str) -> VDISession:
        """End the access of a guest."""
        return await self._act(
            user, Action.UNSHARE, name, Unshare(email), {"user": normal_user(email)}
        )

    async def request_access(
        self, user: User, name: str, role: GuestRole, length: str
    ) -> VDISession:
        """Ask the owner of a desktop to share it with this administrator."""
        detail = {"role": str(role), "length": length[:20]}
        return await self._act(
            user, Action.REQUEST_ACCESS, name, RequestAccess(user.email, role, length), detail
        )

    async def answer_access(
        self, user: User, name: str, request: str, *, allow: bool
    ) -> VDISession:
        """The owner's answer to the request with this `expires`."""
        detail, seen = (
            {"answer": "allowed" if allow else "refused"},
            self.context.cluster.session(name),
        )
        if seen and (asked := seen.spec.access_request) and same_user(seen.spec.user, user.email):
            detail |= {
                "user": asked.user[:254],
                "role": asked.role[:20],
                "length": asked.length[:20],
            }
        return await self._act(
            user, Action.ANSWER_ACCESS, name, AnswerAccess(request, allow), detail
        )

    async def drop_expired_access(self) -> None:
        """Remove shares whose time is over, and requests that no one has answered. Rights do not
        depend on it.

        Of several replicas, the one whose patch is taken writes the audit.
        """
        for session in list(self.context.cluster.sessions.values()):
            patch, ended = drop_expired(session, self.context.clock())
            if not ended or self.context.stopping.is_set():
                continue
            try:
                await self._send(session, patch)
            except (
                ActionDenied,
                KubeError,
            ) as error:  # another replica was first, or the next sweep tries again
                log.debug(
                    "expired access to session %s is not removed: %s", session.metadata.name, error
                )
                continue
            for action, detail in ended:
                await self.audit.record(act_on(session, "vdi-gateway", f"session.{action}", detail))

    async def plan_end(self, user: User, name: str, end: PlannedEnd | None) -> VDISession:
        """Announce the end of the desktop in it, and end it at that time; None: take the
        announcement back.
        """
        detail = (
            {name: text[:200] for name, text in msgspec.to_builtins(end).items()}
            if end
            else {"time": "none"}
        )
        return await self._act(user, Action.PLAN_END, name, PlanEnd(end), detail)

    async def end(self, user: User, name: str, *, delete_home: bool = False) -> None:
        """Delete the session, and with `delete_home` its files too."""
        async with self._authorized(
            user, Action.END, name, {"home": "deleted"} if delete_home else {}
        ) as session:
            meta = session.metadata
            claim = (
                find_home_to_delete(session, self.context.cluster.sessions.values())
                if delete_home
                else None
            )
            if isinstance(claim, Refusal):
                raise _denied(claim)
            # The dry run comes first: where the claim may not be deleted, the session is still
            # there to try again. The claim itself goes last. One whose pod is on no node is gone at
            # once, and the operator would create an empty home for a session that is about to go.
            if claim:
                with suppress(NotFound):
                    await self.context.client.delete(
                        CLAIMS, claim, namespace=meta.namespace, dry_run=True, into=msgspec.Raw
                    )
            with suppress(NotFound, Replaced):
                await self.context.client.delete(
                    SESSIONS, name, namespace=meta.namespace, uid=meta.uid, into=msgspec.Raw
                )
            if claim:
                with suppress(NotFound):
                    await self.context.client.delete(
                        CLAIMS, claim, namespace=meta.namespace, into=msgspec.Raw
                    )

    async def delete_home(self, user: User, name: str) -> None:
        """Delete one of the user's own homes with all files in it. Refused while a session uses
        it.
        """
        with self._counted("delete-home", name):
            home = self.own_home(user, name)
            same_name = [
                other.namespace
                for other in self.context.cluster.homes_of(user.email)
                if other.name == name
            ]
            if len(same_name) > 1:
                spaces = " and ".join(same_name)
                words = (
                    f"You have a home {name!r} in each of the namespaces {spaces}. Nothing was"
                    " deleted."
                )
                raise ActionDenied(
                    "Conflict",
                    f"{words} An administrator can delete one with: vdi home rm -n NAMESPACE.",
                )
            if why := why_not_deleted(home, self.context.cluster.sessions.values()):
                raise ActionDenied("Conflict", f"{why} Nothing was deleted.")
            act = Act(
                actor=user.email, action="home.delete", target=name, uid=home.uid, owner=home.user
            )
            async with self._written(user, act):
                with suppress(NotFound, Replaced):
                    await self.context.client.delete(
                        CLAIMS, name, namespace=home.namespace, uid=home.uid, into=msgspec.Raw
                    )

    async def set_banner(self, administrator: User, text: str) -> None:
        """Show a text on all pages of the portal; an empty one: none."""
        if len(text) > MAX_CHARACTERS or not is_printable(text):
            raise invalid("text", text[:100], f"at most {MAX_CHARACTERS} printable characters")
        act = Act(
            actor=administrator.email, action="banner.set", target="portal", detail={"text": text}
        )
        with self._counted("set-banner", "portal"):
            async with self._written(administrator, act):
                await save_banner(self.context.database, text)

    def own_home(self, user: User, name: str) -> HomeSummary:
        """One of the user's own homes. Refused alike where there is none and where it is another
        user's.
        """
        home = self.context.cluster.home_of(user.email, name)
        if home is None:
            raise ActionDenied("NotFound", f"You have no home {name!r}.")
        return home

    async def _act(
        self, user: User, action: Action, name: str, request: AnyRequest, detail: Mapping[str, str]
    ) -> VDISession:
        """Decide and write; after a conflict with another writer, read the session and decide
        again.
        """
        async with self._authorized(user, action, name, detail, request) as session:
            meta = session.metadata
            for attempt in range(_MAX_ATTEMPTS):
                patch = self._decide(user, session, request)
                if not patch:
                    return session
                try:
                    async with self._within_limits(user, session, request):
                        return await self._send(session, patch)
                except Replaced:
                    raise
                except Conflict:
                    await asyncio.sleep(_PAUSE_SECONDS * attempt * random.random())  # noqa: S311 - spreads load only
                    session = await self.context.client.get(
                        SESSIONS, name, namespace=meta.namespace, into=VDISession
                    )
                    # Another session of this name: the user's rights in it have not been checked.
                    if session.metadata.uid != meta.uid:
                        raise
                    if refused := refusal(user, action, session, self.context.clock()):
                        raise ActionDenied(*refused) from None
            raise ActionDenied(
                "Conflict", f"Someone else is changing the desktop {name!r}. Try again in a moment."
            )

    def _decide(self, user: User, session: VDISession, request: AnyRequest) -> dict[str, Any]:
        template = self.context.cluster.template(session.spec.template)
        patch = decide(
            session, template, request, self.context.clock(), self.context.settings.cluster
        )
        if isinstance(patch, Refusal):
            raise _denied(patch)
        # A new pod mounts the volumes of its user's groups. The groups are known only from that
        # user's own login; at an action of anyone else the annotation stays as it is.
        if (
            patch
            and template
            and isinstance(request, Resume | Restart)
            and same_user(user.email, session.spec.user)
        ):
            groups = groups_annotation(template, user.groups)
            if groups != session.metadata.annotations.get(GROUPS):
                patch["metadata"]["annotations"] = {
                    **patch["metadata"].get("annotations", {}),
                    GROUPS: groups,
                }
        return patch

    def _within_limits(
        self, user: User, session: VDISession, request: AnyRequest
    ) -> AbstractAsyncContextManager[None]:
        is_own = same_user(user.email, session.spec.user)
        if user.admin and not is_own:
            return nullcontext()
        # A collaborator's resume counts for the owner. The owner's groups, which may have limits of
        # their own, are known only from the owner's login; without them the owner's own entry and
        # the default count.
        owner = user if is_own else User(normal_user(session.spec.user))
        if isinstance(request, Resume):
            return self.starter.quota.for_one_more(owner, session)
        if isinstance(request, SetSchedule) and request.schedule:
            return self.starter.quota.for_schedule(owner, session)
        return nullcontext()

    async def _allowed(self, user: User, action: Action, name: str) -> VDISession:
        """The session, if the user has the right to this action. Raises ActionDenied.

        It is read from the API server: what the user did a moment ago through another replica
        counts already.
        """
        # A session that does not exist and one of another user give the same answer, so that nobody
        # learns which desktops there are.
        unknown = ActionDenied("NotFound", no_desktop(name))
        if not _NAME.fullmatch(name):
            raise unknown
        session, now = await self._read(name), self.context.clock()
        if session is None or not knows_of(session, user, now):
            raise unknown
        if refused := refusal(user, action, session, now):
            raise ActionDenied(*refused)
        return session

    async def _read(self, name: str) -> VDISession | None:
        """The session of this name: first where a watch has seen it, then wherever another replica
        has just made it.
        """
        seen = self.context.cluster.session(name)
        first = [seen.metadata.namespace] if seen else []
        for namespace in dict.fromkeys((*first, *self.context.settings.namespaces)):
            with suppress(NotFound):
                return await self.context.client.get(
                    SESSIONS, name, namespace=namespace, into=VDISession
                )
        return None

    async def _send(self, session: VDISession, patch: dict[str, Any]) -> VDISession:
        name, namespace = session.metadata.name, session.metadata.namespace
        try:
            changed = await self.context.client.patch(
                SESSIONS, name, patch, namespace=namespace, into=VDISession
            )
        except Invalid as error:
            raise refused_by_cluster(error, name, patch) from error
        self.context.cluster.sessions.remember(changed)
        return changed

    @asynccontextmanager
    async def _authorized(
        self,
        user: User,
        action: Action,
        name: str,
        detail: Mapping[str, str],
        request: AnyRequest | None = None,
    ) -> AsyncIterator[VDISession]:
        """Yield the session, if the user has the right to this action; the body is counted and
        audited.

        A request that changes nothing is not audited: the same schedule set twice is one entry.
        """
        with self._counted(str(action), name):
            async with self._refusal_written(user, str(action), name, detail):
                session = await self._allowed(user, action, name)
            act = act_on(session, user.email, f"session.{action}", detail)
            template, settings = (
                self.context.cluster.template(session.spec.template),
                self.context.settings.cluster,
            )
            patch: dict[str, Any] | Refusal | None = None
            if request:
                patch = decide(session, template, request, self.context.clock(), settings)
            if isinstance(patch, Refusal):
                await self.audit.refuse(act, patch.code, user.login_id)
                raise _denied(patch)
            async with nullcontext() if patch == {} else self._written(user, act):
                yield session

    @asynccontextmanager
    async def _written(self, user: User, act: Act) -> AsyncIterator[None]:
        """Audit the body; an administrator's action on another user's session only happens with its
        audit.
        """
        # A database that is down costs a user's own action its audit row, which then goes to the
        # log. What an administrator does to others must leave a trace.
        closed = user.admin and not same_user(user.email, act.owner)
        try:
            async with self.audit.act(act, closed=closed):
                with _refused_by_cluster(act.action, act.target):
                    yield
        except NotAuditedError as error:
            raise ActionDenied("Unavailable", str(error)) from error

    @asynccontextmanager
    async def _refusal_written(
        self, user: User, action: str, name: str, detail: Mapping[str, str]
    ) -> AsyncIterator[None]:
        """Audit an attempt that the user has no right to."""
        try:
            yield
        except ActionDenied as why:
            if why.code in ("Forbidden", "HumanInControl", "Parked"):
                act = Act(actor=user.email, action=f"session.{action}", target=name, detail=detail)
                await self.audit.refuse(act, why.code, user.login_id)
            raise

    @contextmanager
    def _counted(self, action: str, name: str) -> Iterator[None]:
        """Count the outcome, and let no exception but ActionDenied out."""
        outcome = "Unavailable"
        try:
            with _refused_by_cluster(action, name):
                yield
            outcome = "done"
        except ActionDenied as why:
            outcome = why.code
            raise
        finally:
            self.context.metrics.actions.labels(action, outcome).inc()


@contextmanager
def _refused_by_cluster(action: str, name: str) -> Iterator[None]:
    """Turn an error of the API server into the refusal that the user reads."""
    try:
        yield
    except KubeError as error:
        refused = refused_by_cluster(error, name)
        if refused.code == "Unavailable":
            log.warning("%s of %s: %s", action, name, error)
        raise refused from error


def _denied(refusal: Refusal) -> ActionDenied:
    fields = [FieldProblem(refusal.field, refusal.allowed, refusal.value)] if refusal.field else []
    return ActionDenied(refusal.code, refusal.message, *fields)
