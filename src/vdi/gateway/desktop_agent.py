"""The agent in a desktop: the key that authenticates requests to it, and what users get from it: a
small picture of the screen, the results of start-up scripts, and latency probes.

The gateway asks an agent as the operator does: at the pod's address, with a token derived from the
release's desktop key. The gateway may read no Secret in the namespaces of sessions, so it derives
the tokens itself; the operator draws the key and writes the same tokens into the Secrets of
desktops.

An agent's response is untrusted input, because its user can put any program in its place: no proxy
of the environment, no redirects, and a limit to time and size. A picture is stored nowhere. The
measurements of a probe are untrusted input too: they can change the figures of the user's own
template and nothing else.
"""

import asyncio
import logging
import re
import secrets
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Literal, Unpack

import msgspec
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from vdi.api.constraints import doc
from vdi.api.session import Phase, Role, VDISession
from vdi.api.template import VDITemplate
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied, refused_by_cluster
from vdi.gateway.in_flight import (
    ANSWER_COPIES,
    ANSWERS_BYTES,
    PAGES,
    POLLED_BYTES,
    POLLS,
    SMALL_ANSWER_BYTES,
    USER_ANSWERS_BYTES,
    USER_POLLED_BYTES,
    AnswerBudget,
    Lane,
    RequestLimits,
)
from vdi.gateway.rights import Action, User, is_token, no_desktop, refusal, role_in
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web.middleware import is_address
from vdi.http_client import (
    HTTP_ERRORS,
    BadResponseError,
    RequestOptions,
    Response,
    ResponseStream,
    open_client,
    read_headers,
)
from vdi.kinds import SESSIONS
from vdi.kube.connections import request_once
from vdi.kube.errors import KubeError
from vdi.kube.http import Connection, HttpError, url_host
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.latency_probe.measurements import MAX_LATENCY_MS, Mark, Measurements
from vdi.session.credentials import KEY_SECRET, DesktopTokens, decode_key, derive_tokens
from vdi.session.naming import service_name
from vdi.session.recording import refuse_picture
from vdi.session.resize import MemoryAlert, find_memory_alert
from vdi.session.streaming import takes_tokens
from vdi.session.users import normal_user

log = logging.getLogger(__name__)

# For clients of desktops, which speak plain HTTP: loading the usual authorities takes 20 ms each
# time.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AGENT_PORT = 8082
# The desktop's page waits for the report on start-up scripts.
SCRIPTS_SECONDS = 2.0
SCRIPTS_MAX_BYTES = 64 * 1024
MAX_SCRIPTS = 2
MAX_LINES, MAX_CHARACTERS = 40, 4096
# After a poll that failed.
POLL_AGAIN_SECONDS = 5.0
# From the first bytes of the answer to a poll to its last: an agent that sends slowly must not keep
# bytes from others.
POLLED_SECONDS = 5.0
THUMBNAIL_SECONDS = 5.0  # one more than the agent's program has
THUMBNAIL_MAX_BYTES = 16 * 1024
# Pixels: a JPEG of a few kilobytes can name a size that takes gigabytes to decode.
THUMBNAIL_MAX_SIDE = 640
# JPEG markers of the segment with the size: baseline, extended and progressive.
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC2})
# The longest that an agent accepts. Connecting and the first picture may take half of it.
ARMED_SECONDS = 60
MARK_SECONDS = 3.0
MARK_MAX_BYTES = 4096
PROBE_SECONDS = 180.0
# Requests for one session in so many seconds, over all replicas. Pictures: four open pages with two
# each.
WINDOW_SECONDS, MAX_THUMBNAILS, MAX_PROBES = 60, 12, 6
# Seconds of each read and write of a request without a time of its own: a copy of a file.
SILENT_SECONDS = 30.0
CONNECT_SECONDS = 5.0
# Stages in which a probe can fail (`vdi.latency_probe.client.StageError`).
Stage = Literal["entering", "connecting", "first picture", "the mark", "measuring"]
# Of a poll of the gateway's own (`poll_agents`): what it holds until its next request, or its end.
_polling: ContextVar[AsyncExitStack | None] = ContextVar("polling", default=None)
_TERMINAL_COMMAND = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def desktop_url(session: VDISession, port: int) -> str:
    """Base URL of a port of the session's pod."""
    # By address: cluster DNS learns of a ready desktop a moment after its session is Running, and a
    # client that asked before gets "no such name" for seconds (CoreDNS's `ttl`, 5 s). Under an
    # operator that does not write status.podIP yet, the name of the headless Service leads to the
    # same port.
    address, meta = session.status.pod_ip, session.metadata
    host = address if is_address(address) else f"{service_name(meta.name)}.{meta.namespace}.svc"
    return f"http://{url_host(host)}:{port}"


