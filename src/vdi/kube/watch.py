"""Reflectors, which keep a `Store` equal to the API server: list once, then watch through all
interruptions.
"""

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic

import msgspec

from vdi.kube import errors, wire
from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.managed_fields import FieldOwnership
from vdi.kube.meta import T
from vdi.kube.resource import Resource
from vdi.kube.store import Relist, Store
from vdi.kube.transport import PAGE_SIZE, Client

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Timing of a Reflector, in seconds."""

    # How long one watch may last: drawn between these, so that those of many clients do not end
    # together.
    session: tuple[float, float] = (300.0, 600.0)
    # A stream on which nothing came for so long is reopened. It may be dead; mostly all is quiet:
    # the API server sends a bookmark a minute, but not for a kind of which nothing, anywhere in the
    # cluster, has changed since.
    read_deadline: float = 90.0
    # The wait after the first failure; it doubles with each that follows.
    backoff: float = 0.5
    backoff_cap: float = 30.0


DEFAULT_TIMING = WatchTiming()


class Reflector(Generic[T]):
    """Keeps `store` up to date with one kind, in one namespace or in all."""

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
        timing: WatchTiming = DEFAULT_TIMING,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.store = store
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
        # When the server last sent anything (a page, an event, a watch's acceptance), on the
        # monotonic scale.
        self.last_contact: float | None = None
        # Why the last list or watch failed; None while all is well.
        self.last_error: errors.KubeError | None = None
        self._version = ""  # of the last event, to resume from; empty: list first
        self._page_size = PAGE_SIZE
        self._failures = 0
        self._said = ""  # the failure that was logged last, so that it is logged once

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            began = self._clock.monotonic()
            try:
                if not self._version:
                    await self._list()
                known = await self._watch()
                if not known and self._clock.monotonic() - began < 1.0:
                    raise errors.ConnectionFailed(
                        self._client.config.server, f"WATCH {self.resource.plural}", "ended at once"
                    )
                self._recovered()
            except errors.KubeError as error:
                await self._recover(error)

    async def wait_synced(self) -> None:
        """Return once the first complete list is in the store."""
        await self._synced.wait()

    @property
    def synced(self) -> bool:
        """Whether the store has had a complete list."""
        return self._synced.is_set()

    async def _list(self) -> None:
        relist: Relist[T] | None = None
        version = ""
        async with aclosing(
            self._client.pages(self.resource, **self._scope, size=self._page_size)
        ) as pages:
            async for page in pages:
                self.last_contact = self._clock.monotonic()
                if relist is None:
                    version = wire.numeric(page.resource_version, f"list of {self.resource.plural}")
                    relist = self.store.relist(int(version), self.namespace or "")
                for item in page.items:
                    decoded = self._decode(item)
                    if decoded is not None:
                        relist.put(*decoded)
                await asyncio.sleep(0)  # a page of hundreds takes milliseconds: let other tasks run
        if relist is not None:
            relist.finish()
        self._version = version
        self._page_size = PAGE_SIZE
        self.last_error = None
        self._synced.set()

    async def _watch(self) -> bool:
        """One watch, until the server ends it or falls silent; False when it ended without an
        event.
        """
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
                    self.last_contact = self._clock.monotonic()
                    self._recovered()
                    known = True
        except errors.StreamSilent as error:
            log.debug("watching %s: opened again: %s", self.resource.plural, error)
            return True  # a failure only if the next watch is not accepted
        return known

    def _take(self, event: wire.WatchEvent) -> None:
        version, seen = int(wire.version_in(event)), event.metadata
        known = event.type in ("ADDED", "MODIFIED") and not self.store.awaits(
            seen.namespace, seen.name, seen.uid, version
        )
        if known or event.type == "BOOKMARK":
            decoded = None
        else:
            decoded = self._decode(event)
        if decoded is None:
            self.store.observe_version(version, self.namespace or "")
            if known:
                self.store.observe_known(seen.namespace, seen.name, seen.uid, version)
        elif event.type == "DELETED":
            self.store.observe_deleted(decoded[0])
        else:
            self.store.observe(*decoded)
        # A replica of the server that lags behind the last one sends older versions: never go back.
        if version > int(self._version):
            self._version = str(version)

    def _decode(
        self, given: msgspec.Raw | wire.WatchEvent
    ) -> tuple[T, FieldOwnership | None] | None:
        """Decode one object; one that cannot be read is logged and left out, so that it does not
        hide all others.
        """
        ownership = self.store.ownership
        try:
            if isinstance(given, wire.WatchEvent):
                if ownership is None:
                    return wire.decode_event(given, self._into, self.resource.kind), None
                given = given.object
            obj = wire.decode(given, self._into, self.resource.kind)
            return obj, (
                ownership.read(given) if ownership is not None and self.store.is_news(obj) else None
            )
        except (errors.UnexpectedAnswer, msgspec.DecodeError) as error:
            body = given.object if isinstance(given, wire.WatchEvent) else given
            log.error("%s is ignored: %s", wire.name_in(body), error)
            return None

    def _accepted(self) -> None:
        """The server has accepted a watch. Only its first event shows that failures are over."""
        self.last_contact = self._clock.monotonic()
        self.last_error = None

    def _recovered(self) -> None:
        # Only after an event or a watch that ended well. After a mere list it would be too early:
        # an account that may list but not watch would list in a tight loop.
        self._failures = 0
        self.last_error = None
        self._said = ""

    async def _recover(self, error: errors.KubeError) -> None:
        """Decide whether to list or to resume after a failure, and wait."""
        resumable = isinstance(
            error, errors.ConnectionFailed | errors.TooManyRequests | errors.ServerError
        )
        if not resumable:
            if isinstance(error, errors.Gone) and not self._version:
                self._page_size = (
                    0  # the pages took longer than the server keeps versions: request all at once
                )
            self._version = ""
        if not isinstance(error, errors.Gone):
            self._say(error)
        self.last_error = error
        self._failures += 1
        if isinstance(error, errors.Gone) and self._failures == 1:
            return  # not a failure: we were away too long
        wait = min(
            self._timing.backoff_cap, self._timing.backoff * 2 ** min(self._failures - 1, 16)
        )
        wait *= 1 - 0.5 * random.random()  # noqa: S311 - spreads load, guards nothing
        if isinstance(error, errors.ApiError) and error.retry_after is not None:
            wait = max(wait, min(error.retry_after, self._timing.backoff_cap))
        await self._clock.sleep(wait)

    def _say(self, error: errors.KubeError) -> None:
        """Log a failure when it begins or changes, not at each repetition."""
        if str(error) != self._said:
            self._said = str(error)
            log.warning("watching %s: %s", self.resource.plural, error)


def describe_troubles(reflectors: Iterable[Reflector[Any]]) -> Iterator[str]:
    """One line per kind that cannot be watched, with the API server's reason, or that is not listed
    yet.
    """
    for reflector in reflectors:
        if reflector.last_error is not None:
            yield f"{reflector.resource.plural}: {reflector.last_error}"
        elif not reflector.synced:
            yield f"{reflector.resource.plural}: the first list is not complete yet"
