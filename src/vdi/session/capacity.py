"""What pods take and volumes are tied to, in numbers: pruned structs of anybody's objects. Pure.

Amounts are whole numbers by resource name: `cpu` in thousandths of a CPU, `memory` in bytes, all else as it is counted,
rounded up as the scheduler does. Each pod takes one of `pods`.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import ceil

import msgspec

from vdi.api.meta import OwnerReference
from vdi.session.units import parse_quantity

Amounts = Mapping[str, int]
PODS = "pods"
"""The resource of which every pod takes one."""
EPHEMERAL_STORAGE = "ephemeral-storage"
"""The node's local disk."""


@lru_cache(maxsize=4096)
def amount(resource: str, quantity: str) -> int:
    """A quantity as a whole number in the resource's unit. Raises ValueError for any other text."""
    return ceil(parse_quantity(quantity) * (1000 if resource == "cpu" else 1))


def amounts(quantities: Mapping[str, str]) -> dict[str, int]:
    """Quantities (`allocatable`, `requests`) as whole numbers. Raises ValueError for any other text."""
    return {resource: amount(resource, quantity) for resource, quantity in quantities.items()}


class ResourceRequirements(msgspec.Struct, gc=False):
    """`resources` of a container or of a pod."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Container(msgspec.Struct, rename="camel", gc=False):
    """A container, as far as it takes room."""

    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    restart_policy: str = ""


class PodResources(msgspec.Struct, rename="camel", gc=False):
    """`spec` of any pod: where it is and what it takes. Once that is summed up, the containers are forgotten."""

    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    overhead: dict[str, str] = {}
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    takes: dict[str, int] = {}
    """Not Kubernetes': what the pod takes of a node. Shared by all pods that take the same; never changed."""

    def __post_init__(self) -> None:
        if not self.takes:
            self.takes = _takes_of(self)
        self.containers = self.init_containers = ()
        self.overhead = {}
        self.resources = _NONE


_NONE = ResourceRequirements()
_KNOWN = 4096
_known_takes: dict[bytes, dict[str, int]] = {}
"""What pods take, by what they request. Lives as long as the process, and is cleared when it has grown: few differ."""


def _takes_of(spec: PodResources) -> dict[str, int]:
    asked = (spec.containers, spec.init_containers, spec.overhead, spec.resources)
    key = msgspec.msgpack.encode(asked)  # a tenth of the time of adding it all up, for every state of every pod
    known = _known_takes.get(key)
    if known is None:
        if len(_known_takes) >= _KNOWN:
            _known_takes.clear()
        summed = _sum_up(spec)
        known = next((take for take in _known_takes.values() if take == summed), summed)
        _known_takes[key] = known
    return known


def _sum_up(spec: PodResources) -> dict[str, int]:
    """As the scheduler reckons: what runs side by side is added, what runs before it is covered by the largest.

    Init containers that restart (sidecars, KEP-753) go on running beside all that follows. Requests of the whole pod
    (KEP-2837) stand in place of its containers'.
    """
    total = {PODS: 1}
    for container in spec.containers:
        _add(total, _requests(container.resources))
    beside: dict[str, int] = {}
    before: dict[str, int] = {}
    for container in spec.init_containers:
        taken = _requests(container.resources)
        if container.restart_policy == "Always":
            _add(beside, taken)
            taken = {}
        for name in {*taken, *beside}:
            before[name] = max(before.get(name, 0), taken.get(name, 0) + beside.get(name, 0))
    _add(total, beside)
    for name, most in before.items():
        total[name] = max(total.get(name, 0), most)
    total.update(amounts(spec.resources.requests))
    _add(total, amounts(spec.overhead))
    return total


def _requests(given: ResourceRequirements) -> dict[str, int]:
    return amounts({**given.limits, **given.requests})


def _add(total: dict[str, int], more: Amounts) -> None:
    for name, number in more.items():
        total[name] = total.get(name, 0) + number


class NamedMeta(msgspec.Struct, rename="camel", gc=False, kw_only=True):
    """`metadata` of an object of which little more than its name is read."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None

    @property
    def owner_references(self) -> tuple[OwnerReference, ...]:
        """Not read."""
        return ()


class ForeignPod(msgspec.Struct, gc=False):
    """Anybody else's pod that is on a node and has not ended."""

    metadata: NamedMeta
    spec: PodResources = msgspec.field(default_factory=PodResources)


class NodeSelectorRequirement(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """`matchExpressions[]` or `matchFields[]` of a node selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, found: str | None) -> bool:
        """Whether a node with this value of the key (None: without the key) is meant."""
        match self.operator:
            case "In":
                return found is not None and found in self.values
            case "NotIn":
                return found is None or found not in self.values
            case "Exists":
                return found is not None
            case "DoesNotExist":
                return found is None
            case "Gt" | "Lt":
                return self._compares(found)
            case _:
                return False

    def _compares(self, found: str | None) -> bool:
        try:
            here, there = int(found or ""), int(self.values[0])
        except (ValueError, IndexError):
            return False
        return here > there if self.operator == "Gt" else here < there


class NodeSelectorTerm(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """One of several `nodeSelectorTerms`: all of its expressions must hold. Without any it means no node."""

    match_expressions: tuple[NodeSelectorRequirement, ...] = ()
    match_fields: tuple[NodeSelectorRequirement, ...] = ()

    def means(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the node of this name and these labels is meant."""
        if not self.match_expressions and not self.match_fields:
            return False
        return all(
            match_expression.holds(labels.get(match_expression.key)) for match_expression in self.match_expressions
        ) and all(
            match_field.holds(name if match_field.key == "metadata.name" else None) for match_field in self.match_fields
        )


class NodeSelector(msgspec.Struct, rename="camel", gc=False):
    """A node is meant by any of the terms."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class VolumeAffinity(msgspec.Struct, gc=False):
    """`spec.nodeAffinity` of a PersistentVolume."""

    required: NodeSelector | None = None


class PersistentVolumeSpec(msgspec.Struct, rename="camel", gc=False):
    """`spec` of a PersistentVolume."""

    node_affinity: VolumeAffinity | None = None


class PersistentVolume(msgspec.Struct, gc=False):
    """A PersistentVolume, as far as it is tied to nodes."""

    metadata: NamedMeta
    spec: PersistentVolumeSpec = msgspec.field(default_factory=PersistentVolumeSpec)

    @property
    def pin(self) -> tuple[NodeSelectorTerm, ...]:
        """The nodes from which it can be reached, by any of these; empty: from every node."""
        affinity = self.spec.node_affinity
        return affinity.required.node_selector_terms if affinity and affinity.required else ()


def matches_any(terms: Iterable[NodeSelectorTerm], name: str, labels: Mapping[str, str]) -> bool:
    """Whether one of the terms means this node."""
    return any(term.means(name, labels) for term in terms)
