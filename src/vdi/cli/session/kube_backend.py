"""Session commands at the Kubernetes API, with the rights of the user's own kubeconfig account."""

import asyncio
import base64
import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from vdi.api.session import FULL_CONTROL, Phase, VDISession
from vdi.api.template import Scheme, VDITemplate
from vdi.cli.errors import FINDINGS, USAGE, CliError
from vdi.cli.options import KubeConnection
from vdi.cli.output import Raw, now_utc, parse_time
from vdi.cli.session.backend import Backend, Opening, Watch
from vdi.cli.session.operations import get_template
from vdi.cli.session.view import SessionDetails, condition_reason, phase
from vdi.cluster.explain import StartState, explain, explain_unschedulable
from vdi.cluster.objects import Event, PersistentVolumeClaim, Pod
from vdi.kinds import ROUTES, SESSIONS, TEMPLATES
from vdi.kube.errors import AlreadyExists, BadRequest, Conflict, Forbidden, NotFound, Replaced
from vdi.kube.meta import T
from vdi.kube.resource import CLAIMS, EVENTS, PODS, SECRETS, SERVICES, Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector
from vdi.session.actions import Extend, PatchAction, Refusal, Resize, Share, decide
from vdi.session.children import MASTER_TOKEN_DIGEST, PASSWORD_KEY, USERNAME
from vdi.session.conditions import HOME_BOUND, Reason
from vdi.session.homes import own_claim, retained_claim
from vdi.session.naming import PROTOCOL, SCHEME, pod_name, route_name, secret_name, service_name
from vdi.session.request import SessionRequest, build_session

R = TypeVar("R")
_MAX_ATTEMPTS = 5  # of a change while others change the session too
_EVENTS_SHOWN = 15
# The state of an object that does not exist, by phase; in other phases it is `missing`.
_ABSENT = {"Pending": "not created yet", "Suspended": "none while it is suspended"}


@dataclass(frozen=True, slots=True)
class KubeTarget:
    """A namespace of a cluster, as the target of commands."""

    connection: KubeConnection
    why: str

    @property
    def flags(self) -> str:
        return self.connection.flags

    @property
    def user(self) -> str:
        # An account of the cluster has no e-mail address, and creates sessions for other users.
        return ""

    @property
    def where(self) -> str:
        return f"in namespace {self.connection.namespace}"

    def run(self, work: Callable[["KubeBackend"], Awaitable[R]]) -> R:
        return self.connection.run(
            lambda client: work(KubeBackend(client, self.connection.namespace))
        )


@dataclass(frozen=True, slots=True)
class RunningDesktop:
    """A desktop as its pod shows it. It asks for the session's password, unless one of the two is
    true.
    """

    pod: str
    serves_web: bool  # a page of the image's own
    takes_tokens: bool  # those of the gateway
    scheme: str  # `http` or `https`