class _Memory(msgspec.Struct, rename="camel"):
    used: Annotated[int, msgspec.Meta(ge=0)]
    limit: Annotated[int, msgspec.Meta(gt=0)]
    is_short: bool


class DesktopKeyError(Exception):
    """Raised when the key cannot be read now; says why, and shows nothing of it."""


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


class DesktopKey:
    """The release's desktop key, read once, and again after a desktop has refused a token.

    Meanwhile the last key counts: neither that desktop nor a slow API server may hold up the
    others.
    """

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._value = b""
        self._problem = ""
        self._reading: asyncio.Task[None] | None = None

    def reread(self) -> "asyncio.Task[None]":
        """Read the key, unless that is under way."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read(), name="desktop key")
        return self._reading

    async def tokens(self, session: VDISession) -> DesktopTokens:
        """The tokens of the session's desktop. Raises DesktopKeyError."""
        if not self._value:
            await asyncio.shield(self.reread())
        if not self._value:
            raise DesktopKeyError(self._problem)
        meta = session.metadata
        pod = session.status.pod_name
        return derive_tokens(
            self._value, namespace=meta.namespace, name=meta.name, uid=meta.uid, pod=pod
        )

    async def _read(self) -> None:
        try:
            secret = await self._client.get(
                SECRETS, KEY_SECRET, namespace=self._namespace, into=_Secret
            )
            self._value = decode_key(secret.data)
        except KubeError as error:
            self._problem = f"the Secret {self._namespace}/{KEY_SECRET} cannot be read: {error}"
        except ValueError as error:
            self._problem = f"the Secret {self._namespace}/{KEY_SECRET} {error}"


