"""Keeps a Store equal to what the API server has: list once, then watch for ever, through all interruptions."""

from collections.abc import Callable
from typing import Generic

from vdi.kube.clock import SYSTEM_CLOCK, Clock
from vdi.kube.errors import KubeError
from vdi.kube.meta import T
from vdi.kube.resource import Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client


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
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.resource = resource
        self.store = store

    async def run(self) -> None:
        """Reflect until cancelled."""
        raise NotImplementedError

    async def wait_synced(self) -> None:
        """Return once the first complete list is in the store."""
        raise NotImplementedError

    @property
    def synced(self) -> bool:
        """Whether the store has had a complete list."""
        raise NotImplementedError

    @property
    def last_contact(self) -> float | None:
        """When the server last said anything (a page, an event, a bookmark), on the clock's monotonic scale."""
        raise NotImplementedError

    @property
    def last_error(self) -> KubeError | None:
        """Why the last list or watch failed; None while all is well."""
        raise NotImplementedError