@dataclass(frozen=True, slots=True)
class KubeBackend:
    """Sessions of one namespace, through the Kubernetes API."""

    client: Client
    namespace: str

    @property
    def where(self) -> str:
        return f"in namespace {self.namespace}"

    @property
    def offers(self) -> str:
        return "available on this cluster"

    async def create(self, request: SessionRequest) -> Raw:
        # Without the right to read templates, unnamed resources get the schema's defaults.
        template = None
        with suppress(Forbidden):
            raw = await get_template(self, request.template)
            if request.names_resources:
                template = msgspec.convert(raw, VDITemplate)
        body = build_session(request, self.namespace, template)
        try:
            return await self.client.create(
                SESSIONS, body, namespace=self.namespace, into=dict[str, Any]
            )
        except AlreadyExists as error:
            raise CliError(await self._describe_existing(body["metadata"]["name"])) from error

    async def _describe_existing(self, name: str) -> str:
        there = msgspec.convert(await self.get(name), VDISession)
        return (
            f"session {name} already exists {self.where}: {there.spec.user}, template"
            f" {there.spec.template}, {phase(there)}. Open that one, or choose another NAME"
        )

    async def get(self, name: str) -> Raw:
        try:
            return await self.client.get(
                SESSIONS, name, namespace=self.namespace, into=dict[str, Any]
            )
        except NotFound as error:
            if error.api_missing:
                raise
            raise CliError(f"there is no session {name} {self.where}") from error

    async def list(self, user: str | None, *, everywhere: bool) -> list[Raw]:
        namespace = None if everywhere else self.namespace
        sessions = await self.client.list(SESSIONS, namespace=namespace, into=dict[str, Any])
        mine = [session for session in sessions if not user or session["spec"].get("user") == user]
        return sorted(
            mine,
            key=lambda session: (
                session["metadata"]["creationTimestamp"],
                session["metadata"]["name"],
            ),
        )

    async def act(self, session: VDISession, request: PatchAction) -> Raw:
        meta = session.metadata
        for _ in range(_MAX_ATTEMPTS):
            patch = decide(session, await self._template_for(session, request), request, now_utc())
            if isinstance(patch, Refusal):
                raise CliError(patch.message, USAGE if patch.code == "Invalid" else FINDINGS)
            if not patch:
                return await self.get(meta.name)
            try:
                return await self.client.patch(
                    SESSIONS, meta.name, patch, namespace=meta.namespace, into=dict[str, Any]
                )
            except Replaced:
                raise
            except Conflict:
                # Another writer was faster. Its change may be to the same list of guests, so decide
                # again.
                session = msgspec.convert(await self.get(meta.name), VDISession)
                if session.metadata.uid != meta.uid:
                    raise
        raise CliError(f"session {meta.name} keeps being changed by others; try again")

    async def _template_for(self, session: VDISession, request: PatchAction) -> VDITemplate | None:
        """The template, where the decision needs it; None: it does not exist."""
        if not isinstance(request, Extend | Resize | Share):
            return None
        try:
            return await self.client.get(TEMPLATES, session.spec.template, into=VDITemplate)
        except NotFound:
            return None
        except Forbidden:
            # The operator still ends the run at the template's maximum. But nothing here tells
            # whether a viewer can be held to viewing, so that share is refused.
            if isinstance(request, Share) and request.role not in FULL_CONTROL:
                raise
            return None

    async def remove(self, session: VDISession, claim: str | None) -> None:
        meta = session.metadata
        try:
            await self.client.delete(
                SESSIONS, meta.name, namespace=meta.namespace, uid=meta.uid, into=dict[str, Any]
            )
        except NotFound as error:
            if error.api_missing:
                raise
        if claim:
            with suppress(NotFound):
                await self.client.delete(
                    CLAIMS, claim, namespace=meta.namespace, into=dict[str, Any]
                )

    async def opening(self, session: VDISession) -> Opening:
        # Behind a gateway the Secret holds no password but Selkies' master token, which is never
        # shown.
        running = await self.running_desktop(session)
        if running.serves_web or running.takes_tokens:
            return Opening(session.status.url)
        return Opening(session.status.url, USERNAME, await self.password(session))

    async def password(self, session: VDISession) -> str:
        """The password in the session's Secret; behind a gateway it is Selkies' master token."""
        secret_of = secret_name(session.metadata.name)
        try:
            secret = await self.client.get(
                SECRETS, secret_of, namespace=self.namespace, into=dict[str, Any]
            )
            return base64.b64decode(secret["data"][PASSWORD_KEY]).decode()
        except NotFound as error:
            raise CliError(
                f"the password's Secret {secret_of} does not exist {self.where}"
            ) from error
        except (KeyError, ValueError) as error:
            said = f"Secret {secret_of} {self.where} has no readable key {PASSWORD_KEY!r}"
            raise CliError(said) from error

    async def running_desktop(self, session: VDISession) -> RunningDesktop:
        """The desktop of the session's pod. Raises CliError without one."""
        pod = session.status.pod_name or pod_name(session.metadata.name)
        try:
            raw = await self.client.get(PODS, pod, namespace=self.namespace, into=dict[str, Any])
        except NotFound as error:
            raise CliError(f"session {session.metadata.name} no longer has a pod {pod}") from error
        # Behind a gateway the operator starts Selkies in secure mode, with a master token in its
        # environment.
        containers = raw.get("spec", {}).get("containers", [])
        given = set()
        for container in containers:
            for variable in container.get("env", []):
                given.add(variable.get("name"))
        annotations = raw["metadata"].get("annotations", {})
        return RunningDesktop(
            pod=pod,
            serves_web=PROTOCOL in annotations,
            takes_tokens=MASTER_TOKEN_DIGEST in given,
            scheme=str(annotations.get(SCHEME, Scheme.HTTP)).lower(),
        )

    def watch(
        self, name: str | None = None, *, everywhere: bool = False, user: str | None = None
    ) -> AbstractAsyncContextManager[Watch[VDISession]]:
        del user  # a watch of the API has no selector for it
        namespace = None if everywhere else self.namespace
        return watch_objects(self.client, SESSIONS, VDISession, namespace=namespace, name=name)

    async def templates(self) -> builtins.list[Raw]:
        found = await self.client.list(TEMPLATES, into=dict[str, Any])
        return sorted(found, key=lambda raw: str(raw["metadata"]["name"]))

    async def template(self, name: str) -> Raw | None:
        try:
            return await self.client.get(TEMPLATES, name, into=dict[str, Any])
        except NotFound as error:
            if error.api_missing:
                raise
            return None
        except Forbidden:
            return None


