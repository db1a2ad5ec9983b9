"""Writes of objects that a session owns: created, repaired, adopted and deleted, never an object of
somebody else.

Used by `child_writes` for all five kinds of a session's objects, and by `pools` for pods.
"""

from collections.abc import Hashable, Mapping
from typing import Any, cast

import msgspec

from vdi.api.meta import OwnerReference
from vdi.cluster.objects import PersistentVolumeClaim, Pod, Service
from vdi.kinds import ROUTES
from vdi.kube import wire
from vdi.kube.apply import Applier
from vdi.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    KubeError,
    NotFound,
    ServerError,
    TooManyRequests,
)
from vdi.kube.meta import HasMetadata, T
from vdi.kube.resource import CLAIMS, PODS, SECRETS, SERVICES
from vdi.kube.transport import Client
from vdi.operator.caches import Caches
from vdi.session.children import Route, Secret
from vdi.session.naming import MANAGED_BY


class ForeignObjectError(Exception):
    """Raised when an object of the child's name exists and belongs to somebody else."""

    def __init__(self, kind: str, name: str, owner: str | None) -> None:
        self.kind = kind
        self.name = name
        self.owner = owner  # name of the session that it belongs to, if any
        super().__init__(f"{kind} {name!r} belongs to {owner or 'someone else'}")


class OwnedResource(Applier[T]):
    """The children of one kind: an `Applier` that refuses to touch an object of somebody else.

    Services and routes are repaired when somebody edits them: their stores keep field ownership.
    Pods, homes and Secrets are made once: their specs cannot be changed, or must not be under a
    running desktop.
    """

    async def ensure(self, desired: Mapping[str, Any]) -> T:
        """Create or repair the object; returns it as it then is.

        Raises ForeignObjectError, ApiError, ConnectionFailed.
        """
        metadata = desired["metadata"]
        present = self.store.get(metadata["namespace"], metadata["name"])
        if present is None:
            try:
                return await self.create(desired)
            except AlreadyExists:
                # Our own POST whose answer was lost, a store that lags, a stripped label, or
                # somebody else's object.
                present = await self._adopt(metadata)
        self._refuse_foreign(present, metadata)
        return await super().ensure(desired)

    async def patch_metadata(self, present: T, **change: Any) -> T:
        """Change these fields of this incarnation's metadata, such as `labels`; returns the object
        as it then is.
        """
        return await self.patch(present, {"metadata": change})

    async def patch(self, present: T, change: Mapping[str, Any], **options: str) -> T:
        """Change this incarnation, with `options` of `Client.patch`; returns the object as it then
        is.
        """
        meta = present.metadata
        patch = {**change, "metadata": {**change.get("metadata", {}), "uid": meta.uid}}
        response = await self._client.patch(
            self.resource, meta.name, patch, namespace=meta.namespace, **options, into=msgspec.Raw
        )
        obj, ownership = wire.decode(response, self._into, self.resource.kind), self.store.ownership
        self.store.remember(obj, ownership.read(response) if ownership else None)
        return obj

    async def patch_unchanged(self, present: T, **change: Any) -> T:
        """The same, only if the object is still as it is known here. Raises Conflict."""
        return await self.patch_metadata(
            present, **change, resourceVersion=present.metadata.resource_version
        )

    async def get_live(self, namespace: str, name: str) -> T | None:
        """The object as the API server has it, for where a cache that lags would do harm; None when
        it has none.
        """
        try:
            return await self._client.get(self.resource, name, namespace=namespace, into=self._into)
        except NotFound:
            return None

    async def _adopt(self, metadata: Mapping[str, Any]) -> T:
        live = await self._client.get(
            self.resource, metadata["name"], namespace=metadata["namespace"], into=self._into
        )
        self._refuse_foreign(live, metadata)
        return await self.patch_metadata(live, labels=metadata["labels"])

    def _refuse_foreign(self, present: T, metadata: Mapping[str, Any]) -> None:
        desired_owners = metadata.get("ownerReferences")
        owner = session_of(present)
        if desired_owners is None and owner is None:
            return  # a shared home belongs to its user and template, which its name says
        if desired_owners and owner and owner.uid == desired_owners[0]["uid"]:
            return
        raise ForeignObjectError(
            self.resource.kind, metadata["name"], owner.name if owner else None
        )


class OwnedResources:
    """The children of sessions, kind by kind."""

    def __init__(self, client: Client, caches: Caches) -> None:
        self.pods = OwnedResource(client, PODS, Pod, caches.pods)
        self.homes = OwnedResource(client, CLAIMS, PersistentVolumeClaim, caches.claims)
        self.secrets = OwnedResource(client, SECRETS, Secret, caches.secrets)
        self.services = OwnedResource(client, SERVICES, Service, caches.services)
        self.routes = OwnedResource(client, ROUTES, Route, caches.routes)


def session_of(obj: HasMetadata) -> OwnerReference | None:
    """The session that owns this object, as its ownerReference names it."""
    owners = cast("tuple[OwnerReference, ...]", obj.metadata.owner_references)
    return next((owner for owner in owners if owner.kind == "VDISession"), None)


def owner_uid(obj: HasMetadata) -> str | None:
    owner = session_of(obj)
    return owner.uid if owner else None


class UncertainCreates:
    """Pods whose create was sent and whose answer was lost, by the key of the session or pool that
    they are for.

    The watch tells in a moment whether such a pod exists, unless it is broken too, which happens
    together. Until then no other session may have its capacity, nor the home that it mounts: a
    session that is deleted or suspended in that moment would give both away. Lives as long as the
    process: the next one's first lists have the pods.
    """

    def __init__(self, pods: OwnedResource[Pod]) -> None:
        self._pods = pods
        self._names: dict[Hashable, set[tuple[str, str]]] = {}

    def add(self, whose: Hashable, namespace: str, name: str) -> None:
        """A pod of this name may exist."""
        self._names.setdefault(whose, set()).add((namespace, name))

    async def settle(self, whose: Hashable) -> list[str]:
        """Ask the API server for these pods; those that exist are in the caches then. Returns all
        their names.

        Raises KubeError while it is still not known.
        """
        settled = sorted(self._names.get(whose, ()))
        for namespace, name in settled:
            live = await self._pods.get_live(namespace, name)
            # Else it is a stranger's.
            if live and MANAGED_BY.items() <= live.metadata.labels.items():
                self._pods.store.remember(live)
        self.forget(whose)
        return [name for _, name in settled]

    def forget(self, whose: Hashable) -> None:
        self._names.pop(whose, None)


def is_uncertain(failure: BaseException) -> bool:
    """Whether a create that failed with this may have been executed all the same: its answer was
    lost.
    """
    if isinstance(failure, ApiError):
        return isinstance(failure, Conflict | TooManyRequests | ServerError)
    return isinstance(failure, KubeError)
