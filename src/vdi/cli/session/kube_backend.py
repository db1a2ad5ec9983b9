"""Session commands at the Kubernetes API, with the rights of the user's own kubeconfig account."""

import asyncio
import base64
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from vdi.api.session import FULL_CONTROL, Access, GuestRole, Phase, VDISession
from vdi.api.template import Scheme, VDITemplate
from vdi.cli.errors import CliError
from vdi.cli.options import KubeConnection
from vdi.cli.output import Raw, now_utc, parse_time
from vdi.cli.session.backend import Backend, Opening
from vdi.cli.session.kube_watch import ObjectWatch, watch_objects
from vdi.cli.session.view import SessionDetails, SessionEvent, SessionObject, condition_reason, phase
from vdi.cluster.explain import StartState, explain, explain_unschedulable
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod
from vdi.cluster.units import format_time
from vdi.kinds import ROUTES, SESSIONS, TEMPLATES
from vdi.kube.errors import AlreadyExists, BadRequest, Conflict, Forbidden, NotFound, Replaced
from vdi.kube.resource import CLAIMS, EVENTS, PODS, SECRETS, SERVICES, Resource
from vdi.kube.transport import Client
from vdi.session.children import MASTER_TOKEN, MASTER_TOKEN_DIGEST, PASSWORD_KEY, USERNAME
from vdi.session.conditions import HOME_BOUND, Reason
from vdi.session.homes import own_claim, retained_claim
from vdi.session.naming import PROTOCOL, RESTARTED_AT, SCHEME, pod_name, route_name, secret_name, service_name
from vdi.session.request import SessionRequest, build_session
from vdi.session.streaming import refuse_view_only

_EVENTS_SHOWN = 15
# The state of an object that does not exist, by phase; in other phases it is `missing`.
_ABSENT = {"Pending": "not created yet", "Suspended": "none while it is suspended"}


async def collect_details(client: Client, session: VDISession) -> SessionDetails:
    """Collect the details of one session; all reads run concurrently."""

    meta = session.metadata
    claim = retained_claim(session) or own_claim(session) or ""
    pod = session.status.pod_name or pod_name(meta.name)
    objects = [
        (PODS, pod, _pod_state),
        (SERVICES, service_name(meta.name), _service_state),
        (ROUTES, route_name(meta.name), _route_state),
        (SECRETS, secret_name(meta.name), lambda _: "opens the desktop"),
    ]
    if claim and condition_reason(session, HOME_BOUND) != Reason.NO_HOME:
        objects.append((CLAIMS, claim, _claim_state))
    absent = _ABSENT.get(session.status.phase, "missing")
    *found, events = await asyncio.gather(
        *(_read(f"{kind.kind} {name}", _find(client, meta.namespace, kind, name, absent)) for kind, name, _ in objects),
        _read("the events", _events(client, session, {meta.name, pod, claim})),
    )
    children = [
        SessionObject(kind.kind, name, _state(raw, state), raw.get("metadata", {}).get("creationTimestamp", ""))
        for (kind, name, state), raw in zip(objects, found, strict=True)
        if not isinstance(raw, str)
    ]
    found_events = [] if isinstance(events, str) else events
    return SessionDetails(
        session=session,
        children=children,
        events=[_session_event(raw) for raw in found_events],
        explanation=_why(found[0], found[4] if len(found) > 4 else {}, found_events),
        unreadable=[problem for problem in (*found, events) if isinstance(problem, str)],
    )


async def _read(what: str, work: Awaitable[Any]) -> Any:
    """The result, or a string that says why it could not be read."""
    try:
        return await work
    except Forbidden as error:
        return f"{what}: {error.message}"


async def _find(client: Client, namespace: str, resource: Resource, name: str, absent: str) -> Raw:
    """The object; when it does not exist, one with only the key `missing`."""
    try:
        return await client.get(resource, name, namespace=namespace, into=dict[str, Any])
    except NotFound as error:
        return {
            "missing": f"missing: the {resource.group} CRDs are not on this cluster" if error.api_missing else absent
        }


def _state(raw: Raw, state: Callable[[Raw], str]) -> str:
    if "missing" in raw:
        return str(raw["missing"])
    return state(raw) + (", being deleted" if raw["metadata"].get("deletionTimestamp") else "")


