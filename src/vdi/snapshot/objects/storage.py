"""Nodes, and volumes with their claims and classes. Pure."""

import msgspec

from vdi.cluster import objects as pruned
from vdi.cluster.objects import PodCondition
from vdi.kube.resource import IS_DEFAULT_CLASS
from vdi.snapshot.objects.meta import Meta, NodeMeta, Record


class NodeCondition(pruned.NodeCondition, rename="camel", omit_defaults=True):
    last_heartbeat_time: str | None = None


class NodeAddress(Record):
    type: str
    address: str


class NodeStatus(pruned.NodeStatus, rename="camel", omit_defaults=True):
    conditions: tuple[NodeCondition, ...] = ()
    capacity: dict[str, str] = msgspec.field(default_factory=dict)
    addresses: tuple[NodeAddress, ...] = ()

    def __post_init__(self) -> None:
        self.images = ()
        self.runtime_handlers = ()


class Node(pruned.Node, omit_defaults=True, kw_only=True):
    metadata: NodeMeta  # type: ignore[assignment]  # it has all fields of the other NodeMeta
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class ClaimStatus(pruned.PersistentVolumeClaimStatus, rename="camel", omit_defaults=True):
    conditions: tuple[PodCondition, ...] = ()


class PersistentVolume(pruned.PersistentVolume, omit_defaults=True, kw_only=True):
    metadata: Meta  # type: ignore[assignment]  # it has all fields of NamedMeta


class ClaimSpec(pruned.PersistentVolumeClaimSpec, rename="camel", omit_defaults=True):
    # None: the default class; empty: none.
    storage_class_name: str | None = None


class PersistentVolumeClaim(pruned.PersistentVolumeClaim, omit_defaults=True, kw_only=True):
    metadata: Meta
    spec: ClaimSpec = msgspec.field(default_factory=ClaimSpec)
    status: ClaimStatus = msgspec.field(default_factory=ClaimStatus)


class StorageClass(Record):
    metadata: Meta
    provisioner: str = ""
    volume_binding_mode: str = ""

    @property
    def is_default(self) -> bool:
        return self.metadata.annotations.get(IS_DEFAULT_CLASS) == "true"
