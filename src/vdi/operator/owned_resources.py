"""Create, repair and delete for the objects that a session owns, never for an object of someone else."""

from collections.abc import Hashable, Mapping
from typing import Any, Generic, cast

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
    Replaced,
    ServerError,
    TooManyRequests,
)
from vdi.kube.meta import HasMetadata, T
from vdi.kube.resource import CLAIMS, PODS, SECRETS, SERVICES, Resource
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.operator.caches import Caches
from vdi.session.children import Route, Secret
from vdi.session.naming import MANAGED_BY


class ForeignObjectError(Exception):
    """Raised when an object of the child's name exists and belongs to somebody else."""

    def __init__(self, kind: str, name: str, owner: str | None) -> None:
        self.kind = kind
        self.name = name
        self.owner = owner
        """Name of the session that it belongs to, if it is one's."""

        super().__init__(f"{kind} {name!r} belongs to {owner or 'someone else'}")


class OwnedResource(Generic[T]):
    """The children of one kind. Where the store keeps marks, drift is put right; else they are made once and left so.

    Pods, homes and Secrets are made once: their specs cannot be changed, or must not be under a running desktop.
    """

    def __init__(self, client: Client, resource: Resource, into: type[T], store: Store[T]) -> None:
        self.resource = resource
        self.store = store
        self._client = client
        self._into = into
        self._applier = Applier(client, resource, into, store)

    async def ensure(self, desired: Mapping[str, Any]) -> T:
        """Make the object if it is missing, repair it if that is this kind's way; returns it as it then is.

        Raises ForeignObjectError, ApiError, ConnectionFailed.
        """
        metadata = desired["metadata"]
        present = self.store.get(metadata["namespace"], metadata["name"])
        if present is None:
            try:
                return await self._applier.create(desired)
            except AlreadyExists:
                # Our own POST whose answer was lost, a store that lags, a stripped label, or somebody else's object.
                present = await self._adopt(metadata)
        self._refuse_foreign(present, metadata)
        return await self._applier.ensure(desired)

    def is_as_desired(self, present: T | None, desired: Mapping[str, Any]) -> bool:
        """Whether `ensure` would have nothing to do for this object, the session's own."""
        return present is not None and self._applier.is_as_desired(present, desired)

    async def label(self, present: T, labels: Mapping[str, str]) -> T:
        """Set these labels of this incarnation; gives it as it then is."""
        return await self._patch_metadata(present, {"labels": labels})

    async def annotate(self, present: T, annotations: Mapping[str, str | None]) -> T:
        """Set these annotations of this incarnation, remove those that are None; gives it as it then is."""
        return await self._patch_metadata(present, {"annotations": annotations})

    async def annotate_unchanged(self, present: T, annotations: Mapping[str, str | None]) -> T:
        """The same, only if it is as it is known here. Raises Conflict."""
        version = present.metadata.resource_version
        return await self._patch_metadata(present, {"annotations": annotations, "resourceVersion": version})

    async def _patch_metadata(self, present: T, change: Mapping[str, object]) -> T:
        meta = present.metadata
        patch = {"metadata": {**change, "uid": meta.uid}}
        response = await self._client.patch(self.resource, meta.name, patch, namespace=meta.namespace, into=msgspec.Raw)
        return self._remember(response)

    async def delete(self, present: T) -> bool:
        """Delete this incarnation; True when it is gone, False while it is terminating."""
        return await self._applier.delete(present)

    async def delete_now(self, present: T) -> bool:
        """Delete this incarnation without waiting for the word of its node, also if it is terminating already."""
        meta = present.metadata
        try:
            left = await self._client.delete(
                self.resource, meta.name, namespace=meta.namespace, uid=meta.uid, grace_seconds=0, into=self._into
            )
        except (NotFound, Replaced):
            left = None
        if left is None:
            self.store.forget(meta.namespace, meta.name, meta.uid)
            return True
        self.store.remember(left)
        return False

    async def get_live(self, namespace: str, name: str) -> T | None:
        """What the API server has of this name, for where a cache that lags would do harm; None when it has nothing."""
        try:
            return await self._client.get(self.resource, name, namespace=namespace, into=self._into)
        except NotFound:
            return None

    async def _adopt(self, metadata: Mapping[str, Any]) -> T:
        name, namespace = metadata["name"], metadata["namespace"]
        response = await self._client.get(self.resource, name, namespace=namespace, into=msgspec.Raw)
        live = wire.decode(response, self._into, self.resource.kind)
        self._refuse_foreign(live, metadata)
        return await self.label(live, metadata["labels"])

    def _remember(self, response: msgspec.Raw) -> T:
        obj, ownership = wire.decode(response, self._into, self.resource.kind), self.store.ownership
        self.store.remember(obj, ownership.read(response) if ownership else None)
        return obj

    def _refuse_foreign(self, present: T, metadata: Mapping[str, Any]) -> None:
        desired_owners = metadata.get("ownerReferences")
        owner = session_of(present)
        if desired_owners is None and owner is None:
            return  # a shared home belongs to its user and template, which its name says
        if desired_owners and owner and owner.uid == desired_owners[0]["uid"]:
            return
        raise ForeignObjectError(self.resource.kind, metadata["name"], owner.name if owner else None)


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
    """The uid of the session that owns this object."""
    owner = session_of(obj)
    return owner.uid if owner else None


class UncertainCreates:
    """Names of such pods, by the key of the session or pool that they are for.

    Lives as long as the process: the next one's first lists have them.
    """

    def __init__(self, pods: OwnedResource[Pod]) -> None:
        self._pods = pods
        self._names: dict[Hashable, set[tuple[str, str]]] = {}

    def add(self, whose: Hashable, namespace: str, name: str) -> None:
        """A pod of this name may be there."""
        self._names.setdefault(whose, set()).add((namespace, name))

    async def settle(self, whose: Hashable) -> list[str]:
        """Ask for them: those that are there are in the caches then. Their names. Raises KubeError: still not known."""
        settled = sorted(self._names.get(whose, ()))
        for namespace, name in settled:
            live = await self._pods.get_live(namespace, name)
            if live and MANAGED_BY.items() <= live.metadata.labels.items():  # else it is a stranger's
                self._pods.store.remember(live)
        self.forget(whose)
        return [name for _, name in settled]

    def forget(self, whose: Hashable) -> None:
        """The session or pool is gone."""
        self._names.pop(whose, None)


def is_uncertain(failure: BaseException) -> bool:
    """Whether a create that failed so may have been done all the same: its answer was lost."""
    if isinstance(failure, ApiError):
        return isinstance(failure, Conflict | TooManyRequests | ServerError)
    return isinstance(failure, KubeError)