def _why(pod: Raw | str, claim: Raw | str, events: Sequence[Raw]) -> str:
    """The operator's explanation, computed here: it works without an operator too."""
    if isinstance(pod, str) or "missing" in pod:
        return ""
    seen = msgspec.convert(pod, Pod)
    if seen.ready:
        return ""
    home = None if isinstance(claim, str) or "metadata" not in claim else msgspec.convert(claim, PersistentVolumeClaim)
    return explain(StartState(seen, home, tuple(msgspec.convert(event, Event) for event in events))).sentence


def _pod_state(raw: Raw) -> str:
    status = raw.get("status", {})
    containers = status.get("containerStatuses", [])
    ready = "ready" if containers and all(container.get("ready") for container in containers) else "not ready"
    restarts = sum(container.get("restartCount", 0) for container in containers)
    return f"{status.get('phase', 'Unknown')}, {ready}" + (f", restarted {restarts} times" if restarts else "")


def _claim_state(raw: Raw) -> str:
    spec, status = raw.get("spec", {}), raw.get("status", {})
    size = spec.get("resources", {}).get("requests", {}).get("storage", "?")
    return f"{status.get('phase', 'Unknown')}, {size}, class {spec.get('storageClassName', '(default)')}"


def _service_state(raw: Raw) -> str:
    ports = ", ".join(str(port.get("port")) for port in raw.get("spec", {}).get("ports", []))
    return f"port {ports}" if ports else "no ports"


def _route_state(raw: Raw) -> str:
    matches = [route.get("match", "?") for route in raw.get("spec", {}).get("routes", [])]
    return ", ".join(matches) or "no routes"


async def _events(client: Client, session: VDISession, names: set[str]) -> Sequence[Raw]:
    """The newest Events about objects of these names, oldest first; none older than the session."""
    namespace, created = session.metadata.namespace, parse_time(session.metadata.creation_timestamp)
    lists: list[list[dict[str, Any]]] = await asyncio.gather(
        *(
            client.list(EVENTS, namespace=namespace, field_selector=f"regarding.name={name}", into=dict[str, Any])
            for name in sorted(names)
        )
    )
    dated = [(when, raw) for raws in lists for raw in raws if (when := parse_time(_when(raw)))]
    since = [event for event in dated if created is None or event[0] >= created]
    return [raw for _, raw in sorted(since, key=lambda event: event[0])][-_EVENTS_SHOWN:]


def _when(event: Raw) -> str:
    """When an Event was last seen: `series` in the new API, `deprecatedLastTimestamp` from the kubelet's old one."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    return next((str(time) for time in times if time), str(event["metadata"].get("creationTimestamp", "")))


def _session_event(event: Raw) -> SessionEvent:
    note, about = event.get("note", ""), event.get("regarding", {}).get("kind", "")
    text = explain_unschedulable(note)[1] if event.get("reason") == "FailedScheduling" else note
    count = (event.get("series") or {}).get("count") or event.get("deprecatedCount") or 1
    return SessionEvent(when=_when(event), about=about, text=text, count=count)


T = TypeVar("T")
# Attempts to edit a list of guests while others write the session.
_MAX_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class KubeTarget:
    """A namespace of a cluster."""

    connection: KubeConnection
    # Why commands go here.
    why: str

    @property
    def flags(self) -> str:
        """See Target."""
        return self.connection.flags

    @property
    def user(self) -> str:
        """See Target: an account of the cluster creates sessions for other users."""
        return ""

    @property
    def where(self) -> str:
        """See Target."""
        return f"in namespace {self.connection.namespace}"

    def run(self, work: Callable[[Backend], Awaitable[T]]) -> T:
        """See Target."""
        return self.connection.run(lambda client: work(KubeBackend(client, self.connection.namespace)))


@dataclass(frozen=True, slots=True)
class RunningDesktop:
    """What a pod shows of how its desktop is entered. Neither of the first two: with the session's password."""

    # A page of the image's own, which asks for nothing of ours.
    serves_web: bool
    # Of the gateway, in Selkies' secure mode.
    takes_tokens: bool
    # `http` or `https`.
    scheme: str


