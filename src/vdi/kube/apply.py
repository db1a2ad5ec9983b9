"""Creation and repair of objects with as few requests as possible: none for an object that is as
desired.

`managed_fields` tells whether it is. Creation is a POST, which was measured to cost the API server
a fifth less than server-side apply; repair is server-side apply.
"""

import logging
from collections.abc import Mapping
from typing import Any, Generic

import msgspec

from vdi.kube import wire
from vdi.kube.errors import AlreadyExists, NotFound, Replaced
from vdi.kube.managed_fields import FieldOwnership, hash_of, merge_trees, owns_all
from vdi.kube.meta import T
from vdi.kube.resource import Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client

log = logging.getLogger(__name__)


class Applier(Generic[T]):
    """Creates, repairs and deletes the objects of one kind, reading only `store`.

    With `Store(FieldOwnershipReader(client.field_manager, ANNOTATION))` drift is repaired; in other
    stores objects are created once and left as they are.

    Desired objects should leave out empty values (`0`, `false`, `""`) where those are the default:
    for many of them the server keeps no owner, and such an object costs one request, without
    effect, after each start of the process.
    """

    def __init__(self, client: Client, resource: Resource, into: type[T], store: Store[T]) -> None:
        self.resource = resource
        self.store = store
        self._client = client
        self._into = into
        self._marks = store.ownership
        # By uid: our ownership after our last write, which is as much as it can be. The server
        # keeps no owner for some empty values, and without this memory such an object would be
        # applied for ever. After a restart `owns_all` decides, which costs it one request.
        self._settled: dict[str, FieldOwnership] = {}
        store.listen(self._drop)

    async def ensure(self, desired: Mapping[str, Any]) -> T:
        """Make the object as `desired` (complete: apiVersion, kind, metadata, ...) and return it as
        it then is.

        POST when the store has none, nothing when it is as desired, server-side apply otherwise
        (changed spec or drift). One that is being deleted is returned as it is, and nothing is
        sent: its removal will call.

        An unknown object of this name is taken over by server-side apply. A caller that must not
        take over somebody else's puts a controller ownerReference into the spec: the server refuses
        a second one (Invalid).
        """
        metadata = desired["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        observed = self.store.get(namespace, name)
        if observed is None:
            try:
                return await self.create(desired)
            # Our POST of which we never saw the answer, or a store that lags behind.
            except AlreadyExists:
                return await self._apply(namespace, name, self._marked(desired))
        if self.is_as_desired(observed, desired):
            return observed
        body, mark = self._marked(desired), self.store.mark_of(observed)
        if mark is not None and mark.hash == hash_of(desired):
            log.info(
                "%s %s/%s was changed by somebody else: repaired",
                self.resource.kind,
                namespace,
                name,
            )
        elif mark is not None and mark.posted:
            await self._hand_over(namespace, name)
        return await self._apply(namespace, name, body)

    def is_as_desired(self, observed: T | None, desired: Mapping[str, Any]) -> bool:
        """Whether `ensure` would send nothing for this object of the store."""
        if observed is None:
            return False
        if self._marks is None or observed.metadata.deletion_timestamp is not None:
            return True
        mark = self.store.mark_of(observed)
        if mark is None or mark.hash != hash_of(desired):
            return False
        uid = observed.metadata.uid
        if mark != self._settled.get(uid) and not owns_all(mark, self._marked(desired)):
            return False
        self._settled[uid] = mark
        return True

    async def create(self, desired: Mapping[str, Any]) -> T:
        """Make the object; AlreadyExists when there is one of this name."""
        namespace, body = desired["metadata"].get("namespace"), self._marked(desired)
        return self._take(
            await self._client.create(self.resource, body, namespace=namespace, into=msgspec.Raw)
        )

    async def delete(self, observed: T, *, grace_seconds: int | None = None) -> bool:
        """Delete exactly this incarnation; True when it is gone, False while it is terminating.

        One that the store knows to be terminating is not deleted again, unless by force
        (`grace_seconds` 0). Gone before, or replaced by another incarnation, is True as well.
        """
        metadata = observed.metadata
        present = self.store.get(metadata.namespace, metadata.name)
        if present is None or present.metadata.uid != metadata.uid:
            return True
        if present.metadata.deletion_timestamp is not None and grace_seconds != 0:
            return False
        try:
            left = await self._client.delete(
                self.resource,
                metadata.name,
                namespace=metadata.namespace or None,
                uid=metadata.uid,
                grace_seconds=grace_seconds,
                into=self._into,
            )
        except (NotFound, Replaced):
            left = None
        if left is None:
            self.store.forget(metadata.namespace, metadata.name, metadata.uid)
            return True
        self.store.remember(left)
        return False

    def _marked(self, desired: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._marks is None:
            return desired
        metadata = desired["metadata"]
        annotations = {**metadata.get("annotations", {}), self._marks.annotation: hash_of(desired)}
        return {**desired, "metadata": {**metadata, "annotations": annotations}}

    async def _apply(self, namespace: str, name: str, body: Mapping[str, Any]) -> T:
        response = await self._client.apply(
            self.resource, name, body, namespace=namespace or None, into=msgspec.Raw
        )
        return self._take(response)

    def _take(self, response: msgspec.Raw) -> T:
        obj = wire.decode(response, self._into, self.resource.kind)
        mark = self._marks.read(response) if self._marks else None
        if mark is not None:
            self._settled[obj.metadata.uid] = mark
        self.store.remember(obj, mark)
        return obj

    async def _hand_over(self, namespace: str, name: str) -> None:
        """Before the first apply of a changed spec: let apply own what our POST set.

        To the server our POSTs and our applies are two owners, so a field that the POST set and the
        new spec no longer has would stay for ever. Once per object, and only if its spec ever
        changes.
        """
        scope = namespace or None
        try:
            live = await self._client.get(self.resource, name, namespace=scope, into=_Managed)
            if live.merge(self._client.field_manager):
                await self._client.patch(
                    self.resource, name, live, namespace=scope, into=msgspec.Raw
                )
        except NotFound:  # gone meanwhile: apply creates it
            return

    def _drop(self, old: T | None, new: T | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self._settled.pop(old.metadata.uid, None)


class _ManagedMetadata(msgspec.Struct, rename="camel"):
    resource_version: str
    managed_fields: list[dict[str, Any]] = []


class _Managed(msgspec.Struct):
    metadata: _ManagedMetadata

    def merge(self, manager: str) -> bool:
        """Make the manager's Update entry part of its Apply entry; whether there was one."""
        entries = self.metadata.managed_fields
        ours = []
        for e in entries:
            if e.get("manager") == manager and not e.get("subresource"):
                ours.append(e)
        if not any(entry.get("operation") == "Update" for entry in ours):
            return False
        fields: dict[str, Any] = {}
        for entry in ours:
            merge_trees(fields, entry.get("fieldsV1", {}))
        merged = {**ours[0], "operation": "Apply", "fieldsV1": fields}
        self.metadata.managed_fields = [entry for entry in entries if entry not in ours] + [merged]
        return True
