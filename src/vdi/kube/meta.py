"""Protocols of the objects that this package handles, of which it reads only some metadata.

The structs belong to the callers, with the fields that these read; any struct that satisfies
`HasMetadata` will do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Owner(Protocol):
    """An entry of `metadata.ownerReferences`: the garbage collector deletes the object after its
    owner.
    """

    @property
    def uid(self) -> str: ...


class Metadata(Protocol):
    """The fields of `metadata` that the runtime reads."""

    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...
    @property
    def deletion_timestamp(self) -> str | None: ...
    @property
    def owner_references(self) -> Iterable[Owner]: ...


class HasMetadata(Protocol):
    """Any decoded Kubernetes object with the metadata above."""

    @property
    def metadata(self) -> Metadata: ...


T = TypeVar("T", bound=HasMetadata)


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """The object that an Event is about."""

    api_version: str
    kind: str
    name: str
    uid: str
    namespace: str = ""


def version_of(obj: HasMetadata) -> int:
    """`resourceVersion` as a number (Kubernetes' own storage always gives one), 0 when the object
    has none.
    """
    return int(obj.metadata.resource_version or 0)


def key_of(obj: HasMetadata) -> tuple[str, str]:
    """The object's key in a store: (namespace, name)."""
    return obj.metadata.namespace, obj.metadata.name