@dataclass(frozen=True, slots=True)
class KubeBackend:
    """See Backend."""

    client: Client
    namespace: str

    @property
    def where(self) -> str:
        """See Backend."""
        return f"in namespace {self.namespace}"

    @property
    def offers(self) -> str:
        """See Backend."""
        return "available on this cluster"

    async def create(self, request: SessionRequest) -> Raw:
        """See Backend. Without the right to read templates, unnamed resources get the schema's defaults."""
        raw = await self.template(request.template) if request.names_resources else None
        body = build_session(request, self.namespace, msgspec.convert(raw, VDITemplate) if raw else None)
        try:
            return await self.client.create(SESSIONS, body, namespace=self.namespace, into=dict[str, Any])
        except AlreadyExists as error:
            raise CliError(await self._describe_existing(body["metadata"]["name"])) from error

    async def _describe_existing(self, name: str) -> str:
        there = msgspec.convert(await self.get(name), VDISession)
        return (
            f"session {name} already exists {self.where}: {there.spec.user}, template {there.spec.template}, "
            f"{phase(there)}. Open that one, or choose another NAME"
        )

    async def get(self, name: str) -> Raw:
        """See Backend."""
        try:
            return await self.client.get(SESSIONS, name, namespace=self.namespace, into=dict[str, Any])
        except NotFound as error:
            if error.api_missing:
                raise
            raise CliError(f"there is no session {name} {self.where}") from error

    async def list(self, user: str | None, *, everywhere: bool) -> list[Raw]:
        """See Backend."""
        namespace = None if everywhere else self.namespace
        found = await self.client.list(SESSIONS, namespace=namespace, into=dict[str, Any])
        mine = [session for session in found if user is None or session["spec"].get("user") == user]
        return sorted(mine, key=lambda session: (session["metadata"]["creationTimestamp"], session["metadata"]["name"]))

    async def details(self, session: VDISession) -> SessionDetails:
        """See Backend."""
        return await collect_details(self.client, session)

    async def set_suspended(self, session: VDISession, suspended: bool) -> Raw:
        """See Backend."""
        return await self._patch(session, {"spec": {"suspended": suspended}})

    async def restart(self, session: VDISession, now: datetime) -> Raw:
        """See Backend."""
        return await self._patch(session, {"metadata": {"annotations": {RESTARTED_AT: format_time(now)}}})

    async def set_timeout(self, session: VDISession, length: str) -> Raw:
        """See Backend."""
        return await self._patch(session, {"spec": {"timeout": length}})

    async def set_schedule(self, session: VDISession, schedule: Raw | None) -> Raw:
        """See Backend."""
        return await self._patch(session, {"spec": {"schedule": schedule}})

    async def share(self, session: VDISession, user: str, role: GuestRole, expires: datetime | None) -> Raw:
        """See Backend. Without the right to read templates nothing is refused here: the edge refuses such viewers."""
        from vdi.gateway.guests import add_guest

        raw = await self.template(session.spec.template) if role not in FULL_CONTROL else None
        if raw and (why := refuse_view_only(msgspec.convert(raw, VDITemplate))):
            raise CliError(f"{why} Run: vdi session share {session.metadata.name} {user} --role collaborator")
        return await self._edit_guests(session, lambda now: add_guest(now, user, role, expires, now_utc()))

    async def unshare(self, session: VDISession, user: str) -> Raw:
        """See Backend."""
        from vdi.gateway.guests import remove_guest

        return await self._edit_guests(session, lambda now: remove_guest(now, user))

    async def _edit_guests(self, session: VDISession, edit: Callable[[VDISession], tuple[Access, ...]]) -> Raw:
        """Write the list that `edit` makes of the current one, with optimistic concurrency."""
        from vdi.gateway.denied import ActionDenied

        meta = session.metadata
        for _ in range(_MAX_ATTEMPTS):
            try:
                guests = edit(session)
            except ActionDenied as refused:
                raise CliError(refused.sentence) from refused
            version = {"resourceVersion": session.metadata.resource_version}
            change = {"spec": {"access": msgspec.to_builtins(guests)}, "metadata": version}
            try:
                return await self._patch(session, change)
            except Replaced:
                raise
            except Conflict:
                session = msgspec.convert(await self.get(meta.name), VDISession)
        raise CliError(f"session {meta.name} keeps being changed by others; try again")

    async def has_home(self, session: VDISession, claim: str) -> bool:
        """See Backend."""
        try:
            await self.client.get(CLAIMS, claim, namespace=session.metadata.namespace, into=dict[str, Any])
        except NotFound as error:
            if error.api_missing:
                raise
            return False
        return True

    async def remove(self, session: VDISession, claim: str | None) -> None:
        """See Backend."""
        meta = session.metadata
        try:
            await self.client.delete(SESSIONS, meta.name, namespace=meta.namespace, uid=meta.uid, into=dict[str, Any])
        except NotFound as error:
            if error.api_missing:
                raise
        if claim:
            await self.client.delete(CLAIMS, claim, namespace=meta.namespace, into=dict[str, Any])

    async def opening(self, session: VDISession) -> Opening:
        """See Backend. Behind a gateway the Secret holds no password but Selkies' master token, which is not shown."""
        running = await self.running_desktop(session)
        if running.serves_web or running.takes_tokens:
            return Opening(session.status.url)
        return Opening(session.status.url, USERNAME, await self.password(session))

    async def password(self, session: VDISession) -> str:
        """The password in the session's Secret; behind a gateway it is Selkies' master token."""
        secret_of = secret_name(session.metadata.name)
        try:
            secret = await self.client.get(SECRETS, secret_of, namespace=self.namespace, into=dict[str, Any])
            return base64.b64decode(secret["data"][PASSWORD_KEY]).decode()
        except NotFound as error:
            raise CliError(f"the password's Secret {secret_of} does not exist {self.where}") from error
        except (KeyError, ValueError) as error:
            said = f"Secret {secret_of} {self.where} has no readable key {PASSWORD_KEY!r}"
            raise CliError(said) from error

    async def running_desktop(self, session: VDISession) -> RunningDesktop:
        """What the session's pod was started as. Raises CliError without one."""
        pod = session.status.pod_name or pod_name(session.metadata.name)
        try:
            raw = await self.client.get(PODS, pod, namespace=self.namespace, into=dict[str, Any])
        except NotFound as error:
            raise CliError(f"session {session.metadata.name} no longer has a pod {pod}") from error
        containers = raw.get("spec", {}).get("containers", [])
        given = {variable.get("name") for container in containers for variable in container.get("env", [])}
        annotations = raw["metadata"].get("annotations", {})
        return RunningDesktop(
            serves_web=PROTOCOL in annotations,
            takes_tokens=not given.isdisjoint((MASTER_TOKEN, MASTER_TOKEN_DIGEST)),
            scheme=str(annotations.get(SCHEME, Scheme.HTTP)).lower(),
        )

    async def log_lines(self, session: VDISession, *, follow: bool, tail: int | None) -> AsyncIterator[str]:
        """See Backend."""
        pod = session.status.pod_name or pod_name(session.metadata.name)
        started = False
        try:
            async for line in self.client.log_lines(self.namespace, pod, follow=follow, tail=tail):
                started = True
                yield line
        except (NotFound, BadRequest) as error:
            what = "has no pod" if isinstance(error, NotFound) else "has not started its container"
            raise CliError(_no_log(session, what, error.message)) from error
        if not started and session.status.phase != Phase.RUNNING:  # a pod without a node has an empty log, no error
            raise CliError(_no_log(session, "has not started", "its status does not contain a reason"))

    @asynccontextmanager
    async def watch(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AsyncIterator[ObjectWatch[VDISession]]:
        """See Backend. All sessions of the namespace come, whatever the user."""
        del user
        namespace = None if everywhere else self.namespace
        async with watch_objects(self.client, SESSIONS, VDISession, namespace=namespace, name=name) as sessions:
            yield sessions

    @asynccontextmanager
    async def watch_pod(
        self, session: VDISession, on_change: Callable[[], None]
    ) -> AsyncIterator[ObjectWatch[Pod] | None]:
        """See Backend. A pod is up to 3 s ahead of the session's status."""
        meta = session.metadata
        async with AsyncExitStack() as stack:
            name = pod_name(meta.name)
            pods = watch_objects(self.client, PODS, Pod, namespace=meta.namespace, name=name, on_change=on_change)
            try:
                found = await stack.enter_async_context(pods)
            except Forbidden:
                found = None
            yield found

    async def templates(self) -> builtins.list[Raw]:
        """See Backend."""
        found = await self.client.list(TEMPLATES, into=dict[str, Any])
        return sorted(found, key=lambda raw: str(raw["metadata"]["name"]))

    async def template(self, name: str) -> Raw | None:
        """See Backend."""
        try:
            return await self.client.get(TEMPLATES, name, into=dict[str, Any])
        except NotFound as error:
            if error.api_missing:
                raise
            return None
        except Forbidden:
            return None

    async def _patch(self, session: VDISession, change: dict[str, Any]) -> Raw:
        """Change the session with this UID, and no later one of its name."""
        meta = session.metadata
        body = {**change, "metadata": {"uid": meta.uid, **change.get("metadata", {})}}
        return await self.client.patch(SESSIONS, meta.name, body, namespace=meta.namespace, into=dict[str, Any])


def _no_log(session: VDISession, what: str, otherwise: str) -> str:
    said = session.status.message or otherwise
    return f"session {session.metadata.name} ({phase(session)}) {what}, so there is no log: {said}"
