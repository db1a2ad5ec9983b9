"""Kubernetes object metadata, pruned to the fields this project reads. Used by every struct that is decoded from the API."""

import msgspec

GROUP = "vdi.kasm.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


class OwnerReference(msgspec.Struct, rename="camel", omit_defaults=True, gc=False, frozen=True):
    """`metadata.ownerReferences[]`."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = False


class ObjectMeta(msgspec.Struct, rename="camel", omit_defaults=True):
    """`metadata` without managedFields and the rest that nobody here reads."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Condition(msgspec.Struct, rename="camel", omit_defaults=True):
    """`status.conditions[]` as Kubernetes defines it (KEP-1623)."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str = ""
    observed_generation: int = 0
