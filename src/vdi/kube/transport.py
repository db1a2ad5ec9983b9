"""Client of the API server: requests, retries, watches, logs. The only module that talks to it;
`wire` decodes.
"""

import asyncio
import random
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from vdi.kube import errors, wire
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.config import ClusterConfig, Credentials
from vdi.kube.connections import HttpClient, Target
from vdi.kube.http import HttpError, Response
from vdi.kube.resource import PODS, Resource
from vdi.kube.wire import Page, WatchEvent

T = TypeVar("T")
PAGE_SIZE = 200
# Requests under way at a time. More would only queue in the server, and each costs a TLS handshake
# once.
AT_ONCE = 16
# Bytes of a watch event. etcd's limit of an object is 1.5 MiB, and can be raised.
_LONGEST_EVENT = 64 * 2**20
_LONGEST_LOG_LINE = 2**20
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retries of a request while the server is busy, restarting or out of reach.

    The wait before try n + 1 is `base * 2**(n-1)` seconds, at most `cap`, less a random part of up
    to `jitter` (0 to 1) of it, and never less than the server's Retry-After. A Retry-After beyond
    `cap` is not waited for but raised.
    """

    attempts: int = 5
    base: float = 0.1
    cap: float = 10.0
    jitter: float = 0.5

    def wait(
        self, tries: int, error: errors.ConnectionFailed | errors.ApiError, draw: float
    ) -> float | None:
        """Seconds to wait after `tries` failed tries, or None to give up; `draw` is a random number
        from 0 to 1.
        """
        asked = None
        if isinstance(error, errors.ApiError):
            asked = error.retry_after
        if tries >= self.attempts or not _may_pass(error) or (asked or 0.0) > self.cap:
            return None
        own: float = min(self.cap, self.base * 2 ** (tries - 1)) * (1 - self.jitter * draw)
        return max(own, asked or 0.0)


NO_RETRY = RetryPolicy(attempts=1)
DEFAULT_RETRY = RetryPolicy()


def _may_pass(error: errors.ConnectionFailed | errors.ApiError) -> bool:
    """Whether another try can help; a plain 500 is a bug or a refusal that will come again."""
    if isinstance(error, errors.ServerError):
        return error.status in (502, 503, 504) or error.retry_after is not None
    return isinstance(error, errors.ConnectionFailed | errors.TooManyRequests)


# Seconds that a write that begins now may take; raises NotLeader when it must not begin
# (`Elector.allowance`).
LeaseGuard = Callable[[], float]

Body = Mapping[str, Any] | msgspec.Struct
# Called after each HTTP request: method (or WATCH), plural of the resource, status (0: no answer),
# seconds.
OnRequest = Callable[[str, str, int, float], None]


class Client:
    """A client of one cluster; use it as an async context manager.

    Every method raises a KubeError. `into` is what the answer is decoded to: a msgspec struct with
    the fields you read, `dict[str, Any]` for the whole object, or `msgspec.Raw` for its JSON. A
    retried POST whose first try was executed ends in AlreadyExists, a retried DELETE in NotFound:
    the caller knows best what that means.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        field_manager: str,
        retry: RetryPolicy = DEFAULT_RETRY,
        user_agent: str | None = None,
        on_request: OnRequest | None = None,
        lease_guard: LeaseGuard | None = None,
        request_timeout: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.config = config
        self.field_manager = field_manager
        self._as_us = urlencode({"fieldManager": field_manager})
        self._retry = retry
        self._user_agent = user_agent or field_manager
        self._on_request = on_request
        self._lease_guard = lease_guard
        self._timeout = request_timeout
        self._clock = clock
        self._credentials = Credentials(config, clock)
        self._http: HttpClient | None = None
        self._prefix = self._constant = ""
        # Head of the last response and when it came: the server's time is parsed only when it is
        # needed.
        self._heard: tuple[bytes, float] | None = None

    async def __aenter__(self) -> Self:
        config = self.config
        try:
            target = Target(
                config.server, config.ssl_context(), config.tls_server_name, config.proxy_url
            )
        except ValueError as error:
            raise errors.ConfigError(f"{config.source or config.server}: {error}") from error
        self._prefix = target.prefix
        # identity: the API server gzips answers from 128 KiB on if it may, which costs both sides
        # time.
        self._constant = (
            f" HTTP/1.1\r\nHost: {urlsplit(config.server).netloc}\r\nAccept: {JSON}\r\n"
            f"Accept-Encoding: identity\r\nUser-Agent: {self._user_agent}\r\n"
        )
        self._http = HttpClient(target, limit=AT_ONCE)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()
        self._http = None

    def server_time(self) -> datetime | None:
        """The API server's time, to a second, from the Date of the last response; None without
        one.
        """
        if self._heard is None:
            return None
        head, when = self._heard
        try:
            then = parsedate_to_datetime(Response(0, head).header("Date") or "")
        except ValueError:
            return None
        return then.replace(tzinfo=UTC) + timedelta(seconds=self._clock.monotonic() - when)

    async def get(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        into: type[T],
    ) -> T:
        """Read one object. Raises NotFound."""
        path = resource.path(namespace, name, subresource)
        return wire.decode(await self._send("GET", resource, path), into, f"GET {path}")

    async def create(
        self,
        resource: Resource,
        obj: Body,
        *,
        namespace: str | None = None,
        strict: bool = False,
        into: type[T],
    ) -> T:
        """POST a new object; AlreadyExists when there is one of this name. `strict`: Invalid for an
        unknown field.
        """
        path = resource.path(namespace)
        if strict:
            query = f"{self._as_us}&fieldValidation=Strict"
        else:
            query = self._as_us
        response = await self._send("POST", resource, path, query=query, body=obj)
        return wire.decode(response, into, f"POST {path}")

    async def apply(
        self,
        resource: Resource,
        name: str,
        obj: Body,
        *,
        namespace: str | None = None,
        dry_run: bool = False,
        into: type[T],
    ) -> T:
        """Server-side apply by our field manager, with force: fields applied before that are not in
        `obj` go.
        """
        path = resource.path(namespace, name)
        query = f"{self._as_us}&force=true{'&dryRun=All' if dry_run else ''}"
        response = await self._send(
            "PATCH", resource, path, query=query, body=obj, content_type=APPLY_PATCH
        )
        return wire.decode(response, into, f"PATCH {path}")

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Body,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        content_type: str = MERGE_PATCH,
        into: type[T],
    ) -> T:
        """Merge patch by default. A `resourceVersion` or `uid` in its metadata is a precondition,
        else Conflict.
        """
        path = resource.path(namespace, name, subresource)
        response = await self._send(
            "PATCH", resource, path, query=self._as_us, body=patch, content_type=content_type
        )
        return wire.decode(response, into, f"PATCH {path}")

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
        dry_run: bool = False,
        into: type[T],
    ) -> T | None:
        """Delete one object, with `uid` only that incarnation (Replaced when it is another).

        `resource_version`: only as it was then (Conflict when it has changed since).

        `dry_run`: the server says whether it would, and does not.

        Returns the object while it is still terminating (grace period, finalizers), None when it is
        gone. NotFound is raised.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if known := {name: value for name, value in preconditions.items() if value is not None}:
            options["preconditions"] = known
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        if dry_run:
            options["dryRun"] = ["All"]
        path = resource.path(namespace, name)
        response = await self._send("DELETE", resource, path, body=options)
        if wire.is_terminating(response):
            return wire.decode(response, into, f"DELETE {path}")
        return None

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        into: type[T],
    ) -> list[T]:
        """Read all objects, page by page."""
        scope: dict[str, Any] = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        what = f"GET {resource.path(namespace)}"
        objects: list[T] = []
        try:
            async for page in self.pages(resource, **scope):
                objects += [wire.decode(item, into, what) for item in page.items]
        except errors.Gone:  # the pages took longer than the server remembers: take all at once
            objects.clear()
            async for page in self.pages(resource, **scope, size=0):
                objects += [wire.decode(item, into, what) for item in page.items]
        return objects

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        size: int = PAGE_SIZE,
    ) -> AsyncGenerator[Page, None]:
        """The pages of a list, undecoded; `size` 0 asks for all at once. Raises Gone when a page
        came too late.
        """
        path = resource.path(namespace)
        query = _selectors(label_selector, field_selector)
        if size:
            query["limit"] = str(size)
        while True:
            page = wire.parse_page(
                await self._send("GET", resource, path, query=urlencode(query)), f"GET {path}"
            )
            yield page
            if not page.token:
                return
            query["continue"] = page.token

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str,
        timeout_seconds: int,
        read_deadline: float = 90.0,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[WatchEvent, None]:
        """One watch request, from just after `resource_version`, until the server ends it (after
        `timeout_seconds`).

        `on_open` is called when the server has accepted it, which may be long before the first
        event. Raises Gone when the server no longer knows that version, StreamSilent when nothing
        came for `read_deadline` seconds.
        """
        path = resource.path(namespace)
        what = f"WATCH {path}"
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
        }
        lines = wire.LineSplitter(_LONGEST_EVENT)
        async with self._stream("WATCH", resource, path, query, read_deadline) as content:
            if on_open is not None:
                on_open()
            async for chunk in content:
                for line in lines.feed(chunk):
                    yield wire.parse_event(line, what)
        if lines.rest():
            raise errors.ConnectionFailed(
                self.config.server, what, "the stream was cut in the middle of an event"
            )

    async def log_lines(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        follow: bool = False,
        tail: int | None = None,
        max_bytes: int | None = None,
    ) -> AsyncGenerator[str, None]:
        """Lines of a container's log, without their line ends; with `follow` until the container
        stops.

        A line of more than 1 MiB comes in pieces: what a container writes is untrusted.
        """
        query = {
            "container": container,
            "follow": "true" if follow else None,
            "tailLines": tail,
            "limitBytes": max_bytes,
        }
        given = {name: str(value) for name, value in query.items() if value is not None}
        path = PODS.path(namespace, pod, "log")
        lines = wire.LineSplitter(_LONGEST_LOG_LINE)
        async with self._stream("GET", PODS, path, given, None if follow else 60.0) as content:
            async for chunk in content:
                for line in lines.feed(chunk):
                    yield line.decode("utf-8", "replace")
        if rest := lines.rest():
            yield rest.decode("utf-8", "replace")

    async def page_of_pod(
        self, namespace: str, pod: str, port: int, path: str, *, most_bytes: int, seconds: float
    ) -> bytes:
        """A page of a pod's own HTTP server, by way of the API server, which needs the right `get`
        on pods/proxy.

        Asked for once. Raises UnexpectedAnswer when it is longer than `most_bytes`,
        ConnectionFailed after `seconds`.
        """
        there = f"{PODS.path(namespace, f'{pod}:{port}', 'proxy')}{path}"
        page = b""
        try:
            async with (
                asyncio.timeout(seconds),
                self._stream("GET", PODS, there, {}, seconds) as content,
            ):
                async for chunk in content:
                    page += chunk
                    if len(page) > most_bytes:
                        raise errors.UnexpectedAnswer(f"GET {there}: more than {most_bytes} bytes")
        except TimeoutError as error:
            raise self._lost(
                f"GET {there}", TimeoutError(f"no complete response within {seconds:g} s")
            ) from error
        return page

    async def _send(
        self,
        method: str,
        resource: Resource,
        path: str,
        *,
        query: str = "",
        body: Body | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """One request with its retries; the body of the good answer."""
        there = f"{path}?{query}" if query else path
        data = b"" if body is None else msgspec.json.encode(body)
        tries = 0
        renewed = False
        while True:
            try:
                return await self._once(method, resource, there, data, content_type)
            except errors.Unauthorized:
                if renewed or not await self._credentials.renew():
                    raise
                renewed = True
            except (errors.ConnectionFailed, errors.TooManyRequests, errors.ServerError) as error:
                tries += 1
                wait = self._retry.wait(tries, error, random.random())  # noqa: S311 - spreads load, guards nothing
                if wait is None:
                    raise
                await self._clock.sleep(wait)

    async def _once(
        self, method: str, resource: Resource, there: str, data: bytes, content_type: str
    ) -> bytes:
        http = self._open()
        what = f"{method} {there.partition('?')[0]}"
        # A read needs no Lease. For a write the guard is asked now, and again when it has a
        # connection and is about to leave: in a burst it may wait for that longer than the Lease
        # lasts.
        lease_guard = self._lease_guard if method != "GET" else None
        if lease_guard:
            seconds = min(lease_guard(), self._timeout)
        else:
            seconds = self._timeout
        request = self._request(method, there, data, content_type)
        status = 0
        began = time.perf_counter()
        try:
            response = await http.request(
                request, asyncio.get_running_loop().time() + seconds, lease_guard
            )
            status = response.status
            self._heard = (response.head, self._clock.monotonic())
        except (HttpError, TimeoutError, OSError) as error:
            raise self._lost(what, error) from error
        finally:
            self._count(method, resource, status, began)
        if status >= 300:
            raise _failure(response, response.body, what)
        return response.body

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str],
        read_deadline: float | None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """One response of unknown length, without retries: its reader knows where to resume."""
        http = self._open()
        what = f"{method} {path}"
        request = self._request("GET", f"{path}?{urlencode(query)}", b"", JSON)
        status = 0
        began = time.perf_counter()
        try:
            async with http.stream(request) as connection:
                async with asyncio.timeout(read_deadline):
                    status = (await connection.head()).status
                    self._count(method, resource, status, began)
                    if status >= 300:
                        response = await connection.response()
                        raise _failure(response, response.body, what)
                yield connection.chunks(read_deadline)
        except (HttpError, TimeoutError, OSError) as error:
            if not status:
                self._count(method, resource, status, began)
            elif isinstance(error, TimeoutError):
                raise errors.StreamSilent(
                    self.config.server, what, f"silent for {read_deadline} s"
                ) from error
            raise self._lost(what, error) from error
        except errors.Unauthorized:
            await self._credentials.renew()  # for the next attempt
            raise

    def _open(self) -> HttpClient:
        if self._http is None:
            raise RuntimeError("the Client is closed: use it inside `async with`")
        return self._http

    def _request(self, method: str, there: str, data: bytes, content_type: str) -> bytes:
        own = "".join(f"{name}: {value}\r\n" for name, value in self._credentials.headers().items())
        if data or method != "GET":
            own += f"Content-Type: {content_type}\r\nContent-Length: {len(data)}\r\n"
        return f"{method} {self._prefix}{there}{self._constant}{own}\r\n".encode("latin-1") + data

    def _count(self, method: str, resource: Resource, status: int, began: float) -> None:
        if self._on_request is not None:
            self._on_request(method, resource.plural, status, time.perf_counter() - began)

    def _lost(self, what: str, error: Exception) -> errors.ConnectionFailed:
        why = str(error) or type(error).__name__
        if isinstance(error, socket.gaierror):
            why = f"cannot resolve its host name: {why}"
        return errors.ConnectionFailed(self.config.server, what, why)


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in query.items() if value}


def _failure(response: Response, body: bytes, what: str) -> errors.ApiError:
    retry_after = wire.parse_retry_after(response.header("Retry-After"))
    return errors.error_from(response.status, body, request=what, retry_after=retry_after)
