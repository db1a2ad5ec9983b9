"""The only module that talks to the API server: requests, retries, watches, logs. What the bytes mean is in `wire`."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from math import inf
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from vdi.kube import wire
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.config import ClusterConfig
from vdi.kube.credentials import Credentials
from vdi.kube.errors import (
    ApiError,
    ConnectionFailed,
    Gone,
    ServerError,
    StreamSilent,
    TooManyRequests,
    Unauthorized,
    error_from,
)
from vdi.kube.fence import Fence, FencedBody
from vdi.kube.resource import PODS, Resource
from vdi.kube.retry import DEFAULT_RETRY, RetryPolicy
from vdi.kube.wire import Page, WatchEvent

T = TypeVar("T")
Body = Mapping[str, Any] | msgspec.Struct
OnRequest = Callable[[str, str, int, float], None]
"""Called after each HTTP request: method (or WATCH), plural of the resource, status (0: no answer), seconds."""

PAGE_SIZE = 500
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Client:
    """One connection to one cluster; use it as an async context manager.

    Every method raises a KubeError. `into` is what the answer is decoded to: a msgspec struct with the fields you read,
    `dict[str, Any]` for the whole object, or `msgspec.Raw` for its JSON. A retried POST whose first try was executed
    ends in AlreadyExists, a retried DELETE in NotFound: the caller knows best what that means.
    """

    def __init__(
        self,
        config: ClusterConfig,
        *,
        field_manager: str,
        retry: RetryPolicy = DEFAULT_RETRY,
        user_agent: str | None = None,
        on_request: OnRequest | None = None,
        fence: Fence | None = None,
        request_timeout: float = 30.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.config = config
        self.field_manager = field_manager
        self._retry = retry
        self._user_agent = user_agent or field_manager
        self._on_request = on_request
        self._fence = fence
        self._timeout = aiohttp.ClientTimeout(total=request_timeout, sock_connect=10)
        self._clock = clock
        self._credentials = Credentials(config, clock)
        self._routing: dict[str, Any] = {"proxy": config.proxy_url, "server_hostname": config.tls_server_name}
        self._requests: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = self.config.ssl_context()
        # Watches hold their connections for minutes: in a pool of their own they never keep a write waiting.
        self._requests = self._session(aiohttp.TCPConnector(ssl=context or True, limit=64, keepalive_timeout=60))
        self._streams = self._session(aiohttp.TCPConnector(ssl=context or True, limit=0, force_close=True))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._requests, self._streams):
            if session is not None:
                await session.close()
        self._requests = self._streams = None
        await asyncio.sleep(0)  # the transports learn that they are closed in the loop's next turn

    def _session(self, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            # identity: the API server gzips answers from 128 KiB on if it may, which costs both sides time.
            headers={"Accept": JSON, "Accept-Encoding": "identity", "User-Agent": self._user_agent},
        )

    async def get(self, resource: Resource, name: str, *, namespace: str | None = None, into: type[T]) -> T:
        """Read one object."""
        path = resource.path(namespace, name)
        return wire.decode(await self._send("GET", resource, path), into, f"GET {path}")

    async def create(self, resource: Resource, obj: Body, *, namespace: str | None = None, into: type[T]) -> T:
        """POST a new object; AlreadyExists when there is one of this name."""
        path = resource.path(namespace)
        query = {"fieldManager": self.field_manager}
        return wire.decode(await self._send("POST", resource, path, query=query, body=obj), into, f"POST {path}")

    async def apply(
        self,
        resource: Resource,
        name: str,
        obj: Body,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        dry_run: bool = False,
        into: type[T],
    ) -> T:
        """Server-side apply by our field manager, with force: fields applied before that are not in `obj` go."""
        path = resource.path(namespace, name, subresource)
        query = {"fieldManager": self.field_manager, "force": "true"}
        if dry_run:
            query["dryRun"] = "All"
        answer = await self._send("PATCH", resource, path, query=query, body=obj, content_type=APPLY_PATCH)
        return wire.decode(answer, into, f"PATCH {path}")

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Body,
        *,
        namespace: str | None = None,
        subresource: str | None = None,
        into: type[T],
    ) -> T:
        """Merge patch. A `metadata.resourceVersion` or `.uid` in it is a precondition: Conflict when it fails."""
        path = resource.path(namespace, name, subresource)
        query = {"fieldManager": self.field_manager}
        answer = await self._send("PATCH", resource, path, query=query, body=patch, content_type=MERGE_PATCH)
        return wire.decode(answer, into, f"PATCH {path}")

    async def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str | None = None,
        uid: str | None = None,
        grace_seconds: int | None = None,
        propagation: Literal["Background", "Foreground", "Orphan"] | None = None,
        into: type[T],
    ) -> T | None:
        """Delete one object, with `uid` only that incarnation (Conflict when it is another).

        Returns the object while it is still terminating (grace period, finalizers), None when it is gone.
        NotFound is raised.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        path = resource.path(namespace, name)
        answer = await self._send("DELETE", resource, path, body=options)
        return wire.decode(answer, into, f"DELETE {path}") if wire.is_terminating(answer) else None

    async def list(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        into: type[T],
    ) -> list[T]:
        """Read all objects, 500 a page."""
        scope: dict[str, Any] = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        what = f"GET {resource.path(namespace)}"
        found: list[T] = []
        try:
            async for page in self.pages(resource, **scope):
                found += [wire.decode(item, into, what) for item in page.items]
        except Gone:  # the pages took longer than the server remembers: take all at once
            found.clear()
            async for page in self.pages(resource, **scope, size=0):
                found += [wire.decode(item, into, what) for item in page.items]
        return found

    async def pages(
        self,
        resource: Resource,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        size: int = PAGE_SIZE,
    ) -> AsyncGenerator[Page, None]:
        """The pages of a list, undecoded; `size` 0 asks for all at once. Raises Gone when a page came too late."""
        path = resource.path(namespace)
        query = _selectors(label_selector, field_selector)
        if size:
            query["limit"] = str(size)
        while True:
            page = wire.parse_page(await self._send("GET", resource, path, query=query), f"GET {path}")
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
        """One watch request, from just after `resource_version`, until the server ends it (after `timeout_seconds`).

        `on_open` is called when the server has accepted it, which may be long before the first event. Raises Gone
        when the server no longer knows that version, StreamSilent when nothing came for `read_deadline` seconds.
        """
        path = resource.path(namespace)
        what = f"WATCH {path}"
        query = _selectors(label_selector, field_selector) | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
        }
        lines = wire.LineSplitter()
        async with self._stream("WATCH", resource, path, query, read_deadline) as content:
            if on_open is not None:
                on_open()
            async for chunk in content.iter_any():
                for line in lines.feed(chunk):
                    yield wire.parse_event(line, what)
        if lines.rest():
            raise ConnectionFailed(self.config.server, what, "the stream was cut in the middle of an event")

    async def log_lines(
        self,
        namespace: str,
        pod: str,
        *,
        container: str | None = None,
        follow: bool = False,
        tail: int | None = None,
    ) -> AsyncGenerator[str, None]:
        """Lines of a container's log, without their line ends; with `follow` until the container stops."""
        query = {"container": container, "follow": "true" if follow else None, "tailLines": tail}
        given = {name: str(value) for name, value in query.items() if value is not None}
        path = PODS.path(namespace, pod, "log")
        lines = wire.LineSplitter()
        async with self._stream("GET", PODS, path, given, None if follow else 60.0) as content:
            async for chunk in content.iter_any():
                for line in lines.feed(chunk):
                    yield line.decode("utf-8", "replace")
        if rest := lines.rest():
            yield rest.decode("utf-8", "replace")

    async def _send(
        self,
        method: str,
        resource: Resource,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = JSON,
    ) -> bytes:
        """One request with its retries; the body of the good answer."""
        url = self._url(path, query)
        data = None if body is None else wire.encode(body)
        tries = 0
        renewed = False
        while True:
            try:
                return await self._once(method, resource, url, data, content_type)
            except Unauthorized:
                if renewed or not await self._credentials.renew():
                    raise
                renewed = True
            except (ConnectionFailed, TooManyRequests, ServerError) as error:
                tries += 1
                wait = self._retry.wait(tries, error, random.random())  # noqa: S311 - spreads load, guards nothing
                if wait is None:
                    raise
                await self._clock.sleep(wait)

    async def _once(self, method: str, resource: Resource, url: URL, data: bytes | None, content_type: str) -> bytes:
        if self._requests is None:
            raise RuntimeError("the Client is closed: use it inside `async with`")
        headers = self._credentials.headers()
        options: dict[str, Any] = {"headers": headers, **self._routing}
        if data is not None:
            headers["Content-Type"] = content_type
            options["data"] = data
            if self._fence is not None:
                options["data"] = FencedBody(data, self._fence)
                seconds = min(self._fence(), self._timeout.total or inf)
                options["timeout"] = aiohttp.ClientTimeout(total=seconds, sock_connect=10)
        status = 0
        began = time.perf_counter()
        try:
            async with self._requests.request(method, url, **options) as answer:
                body = await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._lost(f"{method} {url.path}", error) from error
        finally:
            self._count(method, resource, status, began)
        if status >= 300:
            raise _failure(answer, body, f"{method} {url.path}")
        return body

    @asynccontextmanager
    async def _stream(
        self, method: str, resource: Resource, path: str, query: Mapping[str, str], read_deadline: float | None
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """One answer of unknown length, without retries: who reads a stream knows where to go on."""
        if self._streams is None:
            raise RuntimeError("the Client is closed: use it inside `async with`")
        what = f"{method} {path}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=read_deadline)
        url, headers = self._url(path, query), self._credentials.headers()
        status = 0
        began = time.perf_counter()
        try:
            async with self._streams.get(url, headers=headers, timeout=timeout, **self._routing) as answer:
                status = answer.status
                self._count(method, resource, status, began)
                if status >= 300:
                    raise _failure(answer, await answer.read(), what)
                transport = answer.connection.transport if answer.connection is not None else None
                try:
                    yield answer.content
                finally:
                    if transport is not None:
                        transport.abort()  # a polite TLS goodbye would outlive the Client
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if not status:
                self._count(method, resource, status, began)
            elif isinstance(error, TimeoutError):
                raise StreamSilent(self.config.server, what, f"silent for {read_deadline} s") from error
            raise self._lost(what, error) from error
        except Unauthorized:
            await self._credentials.renew()  # for the next attempt
            raise

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        text = f"{self.config.server}{path}?{urlencode(query)}" if query else f"{self.config.server}{path}"
        return URL(text, encoded=True)

    def _count(self, method: str, resource: Resource, status: int, began: float) -> None:
        if self._on_request is not None:
            self._on_request(method, resource.plural, status, time.perf_counter() - began)

    def _lost(self, what: str, error: Exception) -> ConnectionFailed:
        return ConnectionFailed(self.config.server, what, str(error) or type(error).__name__)


def _selectors(label_selector: str | None, field_selector: str | None) -> dict[str, str]:
    query = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {name: value for name, value in query.items() if value}


def _failure(answer: aiohttp.ClientResponse, body: bytes, what: str) -> ApiError:
    retry_after = wire.parse_retry_after(answer.headers.get("Retry-After"))
    return error_from(answer.status, body, request=what, retry_after=retry_after)