async def log_lines(
    backend: KubeBackend, session: VDISession, *, follow: bool, tail: int | None
) -> AsyncIterator[str]:
    """The log of the desktop's container. Raises CliError with the reason when there is no log."""
    pod = session.status.pod_name or pod_name(session.metadata.name)
    started = False
    try:
        async for line in backend.client.log_lines(
            backend.namespace, pod, follow=follow, tail=tail
        ):
            started = True
            yield line
    except (NotFound, BadRequest) as error:
        if isinstance(error, NotFound):
            what = "has no pod"
        else:
            what = "has not started its container"
        raise CliError(_no_log(session, what, error.message)) from error
    # A pod without a node has an empty log, which is no error to the API server.
    if not started and session.status.phase != Phase.RUNNING:
        raise CliError(_no_log(session, "has not started", "its status does not contain a reason"))


def _no_log(session: VDISession, what: str, otherwise: str) -> str:
    said = session.status.message or otherwise
    return f"session {session.metadata.name} ({phase(session)}) {what}, so there is no log: {said}"


@asynccontextmanager
async def watch_pod(
    backend: Backend, session: VDISession, on_change: Callable[[], None]
) -> AsyncIterator[Watch[Pod] | None]:
    """Watch the session's pod. None through a gateway, which shows no pods, and without the right
    to read them.
    """
    async with AsyncExitStack() as stack:
        watch = None
        if isinstance(backend, KubeBackend):
            meta = session.metadata
            pods = watch_objects(
                backend.client,
                PODS,
                Pod,
                namespace=meta.namespace,
                name=pod_name(meta.name),
                on_change=on_change,
            )
            with suppress(Forbidden):
                watch = await stack.enter_async_context(pods)
        yield watch


@asynccontextmanager
async def watch_objects(
    client: Client,
    resource: Resource,
    into: type[T],
    *,
    namespace: str | None,
    name: str | None,
    on_change: Callable[[], None] = lambda: None,
) -> AsyncIterator[Watch[T]]:
    """Watch one object or all of a kind until the context ends; reconnects by itself."""
    selector = f"metadata.name={name}" if name else None
    # Raises a KubeError at once when they may not be listed: the reflector alone would try for
    # ever.
    await client.list(resource, namespace=namespace, field_selector=selector, into=into)
    store: Store[T] = Store()
    watch = Watch(store)
    store.listen(watch.put)
    store.listen(lambda _old, _new: on_change())
    reflector = Reflector(
        client, resource, into, store, namespace=namespace, field_selector=selector
    )
    async with watch.following(reflector.run(), reflector.wait_synced()):
        yield watch