@dataclass(frozen=True, slots=True)
class DesktopAgent:
    """Requests to the agents in desktops, and their limits. `address`: base URL of a session's
    agent.

    Raises BusyError where a limit is reached: one slow desktop takes none of the others' turns.
    """

    key: DesktopKey
    address: Callable[[VDISession], str] = lambda session: desktop_url(session, AGENT_PORT)
    limits: RequestLimits = field(default_factory=RequestLimits)
    answers: AnswerBudget = field(
        default_factory=lambda: AnswerBudget(ANSWERS_BYTES, USER_ANSWERS_BYTES),
    )
    polled: AnswerBudget = field(
        default_factory=lambda: AnswerBudget(POLLED_BYTES, USER_POLLED_BYTES),
    )

    async def ask(
        self,
        session: VDISession,
        method: str,
        path: str,
        *,
        seconds: float,
        max_bytes: int,
        json: Mapping[str, object] | None = None,
        lane: Lane = PAGES,
        held: AsyncExitStack | None = None,
    ) -> Response:
        """One request, complete within `seconds`. Raises ActionDenied, with its cause, without a
        response.

        `held`: keeps the request counted, and the bytes of its answer reserved, until it is closed.
        """
        if polling := _polling.get():
            await polling.aclose()  # the poll has stored the answer before this one
            lane, held = POLLS, polling
        async with AsyncExitStack() as ours:
            held = held or ours
            held.enter_context(self.enter(lane, session))
            url, token = f"{self.address(session)}{path}", await self._token(session)
            body = b"" if json is None else msgspec.json.encode(json)
            with _translated(session):
                async with (
                    asyncio.timeout(seconds),
                    request_once(method, url, bearer=token, body=body) as (head, connection),
                ):
                    if head.status == HTTPStatus.UNAUTHORIZED:
                        self.key.reread()  # the release may have a new key
                    answer = await self._read_bounded(session, connection, max_bytes, held)
                    return Response(head.status, answer, read_headers(head.head))

    async def _read_bounded(
        self, session: VDISession, connection: Connection, max_bytes: int, held: AsyncExitStack
    ) -> bytes:
        """The whole body, once its bytes are reserved. Raises BadResponseError for one that may be
        larger.
        """
        if connection.length is None:
            raise BadResponseError("its length is not in its header")
        if connection.length > max_bytes:
            raise BadResponseError(f"it is too large: more than {max_bytes} bytes")
        await self._reserve(session, connection.length, held)
        received = bytearray()
        async with asyncio.timeout(POLLED_SECONDS if _polling.get() else None):
            async for chunk in connection.chunks():  # joined at once: of single bytes each takes 40
                received += chunk
        return bytes(received)

    async def read(
        self, session: VDISession, answer: ResponseStream, max_bytes: int, held: AsyncExitStack
    ) -> bytes:
        """The whole answer of `stream`, which may not be larger. Raises what `ask` raises."""
        size = max_bytes
        if "Transfer-Encoding" not in answer.headers:  # of both, this one counts
            size = min(size, int(answer.headers.get("Content-Length", size)))
        await self._reserve(session, size, held)
        return await answer.read(max_bytes)

    async def _reserve(self, session: VDISession, size: int, held: AsyncExitStack) -> None:
        """Wait until so many bytes of an answer may be in memory, unless it is a small one for a
        user.
        """
        user = normal_user(session.spec.user)
        if _polling.get():
            await self.polled.reserve(held, user, ANSWER_COPIES * size)
        elif size > SMALL_ANSWER_BYTES:
            await self.answers.reserve(held, user, ANSWER_COPIES * size)

    async def _token(self, session: VDISession) -> str:
        """The token that the session's agent knows. Raises ActionDenied."""
        try:
            return (await self.key.tokens(session)).agent
        except DesktopKeyError as error:
            name = session.metadata.name
            raise ActionDenied(
                "Unavailable", f"The address of the agent in {name!r} is not known right now."
            ) from error

    @asynccontextmanager
    async def stream(
        self,
        session: VDISession,
        method: str,
        path: str,
        lane: Lane = PAGES,
        **options: Unpack[RequestOptions],
    ) -> AsyncIterator[ResponseStream]:
        """One request of any length. Raises ActionDenied, also while it is read."""
        with self.enter(lane, session):
            token = await self._token(session)
            options["headers"] = {
                "Authorization": f"Bearer {token}",
                **(options.get("headers") or {}),
            }
            url = f"{self.address(session)}{path}"
            client = open_client(
                url,
                seconds=SILENT_SECONDS,
                connect_seconds=CONNECT_SECONDS,
                tls=NO_AUTHORITIES,
                use_proxy=False,
            )
            with _translated(session):
                async with client as http, http.stream(method, url, **options) as answer:
                    if answer.status == HTTPStatus.UNAUTHORIZED:
                        self.key.reread()
                    yield answer

    def enter(self, lane: Lane, session: VDISession) -> AbstractContextManager[None]:
        """Count a request that does not go through `ask` or `stream`, such as to Selkies. Raises
        BusyError.
        """
        owner = normal_user(session.spec.user)
        return self.limits.enter(lane, session.metadata.uid, session.metadata.name, owner)


@contextmanager
def _translated(session: VDISession) -> Iterator[None]:
    """Errors of a request to the session's agent, as ActionDenied."""
    name = session.metadata.name
    try:
        yield
    except BadResponseError as error:
        why = f"The response of the agent in the desktop {name!r} is refused: {error}."
        raise ActionDenied("Conflict", why) from error
    except (HttpError, *HTTP_ERRORS) as error:
        raise ActionDenied(
            "Unavailable", f"The agent in the desktop {name!r} does not respond."
        ) from error


