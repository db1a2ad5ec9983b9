"""Brings one object to what is wanted with as few requests as possible: none when it is so already."""

from collections.abc import Mapping
from typing import Any, Generic

from vdi.kube.meta import T
from vdi.kube.resource import Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client


class Applier(Generic[T]):
    """Creates, repairs and deletes the objects of one kind, reading only `store`.

    The store must be made for it: `Store(marks=MarkReader(client.field_manager, "vdi.kasm.io/applied-hash"))`.
    """

    def __init__(self, client: Client, resource: Resource, into: type[T], store: Store[T]) -> None:
        self.resource = resource
        self.store = store

    async def ensure(self, wanted: Mapping[str, Any]) -> T:
        """Make the object as `wanted` (complete: apiVersion, kind, metadata, ...) and return it as it then is.

        POST when the store has none, nothing when it is as wanted, server-side apply otherwise (changed wish or
        drift). One that is being deleted is returned as it is, and nothing is sent: its removal will call.
        """
        raise NotImplementedError

    async def delete(self, observed: T, *, grace_seconds: int | None = None) -> bool:
        """Delete exactly this incarnation, once; True when it is gone, False while it is terminating.

        Gone already, or replaced by another incarnation, is True as well.
        """
        raise NotImplementedError
