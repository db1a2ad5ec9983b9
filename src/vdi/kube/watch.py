"""Keeps a Store equal to what the API server has: list once, then watch for ever, through all interruptions."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic

import msgspec

from vdi.kube import wire
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import (
    ApiError,
    ConnectionFailed,
    Gone,
    KubeError,
    ServerError,
    StreamSilent,
    TooManyRequests,
    UnexpectedAnswer,
)
from vdi.kube.managed_fields import FieldOwnership
from vdi.kube.meta import T
from vdi.kube.resource import Resource
from vdi.kube.store import Relist, Store
from vdi.kube.transport import PAGE_SIZE, Client

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """How patient a Reflector is, in seconds."""

    # How long one watch may last: drawn between these, so that those of many clients do not end together.
    session: tuple[float, float] = (300.0, 600.0)

    # A stream on which nothing came for so long is reopened. It may be dead; mostly all is quiet: the API server
    # sends a bookmark a minute, but not for a kind of which nothing, anywhere in the cluster, has changed since.
    read_deadline: float = 90.0
    # The wait after the first failure; it doubles with each that follows.
    backoff: float = 0.5
    backoff_cap: float = 30.0


DEFAULT_TIMING = WatchTiming()


class Reflector(Generic[T]):
    """One kind, in one namespace or in all, reflected into `store`."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        into: type[T],
        store: Store[T],
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        on_change: Callable[[T | None, T | None], None] | None = None,
        timing: WatchTiming = DEFAULT_TIMING,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.store = store
        if on_change is not None:
            store.listen(on_change)
        self._client = client
        self._into = into
        self._scope: dict[str, Any] = {
            "namespace": namespace,
            "label_selector": label_selector,
            "field_selector": field_selector,
        }
        self._timing = timing
        self._clock = clock
        self._synced = asyncio.Event()
        self._last_contact: float | None = None
        self._last_error: KubeError | None = None
        self._version = ""  # where the next watch goes on; empty: list first
        self._page_size = PAGE_SIZE
        self._failures = 0
        self._said = ""  # the trouble that was logged last, so that it is logged once

    async def run(self) -> None:
        """Reflect until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                if not self._version:
                    await self._list()
                known = await self._watch()
                if not known and self._clock.monotonic() - began < 1.0:
                    raise ConnectionFailed(self._client.config.server, f"WATCH {self.resource.plural}", "ended at once")
                self._recovered()
            except KubeError as error:
                await self._recover(error)

    async def wait_synced(self) -> None:
        """Return once the first complete list is in the store."""
        await self._synced.wait()

    @property
    def synced(self) -> bool:
        """Whether the store has had a complete list."""
        return self._synced.is_set()

    @property
    def last_contact(self) -> float | None:
        """When the server last said anything (a page, an event, that a watch is accepted), on the monotonic scale."""
        return self._last_contact

    @property
    def last_error(self) -> KubeError | None:
        """Why the last list or watch failed; None while all is well."""
        return self._last_error

    async def _list(self) -> None:
        relist: Relist[T] | None = None
        version = ""
        async with aclosing(self._client.pages(self.resource, **self._scope, size=self._page_size)) as pages:
            async for page in pages:
                self._last_contact = self._clock.monotonic()
                if relist is None:
                    version = wire.numeric(page.resource_version, f"list of {self.resource.plural}")
                    relist = self.store.relist(int(version), self.namespace or "")
                for item in page.items:
                    decoded = self._decode(item)
                    if decoded is not None:
                        relist.put(*decoded)
                await asyncio.sleep(0)  # a page of hundreds took milliseconds: let the others work
        if relist is not None:
            relist.finish()
        self._version = version
        self._page_size = PAGE_SIZE
        self._last_error = None
        self._synced.set()

    async def _watch(self) -> bool:
        """One watch, until the server ends it or says nothing any more; False when it ended without an event."""
        low, high = self._timing.session
        known = False
        stream = self._client.watch(
            self.resource,
            **self._scope,
            resource_version=self._version,
            timeout_seconds=int(low + (high - low) * random.random()),  # noqa: S311 - spreads load, guards nothing
            read_deadline=self._timing.read_deadline,
            on_open=self._accepted,
        )
        try:
            async with aclosing(stream) as news:
                async for event in news:
                    self._take(event)
                    self._last_contact = self._clock.monotonic()
                    self._recovered()
                    known = True
        except StreamSilent as error:
            log.debug("watching %s: opened again: %s", self.resource.plural, error)
            return True  # no trouble yet: it is one when the next watch is not accepted
        return known

    def _take(self, event: wire.WatchEvent) -> None:
        version, seen = int(wire.version_in(event)), event.metadata
        known = event.type in ("ADDED", "MODIFIED") and not self.store.awaits(
            seen.namespace, seen.name, seen.uid, version
        )
        decoded = None if known or event.type == "BOOKMARK" else self._decode(event)
        if decoded is None:
            self.store.observe_version(version, self.namespace or "")
        elif event.type == "DELETED":
            self.store.observe_deleted(decoded[0])
        else:
            self.store.observe(*decoded)
        # A server that lags behind the one we asked before tells of older versions: never go back.
        if version > int(self._version):
            self._version = str(version)

    def _decode(self, given: msgspec.Raw | wire.WatchEvent) -> tuple[T, FieldOwnership | None] | None:
        """An object that cannot be read is left out, and said so: it must not blind us to all others."""
        ownership = self.store.ownership
        try:
            if isinstance(given, wire.WatchEvent):
                if ownership is None:
                    return wire.decode_event(given, self._into, self.resource.kind), None
                given = given.object
            obj = wire.decode(given, self._into, self.resource.kind)
            return obj, ownership.read(given) if ownership is not None and self.store.is_news(obj) else None
        except (UnexpectedAnswer, msgspec.DecodeError) as error:
            body = given.object if isinstance(given, wire.WatchEvent) else given
            log.error("%s is ignored: %s", wire.name_in(body), error)
            return None

    def _accepted(self) -> None:
        """The server watches for us; whether failures are over is seen when it brings something."""
        self._last_contact = self._clock.monotonic()
        self._last_error = None

    def _recovered(self) -> None:
        """The watch works. (That the list does says nothing: who may list but not watch would list in a tight loop.)"""
        self._failures = 0
        self._last_error = None
        self._said = ""

    async def _recover(self, error: KubeError) -> None:
        """Decide where to go on after a failure, and wait."""
        resumable = isinstance(error, ConnectionFailed | TooManyRequests | ServerError)
        if not resumable:
            if isinstance(error, Gone) and not self._version:
                self._page_size = 0  # the pages took longer than the server remembers: take all at once
            self._version = ""
        if not isinstance(error, Gone):
            self._say(error)
        self._last_error = error
        self._failures += 1
        if isinstance(error, Gone) and self._failures == 1:
            return  # nothing is wrong: we were away too long
        wait = min(self._timing.backoff_cap, self._timing.backoff * 2 ** min(self._failures - 1, 16))
        wait *= 1 - 0.5 * random.random()  # noqa: S311 - spreads load, guards nothing
        if isinstance(error, ApiError) and error.retry_after is not None:
            wait = max(wait, min(error.retry_after, self._timing.backoff_cap))
        await self._clock.sleep(wait)

    def _say(self, error: KubeError) -> None:
        """Log a trouble when it begins or changes, not each time it is met again."""
        if str(error) != self._said:
            self._said = str(error)
            log.warning("watching %s: %s", self.resource.plural, error)


def describe_troubles(reflectors: Iterable[Reflector[Any]]) -> Iterator[str]:
    """One line per kind that cannot be watched, with the API server's reason, or that is not listed yet."""
    for reflector in reflectors:
        if reflector.last_error is not None:
            yield f"{reflector.resource.plural}: {reflector.last_error}"
        elif not reflector.synced:
            yield f"{reflector.resource.plural}: the first list is not complete yet"