async def poll_agents(
    what: str,
    sessions: Callable[[], Iterable[VDISession]],
    poll: Callable[[VDISession], Awaitable[float | None]],
    pause: float,
) -> None:
    """Poll the agents of these sessions again and again, side by side, until cancelled.

    `poll` returns extra seconds until the session's next turn, or None. It holds nothing meanwhile.
    It may raise ActionDenied, ValueError, OSError and errors of the database: it is tried again.
    """
    running: dict[str, asyncio.Task[None]] = {}
    failing: dict[str, str] = {}

    async def take_turn(session: VDISession) -> None:
        uid, meta = session.metadata.uid, session.metadata
        held = AsyncExitStack()
        _polling.set(held)  # for this task
        try:
            async with held:
                seconds = await poll(session)
            failing.pop(uid, None)
            await asyncio.sleep(seconds or 0.0)
        except (
            ActionDenied,
            ValueError,
            OSError,
            DatabaseUnavailableError,
            SQLAlchemyError,
        ) as error:
            why = type(error).__name__ if isinstance(error, SQLAlchemyError) else str(error)
            level = logging.DEBUG if failing.get(uid) == why else logging.WARNING
            log.log(level, "%s of session %s cannot be stored: %s", what, meta.name, why)
            failing[uid] = why
            await asyncio.sleep(POLL_AGAIN_SECONDS)
        except Exception:
            # A fault of ours that one desktop brings out must not end the gateway for all others.
            log.exception("%s of session %s cannot be stored", what, meta.name)
            await asyncio.sleep(POLL_AGAIN_SECONDS)

    async with asyncio.TaskGroup() as group:
        while True:
            running = {uid: task for uid, task in running.items() if not task.done()}
            found = {session.metadata.uid: session for session in sessions()}
            failing = {uid: why for uid, why in failing.items() if uid in found}
            for uid in found.keys() - running.keys():
                running[uid] = group.create_task(take_turn(found[uid]), name=f"{what} of {uid}")
            await asyncio.sleep(pause)


async def ask_memory(
    agent: DesktopAgent, session: VDISession, template: VDITemplate | None
) -> MemoryAlert | None:
    """The alert of a running desktop, for its owner; None: it has enough memory, or its agent does
    not say.
    """
    if template is None or not is_running(session):
        return None
    try:
        memory = (await agent.ask(session, "GET", "/memory", seconds=1.0, max_bytes=1024)).json(
            _Memory
        )
    except (ActionDenied, BadResponseError):
        return None
    return (
        find_memory_alert(session, template, memory.used, memory.limit) if memory.is_short else None
    )


def find_session(context: GatewayContext, user: User, name: str) -> tuple[VDISession, Role | None]:
    """A session that the user may know of, and their role in it; None: an administrator. Raises
    ActionDenied.
    """
    session = context.cluster.session(name)
    role = role_in(session, user.email, context.clock()) if session else None
    if session is None or (role is None and not user.admin):
        raise ActionDenied("NotFound", no_desktop(name))
    return session, role


async def find_to_act(context: GatewayContext, user: User, action: Action, name: str) -> VDISession:
    """A session with which the user may do this now. Raises ActionDenied."""
    session, _ = find_session(context, user, name)
    if is_token(user.login_id):
        # A person may have taken over through another replica, and this one's watch may be late.
        meta, get = session.metadata, context.client.get
        try:
            session = await get(SESSIONS, name, namespace=meta.namespace, into=VDISession)
        except KubeError as error:
            raise refused_by_cluster(error, name) from error
        if session.metadata.uid != meta.uid:
            raise ActionDenied("NotFound", no_desktop(name))
    if refused := refusal(user, action, session, context.clock()):
        raise ActionDenied(*refused)
    return session


async def count_in_window(context: GatewayContext, what: str, session: VDISession) -> int:
    """Count one more request for this session, over all replicas; the number in this window of
    time.
    """
    window = int(context.clock().timestamp()) // WINDOW_SECONDS
    return await context.shared.count(f"{what}/{session.metadata.uid}/{window}", WINDOW_SECONDS)


class StartupScriptResult(msgspec.Struct, rename="camel", omit_defaults=True):
    """One script and its result."""

    source: Annotated[
        Literal["template", "user"],
        doc(
            "Whose script: `startupScript` of the template, or `~/.config/vdi/startup.sh` of the"
            " user."
        ),
    ]
    state: Annotated[
        Literal["Running", "Ended", "NotStarted"],
        doc("NotStarted: it could not be started; `output` has the reason."),
    ]
    exit_code: Annotated[int | None, doc("Exit code of a script that has ended; 0: success.")] = (
        None
    )
    output: Annotated[
        str, doc(f"Its last lines: at most {MAX_LINES}, and {MAX_CHARACTERS} characters.")
    ] = ""


class _Report(msgspec.Struct):
    scripts: tuple[StartupScriptResult, ...]


