"""Objects as they change, for `ls --watch`, `create --wait` and `rm --wait`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

from vdi.kube.meta import T
from vdi.kube.resource import Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.kube.watch import Reflector

R = TypeVar("R")


class ObjectWatch(Generic[T]):
    """The objects of one kind: `store` has the current ones, `change` returns each change, the first list included."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        into: type[T],
        *,
        namespace: str | None,
        name: str | None,
        on_change: Callable[[], None] | None,
    ) -> None:
        self.store: Store[T] = Store()
        self._changes: asyncio.Queue[tuple[T | None, T | None]] = asyncio.Queue()
        self._reflector = Reflector(
            client,
            resource,
            into,
            self.store,
            namespace=namespace,
            field_selector=f"metadata.name={name}" if name else None,
            on_change=lambda old, new: self._changes.put_nowait((old, new)),
        )
        if on_change is not None:
            self.store.listen(lambda _old, _new: on_change())
        self._reflecting = asyncio.create_task(self._reflector.run())

    async def synced(self) -> None:
        """Return once the first list is there."""

        await self._unless_it_breaks(self._reflector.wait_synced())

    async def change(self) -> tuple[T | None, T | None]:
        """The next change, (old, new): (None, new) appeared, (old, None) is gone."""
        return await self._unless_it_breaks(self._changes.get())

    def wake(self) -> None:
        """Make `change` return at once, with (None, None)."""
        self._changes.put_nowait((None, None))

    async def stop(self) -> None:
        """Stop watching."""
        self._reflecting.cancel()
        await asyncio.wait([self._reflecting])

    async def _unless_it_breaks(self, work: Coroutine[Any, Any, R]) -> R:
        """The result; the error of a reflector that failed is raised here instead of waiting for ever."""
        waiting = asyncio.create_task(work)
        try:
            await asyncio.wait([waiting, self._reflecting], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                self._reflecting.result()
            return await waiting
        finally:
            waiting.cancel()


@asynccontextmanager
async def watch_objects(
    client: Client,
    resource: Resource,
    into: type[T],
    *,
    namespace: str | None,
    name: str | None = None,
    on_change: Callable[[], None] | None = None,
) -> AsyncIterator[ObjectWatch[T]]:
    """Watch one object or all of a kind until the context ends; reconnects by itself.

    Raises a KubeError at once when they may not be listed: the reflector alone would try for ever.
    """
    selector = f"metadata.name={name}" if name else None
    await client.list(resource, namespace=namespace, field_selector=selector, into=into)
    objects = ObjectWatch(client, resource, into, namespace=namespace, name=name, on_change=on_change)
    try:
        await objects.synced()
        yield objects
    finally:
        await objects.stop()
