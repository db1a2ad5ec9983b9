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
from typing import Any

import msgspec

from vdi.api.session import VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, FieldProblem, invalid, refused_by_cluster
from vdi.gateway.rights import Action, User, knows_of, no_desktop, refusal
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.starting import Starter
from vdi.gateway.store.audit import Act, Audit, NotAuditedError, act_on
from vdi.gateway.store.banner import MAX_CHARACTERS, save_banner
from vdi.kinds import SESSIONS
from vdi.kube.errors import Conflict, Invalid, KubeError, NotFound, Replaced
from vdi.kube.resource import CLAIMS
from vdi.printable import is_printable
from vdi.session.actions import (
    AnswerAccess,
    PatchAction,
    PlanEnd,
    Refusal,
    Restart,
    Resume,
    SetSchedule,
    Share,
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

# Checked before a name is put into a path of the API server: `..` would lead to another resource.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
# After so long a desktop no longer shows a message that its users have not closed.
MESSAGE_SECONDS = 28_800.0
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

    async def act(self, user: User, name: str, action: PatchAction) -> VDISession:
        """Carry out an action that is one patch of the session."""
        # Checked before the audit keeps a description of it: it is untrusted text of any length.
        if isinstance(action, SetSchedule) and action.schedule:
            problem = check_schedule(action.schedule)
            if problem:
                raise _denied(problem)
        detail = self._describe(user, name, action)
        right = Action(action.action)
        async with self._authorized(user, right, name, detail, action) as session:
            meta = session.metadata
            for attempt in range(_MAX_ATTEMPTS):
                patch = self._decide(user, session, action)
                if not patch:
                    return session
                try:
                    async with self._within_limits(user, session, action):
                        return await self._send(session, patch)
                except Replaced:
                    raise
                except Conflict:  # another writer was faster: decide again, on what it wrote
                    await asyncio.sleep(_PAUSE_SECONDS * attempt * random.random())  # noqa: S311 - spreads load only
                    session = await self.context.client.get(
                        SESSIONS, name, namespace=meta.namespace, into=VDISession
                    )
                    # Another session of this name: the user's rights in it have not been checked.
                    if session.metadata.uid != meta.uid:
                        raise
                    if refused := refusal(user, right, session, self.context.clock()):
                        raise ActionDenied(*refused) from None
            raise ActionDenied(
                "Conflict", f"Someone else is changing the desktop {name!r}. Try again in a moment."
            )

    def _describe(self, user: User, name: str, action: PatchAction) -> dict[str, str]:
        """The action's fields for the audit."""
        match action:
            case SetSchedule(schedule):
                return {"schedule": describe_schedule(schedule) if schedule else "none"}
            case PlanEnd(end):
                return _as_text(end) if end else {"time": "none"}
            case Share(email):
                ends = {} if action.length or action.expires else {"expires": "never"}
                return _as_text(action) | {"user": normal_user(email)} | ends
            case Unshare(email):
                return {"user": normal_user(email)}
            case AnswerAccess(_, allow):
                detail = {"answer": "allowed" if allow else "refused"}
                session = self.context.cluster.session(name)
                asked = session.spec.access_request if session else None
                if session and asked and same_user(session.spec.user, user.email):
                    detail |= {
                        "user": asked.user[:254],
                        "role": asked.role[:20],
                        "length": asked.length[:20],
                    }
                return detail
            case _:
                return _as_text(action)

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
            # Another replica was first, or the next sweep tries again.
            except (
                ActionDenied,
                KubeError,
            ) as error:
                log.debug(
                    "expired access to session %s is not removed: %s", session.metadata.name, error
                )
                continue
            for action, detail in ended:
                await self.audit.record(act_on(session, "vdi-gateway", f"session.{action}", detail))

    async def end(self, user: User, name: str, *, delete_home: bool = False) -> None:
        """Delete the session, and with `delete_home` its files too."""
        async with self._authorized(
            user, Action.END, name, {"home": "deleted"} if delete_home else {}
        ) as session:
            meta = session.metadata
            claim = None
            if delete_home:
                claim = find_home_to_delete(session, self.context.cluster.sessions.values())
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

    async def delete_home(self, user: User, name: str, *, owner: str = "") -> None:
        """Delete one of the user's own homes with all files in it, or as an administrator one of
        `owner`. Refused while a session uses it.
        """
        with self._counted("delete-home", name):
            whose = User(owner) if owner and user.admin else user
            home = self.own_home(whose, name)
            same_name = []
            for other in self.context.cluster.homes_of(whose.email):
                if other.name == name:
                    same_name.append(other.namespace)
            if len(same_name) > 1:
                spaces = " and ".join(same_name)
                message = (
                    f"You have a home {name!r} in each of the namespaces {spaces}. Nothing was"
                    " deleted."
                )
                raise ActionDenied(
                    "Conflict",
                    f"{message} An administrator can delete one with: vdi home rm -n NAMESPACE.",
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

    async def show_message(self, administrator: User, name: str, text: str) -> None:
        """Show a text over a desktop until its users close it."""
        if not text or len(text) > MAX_CHARACTERS or not is_printable(text):
            raise invalid("message", text[:100], f"1 to {MAX_CHARACTERS} printable characters")
        detail = {"message": text}
        async with self._authorized(administrator, Action.MESSAGE, name, detail) as session:
            try:
                await self.context.shared.put(message_key(session), text, MESSAGE_SECONDS)
            except SharedUnavailableError as error:
                raise ActionDenied("Unavailable", f"{error}.") from error

    def own_home(self, user: User, name: str) -> HomeSummary:
        """One of the user's own homes. Refused alike where there is none and where it is another
        user's.
        """
        home = self.context.cluster.home_of(user.email, name)
        if home is None:
            raise ActionDenied("NotFound", f"You have no home {name!r}.")
        return home

    def _decide(self, user: User, session: VDISession, action: PatchAction) -> dict[str, Any]:
        template = self.context.cluster.template(session.spec.template)
        patch = decide(
            session,
            template,
            action,
            self.context.clock(),
            self.context.settings.cluster,
            by=user.email,
        )
        if isinstance(patch, Refusal):
            raise _denied(patch)
        # A new pod mounts the volumes of its user's groups. The groups are known only from that
        # user's own login; at an action of anyone else the annotation stays as it is.
        if (
            patch
            and template
            and isinstance(action, Resume | Restart)
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
        self, user: User, session: VDISession, action: PatchAction
    ) -> AbstractAsyncContextManager[None]:
        is_own = same_user(user.email, session.spec.user)
        if user.admin and not is_own:
            return nullcontext()
        # A collaborator's resume counts for the owner. The owner's groups, which may have limits of
        # their own, are known only from the owner's login; without them the owner's own entry and
        # the default count.
        owner = user if is_own else User(normal_user(session.spec.user))
        if isinstance(action, Resume):
            return self.starter.quota.for_one_more(owner, session)
        if isinstance(action, SetSchedule) and action.schedule:
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
        right: Action,
        name: str,
        detail: Mapping[str, str],
        action: PatchAction | None = None,
    ) -> AsyncIterator[VDISession]:
        """Yield the session, if the user has this right in it; the body is counted and audited.

        An action that changes nothing is not audited: the same schedule set twice is one entry.
        """
        with self._counted(str(right), name):
            async with self._refusal_written(user, str(right), name, detail):
                session = await self._allowed(user, right, name)
            act = act_on(session, user.email, f"session.{right}", detail)
            changes = True
            if action:
                try:
                    changes = bool(self._decide(user, session, action))
                except ActionDenied as why:
                    await self.audit.refuse(act, why.code, user.login_id)
                    raise
            async with self._written(user, act) if changes else nullcontext():
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


def message_key(session: VDISession) -> str:
    """The key in the shared state of the text that `Actions.show_message` shows."""
    return f"message/{session.metadata.uid}"


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


def _as_text(struct: msgspec.Struct) -> dict[str, str]:
    """The fields that have a value, bounded."""
    fields = msgspec.to_builtins(struct).items()
    return {name: str(value)[:200] for name, value in fields if value not in (None, "", 0)}


def _denied(refusal: Refusal) -> ActionDenied:
    if refusal.field:
        fields = [FieldProblem(refusal.field, refusal.allowed, refusal.value)]
    else:
        fields = []
    return ActionDenied(refusal.code, refusal.message, *fields)