async def collect_details(client: Client, session: VDISession) -> SessionDetails:
    """Collect all that `show` prints about one session; all reads run concurrently."""
    meta = session.metadata
    claim = retained_claim(session) or own_claim(session) or ""
    pod = session.status.pod_name or pod_name(meta.name)
    states: dict[tuple[Resource, str], Callable[[Raw], str]] = {
        (PODS, pod): _pod_state,
        (SERVICES, service_name(meta.name)): _service_state,
        (ROUTES, route_name(meta.name)): _route_state,
        (SECRETS, secret_name(meta.name)): lambda _: "opens the desktop",
    }
    if claim and condition_reason(session, HOME_BOUND) != Reason.NO_HOME:
        states[CLAIMS, claim] = _claim_state
    unreadable: list[str] = []

    async def read(what: str, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except Forbidden as error:
            unreadable.append(f"{what}: {error.message}")
            return None

    async def find(resource: Resource, name: str) -> Raw | str:
        """The object, or the reason why it does not exist."""
        try:
            return await client.get(resource, name, namespace=meta.namespace, into=dict[str, Any])
        except NotFound as error:
            if error.api_missing:
                return f"missing: the {resource.group} CRDs are not on this cluster"
            return _ABSENT.get(session.status.phase, "missing")

    *answers, events = await asyncio.gather(
        *(read(f"{resource.kind} {name}", find(resource, name)) for resource, name in states),
        read("the events", _events(client, session, {meta.name, pod, claim})),
    )
    raws = dict(zip(states, answers, strict=True))
    return SessionDetails(
        session=session,
        objects=[
            (
                key[0].kind,
                key[1],
                *((raw, "") if isinstance(raw, str) else _describe(raw, states[key])),
            )
            for key, raw in raws.items()
            if raw is not None
        ],
        events=[_event_row(raw) for raw in events or ()],
        explanation=_explain(raws[PODS, pod], raws.get((CLAIMS, claim)), events or ()),
        unreadable=sorted(unreadable),
    )


def _describe(raw: Raw, state: Callable[[Raw], str]) -> tuple[str, str]:
    """State and time of creation of an object."""
    meta = raw["metadata"]
    return state(raw) + (", being deleted" if meta.get("deletionTimestamp") else ""), meta.get(
        "creationTimestamp", ""
    )


def _explain(pod: Raw | str | None, claim: Raw | str | None, events: Sequence[Raw]) -> str:
    """The operator's explanation, computed here: it works without an operator too."""
    if not isinstance(pod, dict):
        return ""
    seen = msgspec.convert(pod, Pod)
    if seen.ready:
        return ""
    home = None
    if isinstance(claim, dict):
        home = msgspec.convert(claim, PersistentVolumeClaim)
    return explain(
        StartState(seen, home, tuple(msgspec.convert(event, Event) for event in events))
    ).sentence


def _pod_state(raw: Raw) -> str:
    status = raw.get("status", {})
    containers = status.get("containerStatuses", [])
    if containers and all(container.get("ready") for container in containers):
        ready = "ready"
    else:
        ready = "not ready"
    restarts = sum(container.get("restartCount", 0) for container in containers)
    return f"{status.get('phase', 'Unknown')}, {ready}" + (
        f", restarted {restarts} times" if restarts else ""
    )


def _claim_state(raw: Raw) -> str:
    spec, status = raw.get("spec", {}), raw.get("status", {})
    size = spec.get("resources", {}).get("requests", {}).get("storage", "?")
    return (
        f"{status.get('phase', 'Unknown')}, {size}, class"
        f" {spec.get('storageClassName', '(default)')}"
    )


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
            client.list(
                EVENTS,
                namespace=namespace,
                field_selector=f"regarding.name={name}",
                into=dict[str, Any],
            )
            for name in sorted(names)
        )
    )
    dated = []
    for raws in lists:
        for raw in raws:
            if when := parse_time(_last_seen(raw)):
                dated.append((when, raw))
    since = [event for event in dated if created is None or event[0] >= created]
    return [raw for _, raw in sorted(since, key=lambda event: event[0])][-_EVENTS_SHOWN:]


def _last_seen(event: Raw) -> str:
    """When an Event was last seen: `series` in the new API, `deprecatedLastTimestamp` from the
    kubelet's old one.
    """
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
    )
    return next(
        (str(time) for time in times if time), str(event["metadata"].get("creationTimestamp", ""))
    )


def _event_row(event: Raw) -> tuple[str, str, str]:
    note = event.get("note", "")
    if event.get("reason") == "FailedScheduling":
        text = explain_unschedulable(note)[1]
    else:
        text = note
    count = (event.get("series") or {}).get("count") or event.get("deprecatedCount") or 1
    return (
        _last_seen(event),
        event.get("regarding", {}).get("kind", ""),
        text + (f" (x{count})" if count > 1 else ""),
    )
