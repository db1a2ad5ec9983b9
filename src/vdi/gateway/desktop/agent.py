"""The agent in a desktop: the key that authenticates requests to it, requests, and polling.

The gateway asks an agent as the operator does: at the pod's address, with a token derived from the
release's desktop key. The gateway may read no Secret in the namespaces of sessions, so it derives
the tokens itself; the operator draws the key and writes the same tokens into the Secrets of
desktops.

An agent's response is untrusted input, because its user can put any program in its place: no proxy
of the environment, no redirects, and a limit to time and size.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Unpack

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from vdi.api.session import VDISession
from vdi.gateway.component import GatewayContext
from vdi.gateway.denied import ActionDenied
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
from vdi.gateway.store.database import DatabaseUnavailableError, describe_error
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
from vdi.kube.connections import request_once
from vdi.kube.errors import KubeError
from vdi.kube.http import Connection, HttpError, url_host
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.credentials import KEY_SECRET, DesktopTokens, decode_key, derive_tokens
from vdi.session.naming import service_name
from vdi.session.users import normal_user

log = logging.getLogger(__name__)

# For clients of desktops, which speak plain HTTP: loading the usual authorities takes 20 ms each
# time.
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
AGENT_PORT = 8082
# After a poll that failed.
POLL_AGAIN_SECONDS = 5.0
# From the first bytes of the answer to a poll to its last: an agent that sends slowly must not keep
# bytes from others.
POLLED_SECONDS = 5.0
# Seconds in which requests for one session are counted, over all replicas.
WINDOW_SECONDS = 60
# Seconds of each read and write of a request without a time of its own: a copy of a file.
SILENT_SECONDS = 30.0
CONNECT_SECONDS = 5.0
# Of a poll of the gateway's own (`poll_agents`): what it holds until its next request, or its end.
_polling: ContextVar[AsyncExitStack | None] = ContextVar("polling", default=None)


def desktop_url(session: VDISession, port: int) -> str:
    """Base URL of a port of the session's pod."""
    # By address: cluster DNS learns of a ready desktop a moment after its session is Running, and a
    # client that asked before gets "no such name" for seconds (CoreDNS's `ttl`, 5 s). Under an
    # operator that does not write status.podIP yet, the name of the headless Service leads to the
    # same port.
    address, meta = session.status.pod_ip, session.metadata
    if is_address(address):
        host = address
    else:
        host = f"{service_name(meta.name)}.{meta.namespace}.svc"
    return f"http://{url_host(host)}:{port}"


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
            why = describe_error(error)
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
            polled = {session.metadata.uid: session for session in sessions()}
            failing = {uid: why for uid, why in failing.items() if uid in polled}
            for uid in polled.keys() - running.keys():
                running[uid] = group.create_task(take_turn(polled[uid]), name=f"{what} of {uid}")
            await asyncio.sleep(pause)


async def count_in_window(context: GatewayContext, what: str, session: VDISession) -> int:
    """Count one more request for this session, over all replicas; the number in this window of
    time.
    """
    window = int(context.clock().timestamp()) // WINDOW_SECONDS
    return await context.shared.count(f"{what}/{session.metadata.uid}/{window}", WINDOW_SECONDS)