class Begun(msgspec.Struct):
    """The response to a probe that may start."""

    id: Annotated[str, doc("Identifies this probe when its results are submitted.")]
    url: Annotated[str, doc("The desktop's address.")]
    ticket: Annotated[
        str, doc("Opens the desktop once, within 30 seconds, with the secret of the state.")
    ]
    mark: Annotated[Mark, doc("Position of the mark.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRequests:
    """Requests of owners to the agents of their desktops, for REST API and portal. Every method
    raises ActionDenied.

    `issue_ticket`: `TicketHandoff.issue_ticket`, a ticket into the desktop for a probe.
    """

    context: GatewayContext
    agent: DesktopAgent
    issue_ticket: Callable[[User, VDISession, str], Awaitable[str]]

    async def read_startup_scripts(self, user: User, name: str) -> tuple[StartupScriptResult, ...]:
        """The scripts of the user's own desktop since its start."""
        why = f"Only the owner of desktop {name!r} can read what its scripts write."
        session = await self._own(user, name, why)
        if not is_running(session):
            raise ActionDenied(
                "Conflict",
                f"The desktop {name!r} is not running, so it has no results of start-up scripts.",
            )
        answer = await self.agent.ask(
            session, "GET", "/startup-scripts", seconds=SCRIPTS_SECONDS, max_bytes=SCRIPTS_MAX_BYTES
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "Conflict", f"The image of desktop {name!r} does not report its start-up scripts."
            )
        if answer.status != HTTPStatus.OK:
            raise ActionDenied(
                "Unavailable", f"The agent in {name!r} has no report now ({answer.status})."
            )
        try:
            scripts = answer.json(_Report).scripts
        except BadResponseError as error:
            raise ActionDenied(
                "Conflict", f"The agent in {name!r} did not return a valid report."
            ) from error
        return tuple(
            msgspec.structs.replace(script, output=last_lines(script.output))
            for script in scripts[:MAX_SCRIPTS]
        )

    async def take_thumbnail(self, user: User, name: str) -> bytes | None:
        """A JPEG of the user's own desktop; None while there is no picture of it (see
        `has_thumbnail`).
        """
        why = f"Only the owner of desktop {name!r} gets a picture of it."
        session = await self._own(user, name, why)
        if not has_thumbnail(
            session, self.context.cluster.template(session.spec.template), Role.OWNER
        ):
            return None
        words = (
            f"Pictures of this desktop are limited to {MAX_THUMBNAILS} within {WINDOW_SECONDS} s."
        )
        await self.limit("thumbnails", session, MAX_THUMBNAILS, words)
        answer = await self.agent.ask(
            session, "GET", "/thumbnail", seconds=THUMBNAIL_SECONDS, max_bytes=THUMBNAIL_MAX_BYTES
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "NotFound", f"The image of desktop {name!r} provides no picture for the portal."
            )
        if answer.status != HTTPStatus.OK:
            raise ActionDenied(
                "Unavailable", f"The agent in {name!r} has no picture now ({answer.status})."
            )
        if (size := jpeg_size(answer.body)) is None or not 0 < min(size) <= max(
            size
        ) <= THUMBNAIL_MAX_SIDE:
            raise ActionDenied("Conflict", f"The agent in {name!r} did not return a small JPEG.")
        return answer.body

    async def begin_probe(self, user: User, name: str, state: str) -> Begun:
        """Arm the mark and issue a ticket. `state`: SHA-256 of the caller's secret, in place of a
        browser's cookie.
        """
        session = await self._own(user, name, f"Only the owner of desktop {name!r} may probe it.")
        if session.spec.suspended or session.status.phase != Phase.RUNNING:
            phase = session.status.phase or "not started"
            what = "suspended. Resume it first" if session.spec.suspended else phase
            raise ActionDenied(
                "Conflict", f"The desktop {name!r} has no picture to measure: it is {what}."
            )
        template = self.context.cluster.template(session.spec.template)
        if template and not takes_tokens(template.spec):
            why = (
                "This desktop cannot be measured: the probe supports only the stream of Selkies 2."
            )
            raise ActionDenied("Conflict", why)
        words = (
            f"The desktop {name!r} has already been probed {MAX_PROBES} times within"
            f" {WINDOW_SECONDS} s."
        )
        await self.limit("probes", session, MAX_PROBES, words)
        mark = await self._arm(session)
        probe = secrets.token_urlsafe(16)
        await self.context.shared.put(f"probe/{probe}", session.metadata.uid, PROBE_SECONDS)
        ticket = await self.issue_ticket(user, session, state)
        return Begun(probe, session.status.url, ticket, mark)

    async def finish_probe(
        self, user: User, name: str, probe: str, found: Measurements | Stage
    ) -> None:
        """Count the measurements, or the stage in which the probe failed: once for each probe."""
        session = await self._own(user, name, f"Only the owner of desktop {name!r} may probe it.")
        if await self.context.shared.pop(f"probe/{probe}") != session.metadata.uid:
            raise ActionDenied(
                "NotFound",
                f"There is no active probe {probe!r} of {name!r}: it has ended or expired.",
            )
        template, metrics = session.spec.template, self.context.metrics
        if not isinstance(found, Measurements):
            metrics.probes.labels(template, found).inc()
            return
        metrics.probes.labels(template, "measured").inc()
        metrics.first_picture.labels(template).observe(found.first_picture_seconds)
        glass = metrics.glass_to_glass.labels(template)
        for milliseconds in [
            *found.input_to_photon_ms,
            *[MAX_LATENCY_MS] * found.keys_without_effect,
        ]:
            glass.observe(milliseconds / 1000)
        metrics.probe_frame_rate.labels(template).set(found.frames_per_second)
        metrics.probe_bitrate.labels(template).set(found.bitrate_kbps * 1000)
        metrics.probe_frames.labels(template, "arrived").inc(found.frames)
        metrics.probe_frames.labels(template, "dropped").inc(found.frames_dropped)

    async def _own(self, user: User, name: str, why_not: str) -> VDISession:
        """The user's own session. What the agents show is for nobody else, administrators
        included.
        """
        _, role = find_session(self.context, user, name)
        if role is not Role.OWNER:
            raise ActionDenied("Forbidden", why_not)
        return await find_to_act(self.context, user, Action.OPEN, name)

    async def limit(self, what: str, session: VDISession, most: int, words: str) -> None:
        if await count_in_window(self.context, what, session) > most:
            raise HTTPException(429, words, {"Retry-After": str(WINDOW_SECONDS)})

    async def _arm(self, session: VDISession) -> Mark:
        name = session.metadata.name
        try:
            answer = await self.agent.ask(
                session,
                "POST",
                "/photon",
                json={"seconds": ARMED_SECONDS},
                seconds=MARK_SECONDS,
                max_bytes=MARK_MAX_BYTES,
            )
        except ActionDenied as denied:
            log.warning(
                "the agent of session %s cannot be armed: %s", name, denied.__cause__ or denied
            )
            raise
        if answer.status == HTTPStatus.NOT_FOUND:
            raise ActionDenied(
                "Conflict",
                f"The image of {name!r} cannot show a mark to measure: it is older than this"
                " gateway.",
            )
        if answer.status != HTTPStatus.OK:
            why = answer.body.decode(errors="replace")[:200].strip()
            raise ActionDenied(
                "Conflict", f"The agent in {name!r} cannot show its mark ({answer.status}): {why}."
            )
        try:
            return answer.json(Mark)
        except BadResponseError as error:
            raise ActionDenied(
                "Conflict", f"The agent in {name!r} did not return a valid mark."
            ) from error


def is_running(session: VDISession) -> bool:
    """Whether its desktop is there to be asked."""
    return (
        session.status.phase == Phase.RUNNING
        and not session.spec.suspended
        and not session.metadata.deletion_timestamp
    )


def has_thumbnail(session: VDISession, template: VDITemplate | None, role: Role | None) -> bool:
    """Whether a user with this role gets a picture of the session: only the owner does."""
    shows = (
        template is not None
        and template.spec.thumbnails
        and is_running(session)
        and not refuse_picture(session)
    )
    return role is Role.OWNER and shows


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height as the JPEG's frame header has them; None for what is no JPEG."""
    if not data.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in _FRAME_HEADERS:
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += 2 + length
    return None


def last_lines(output: str) -> str:
    """The end of a script's output as plain text: no colours, and no characters that reorder
    others.
    """
    # A script's output is untrusted input, of its author and of the desktop's user.
    text = (
        _TERMINAL_COMMAND.sub("", output[-2 * MAX_CHARACTERS :])
        .replace("\r\n", "\n")
        .replace("\r", "\n")
    )
    plain = "".join(
        character for character in text if character in "\n\t" or character.isprintable()
    )
    return "\n".join(plain[-MAX_CHARACTERS:].rstrip().split("\n")[-MAX_LINES:])
