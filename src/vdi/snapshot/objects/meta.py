"""Metadata and small parts that objects of several kinds have; Events and Leases. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from vdi.api.meta import ObjectMeta
from vdi.cluster import objects as pruned
from vdi.cluster.objects import PodCondition

# In place of a value that may be a secret.
REDACTED = "(redacted)"
# Arguments of a K3s, which it puts on its own node; a token may be among them.
_NODE_ARGS = "k3s.io/node-args"
# Annotations of ours, and those of others that checks read.
_OUR_NOTES = "vdi.kasm.io/"
_READ_NOTES = frozenset(
    {
        *("meta.helm.sh/release-name", "meta.helm.sh/release-namespace"),
        *("storageclass.kubernetes.io/is-default-class", "volume.kubernetes.io/selected-node"),
        "cluster-autoscaler.kubernetes.io/safe-to-evict",
        "cluster-autoscaler.kubernetes.io/scale-down-disabled",
        *("karpenter.sh/do-not-disrupt", "kubernetes.io/ingress.class"),
        "traefik.ingress.kubernetes.io/router.entrypoints",
        "traefik.ingress.kubernetes.io/router.priority",
    }
)


def _read_notes(annotations: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in annotations.items()
        if key in _READ_NOTES or key.startswith(_OUR_NOTES)
    }


class Record(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of the structs: names as in the API, defaults left out of a bundle."""


class Meta(pruned.PodMeta, rename="camel", omit_defaults=True, kw_only=True):
    """`metadata`."""

    generation: int = 0
    finalizers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.annotations = _read_notes(self.annotations)
        self.resource_version = ""

    @property
    def helm_release(self) -> str:
        """Name of the Helm release that it belongs to; empty: none."""
        return self.annotations.get("meta.helm.sh/release-name", "")


class NodeMeta(Meta, rename="camel", omit_defaults=True, kw_only=True):
    # Not a field of Kubernetes: parts that its K3s does not install (`--disable`).
    disabled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.disabled = self.disabled or _read_disabled(self.annotations.get(_NODE_ARGS, "[]"))
        super().__post_init__()


def _read_disabled(node_args: str) -> tuple[str, ...]:
    try:
        arguments = msgspec.json.decode(node_args, type=list[str])
    except msgspec.DecodeError:
        return ()
    parts: list[str] = []
    for option, value in zip(["", *arguments], arguments, strict=False):
        if option == "--disable" or value.startswith("--disable="):
            parts += value.removeprefix("--disable=").split(",")
    return tuple(parts)


class OurMeta(ObjectMeta, omit_defaults=True):
    """`metadata` of an object of our kinds."""

    def __post_init__(self) -> None:
        self.annotations = _read_notes(self.annotations)
        self.resource_version = ""


class _DataFields(Record):
    data: dict[str, Any] | None = msgspec.field(name="f:data", default=None)

    def __post_init__(self) -> None:
        self.data = None if self.data is None else {}


class Write(Record):
    """An entry of `managedFields`: when a manager last wrote the data."""

    time: str = ""
    fields_v1: _DataFields = msgspec.field(name="fieldsV1", default_factory=_DataFields)


class DataMeta(Meta, rename="camel", omit_defaults=True, kw_only=True):
    """`metadata` with the times of the writes to `data`."""

    managed_fields: tuple[Write, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.managed_fields = tuple(
            write for write in self.managed_fields if write.fields_v1.data is not None
        )

    @property
    def changed_at(self) -> str:
        """Time of the last write to the data (RFC 3339, whole seconds)."""
        times = (write.time for write in self.managed_fields)
        return max(times, default=self.creation_timestamp)


class Named(Record):
    """An object of which a check asks whether it exists."""

    metadata: Meta


class ConditionsStatus(Record):
    conditions: tuple[PodCondition, ...] = ()


class LabelSelector(Record):
    match_labels: dict[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[pruned.NodeSelectorRequirement, ...] = ()


class Reference(Record):
    """The name of another object."""

    name: str
    namespace: str = ""


class Event(pruned.Event, rename="camel", omit_defaults=True, kw_only=True):
    metadata: Meta


class LeaseSpec(Record):
    holder_identity: str = ""
    renew_time: str | None = None


class Lease(Record):
    metadata: Meta
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)
