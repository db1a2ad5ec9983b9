"""Pods, nodes, volumes and Events as this project reads them: structs with only the fields that are
used. Pure.

The reflectors of `vdi.kube` and the collectors of doctor, kasm and helm decode into them.
`gc=False` is safe, because none of them can be part of a reference cycle.
"""

from collections.abc import Mapping

import msgspec

from vdi.api.meta import OwnerReference
from vdi.api.template import Toleration
from vdi.cluster.units import PODS, Amounts, amounts


class ResourceRequirements(msgspec.Struct, gc=False, frozen=True):
    """`resources` of a container or of a pod."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Container(msgspec.Struct, rename="camel", gc=False):
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    restart_policy: str = ""


class PodResources(msgspec.Struct, rename="camel", gc=False):
    """`spec` of any pod: its node and the capacity that it takes. Containers are dropped once they
    are summed up.
    """

    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    overhead: dict[str, str] = {}
    resources: ResourceRequirements = msgspec.field(default_factory=ResourceRequirements)
    # Not a field of Kubernetes. Pods of equal requests share one dict, which is never changed: a
    # cluster has thousands of pods and few kinds of them.
    takes: dict[str, int] = {}

    def __post_init__(self) -> None:
        if not self.takes:
            self.takes = _takes_of(self)
        self.containers = self.init_containers = ()
        self.overhead = {}
        self.resources = _NONE


_NONE = ResourceRequirements()
_KNOWN = 4096
# Sums by encoded requests. Lives as long as the process, and is cleared when it has grown too
# large.
_known_takes: dict[bytes, dict[str, int]] = {}


def _takes_of(spec: PodResources) -> dict[str, int]:
    asked = (spec.containers, spec.init_containers, spec.overhead, spec.resources)
    # Encoding takes a tenth of the time of adding it all up, which would happen for every change of
    # every pod.
    key = msgspec.msgpack.encode(asked)
    known = _known_takes.get(key)
    if known is None:
        if len(_known_takes) >= _KNOWN:
            _known_takes.clear()
        summed = _sum_up(spec)
        known = next((take for take in _known_takes.values() if take == summed), summed)
        _known_takes[key] = known
    return known


def _sum_up(spec: PodResources) -> dict[str, int]:
    """Requests of a pod as the scheduler counts them: containers are added, init containers count
    by the largest.

    Init containers that restart (sidecars, KEP-753) run beside all later ones. Requests of the
    whole pod (KEP-2837) replace those of its containers.
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
        """None: the API of `vdi.kube` asks every object for them."""
        return ()


class ForeignPod(msgspec.Struct, gc=False):
    """A pod that is not ours, on a node, and has not ended."""

    metadata: NamedMeta
    spec: PodResources = msgspec.field(default_factory=PodResources)


class NodeSelectorRequirement(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """`matchExpressions[]` or `matchFields[]` of a node selector."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, value: str | None) -> bool:
        """Whether it selects a node with this value of the key (None: without the key)."""
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                return self._compares(value)
            case _:
                return False

    def _compares(self, value: str | None) -> bool:
        try:
            here, there = int(value or ""), int(self.values[0])
        except (ValueError, IndexError):
            return False
        if self.operator == "Gt":
            return here > there
        return here < there


class NodeSelectorTerm(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """One of several `nodeSelectorTerms`: all of its expressions must hold. Without any it selects
    no node.
    """

    match_expressions: tuple[NodeSelectorRequirement, ...] = ()
    match_fields: tuple[NodeSelectorRequirement, ...] = ()

    def means(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether it selects the node of this name and these labels."""
        by_label = all(
            expression.holds(labels.get(expression.key)) for expression in self.match_expressions
        )
        by_name = all(
            field.holds(name if field.key == "metadata.name" else None)
            for field in self.match_fields
        )
        return bool(self.match_expressions or self.match_fields) and by_label and by_name


class NodeSelector(msgspec.Struct, rename="camel", gc=False):
    """Terms of which any one selects a node."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class VolumeAffinity(msgspec.Struct, gc=False):
    """`spec.nodeAffinity` of a PersistentVolume."""

    required: NodeSelector | None = None


class VolumeSource(msgspec.Struct, rename="camel", gc=False):
    """`spec.csi`, `spec.local` or `spec.hostPath` of a PersistentVolume."""

    driver: str = ""
    fs_type: str = ""
    path: str = ""


class PersistentVolumeSpec(msgspec.Struct, rename="camel", gc=False):
    node_affinity: VolumeAffinity | None = None
    storage_class_name: str = ""
    access_modes: tuple[str, ...] = ()
    csi: VolumeSource | None = None
    local: VolumeSource | None = None
    host_path: VolumeSource | None = None


class PersistentVolume(msgspec.Struct, gc=False):
    """A PersistentVolume and the nodes that can reach it."""

    metadata: NamedMeta
    spec: PersistentVolumeSpec = msgspec.field(default_factory=PersistentVolumeSpec)

    @property
    def pin(self) -> tuple[NodeSelectorTerm, ...]:
        """Terms that select the nodes that can reach it; empty: all nodes."""
        affinity = self.spec.node_affinity
        if affinity and affinity.required:
            return affinity.required.node_selector_terms
        return ()


class BareMeta(msgspec.Struct, rename="camel", gc=False, kw_only=True):
    """`metadata` without labels and annotations."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    owner_references: tuple[OwnerReference, ...] = ()


class ChildMeta(BareMeta, rename="camel", gc=False, kw_only=True):
    """`metadata` with annotations."""

    annotations: dict[str, str] = {}


class PodMeta(ChildMeta, rename="camel", gc=False, kw_only=True):
    """`metadata` with annotations and labels."""

    labels: dict[str, str] = {}


class Waiting(msgspec.Struct, gc=False, frozen=True):
    """`state.waiting` of a container."""

    reason: str = ""
    message: str = ""


class Running(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """`state.running` of a container."""

    started_at: str = ""


class Terminated(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """`state.terminated` of a container."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    # Null, as the end, if the kubelet does not know it.
    started_at: str | None = None
    # Null if the kubelet does not know it (`ContainerStatusUnknown`).
    finished_at: str | None = None


class ContainerState(msgspec.Struct, gc=False, frozen=True):
    """One of the three states, or none."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, rename="camel", gc=False):
    name: str
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)

    @property
    def is_started(self) -> bool:
        """Whether it is running, or has run."""
        return bool(self.state.running or self.state.terminated or self.last_state.terminated)

    @property
    def is_stuck(self) -> bool:
        """Whether an init container has failed, or waits for its next try. It should end with
        status 0.
        """
        waiting, ended = self.state.waiting, self.state.terminated
        return bool(waiting and waiting.reason != "PodInitializing") or bool(
            ended and ended.exit_code
        )


class PodCondition(msgspec.Struct, rename="camel", gc=False, frozen=True):
    type: str
    status: str
    reason: str = ""
    message: str = ""
    # Null if the writer of the condition gave none.
    transitioned: str | None = msgspec.field(name="lastTransitionTime", default=None)

    @property
    def last_transition_time(self) -> str:
        """Empty if it is not known."""
        return self.transitioned or ""


READ_CONDITIONS = (
    "PodScheduled",
    "Ready",
    "DisruptionTarget",
    "PodResizePending",
    "PodResizeInProgress",
)


class PodStatus(msgspec.Struct, rename="camel", gc=False):
    """`status` of a Pod, with the conditions of `READ_CONDITIONS` only."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[PodCondition, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()

    def __post_init__(self) -> None:
        self.conditions = tuple(
            condition for condition in self.conditions if condition.type in READ_CONDITIONS
        )


class PersistentVolumeClaimSource(msgspec.Struct, rename="camel", gc=False):
    claim_name: str
    read_only: bool = False


class PodVolume(msgspec.Struct, rename="camel", gc=False):
    """`spec.volumes[]` with a claim."""

    name: str
    persistent_volume_claim: PersistentVolumeClaimSource | None = None


class PodSpec(PodResources, rename="camel", gc=False):
    """`spec` of a Pod with its claims and, until it is bound to a node, its placement."""

    volumes: tuple[PodVolume, ...] = ()
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    # False: the pod has a user namespace of its own.
    host_users: bool = True
    runtime_class_name: str = ""
    # Not a field of Kubernetes: those of the main container.
    limits: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.containers:
            self.limits = self.containers[0].resources.limits
        super().__post_init__()
        self.volumes = tuple(volume for volume in self.volumes if volume.persistent_volume_claim)
        if self.node_name:
            self.node_selector, self.tolerations = {}, ()


class Pod(msgspec.Struct, gc=False):
    """A Pod whose main container is the first one: a desktop, a puller, or a pod of a chart."""

    metadata: PodMeta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def desktop(self) -> ContainerStatus | None:
        """Status of the main container; that of an init container while it keeps the main one from
        starting.
        """
        desktop = None
        if self.status.container_statuses:
            desktop = self.status.container_statuses[0]
        if self.status.init_container_statuses and (desktop is None or not desktop.is_started):
            return next(
                (status for status in self.status.init_container_statuses if status.is_stuck),
                desktop,
            )
        return desktop

    @property
    def home_claim(self) -> str | None:
        """The claim of the volume `home`, if any."""
        sources = (
            volume.persistent_volume_claim for volume in self.spec.volumes if volume.name == "home"
        )
        return next((source.claim_name for source in sources if source), None)

    @property
    def writes_to(self) -> tuple[str, ...]:
        """The claims that are mounted writable."""
        sources = (volume.persistent_volume_claim for volume in self.spec.volumes)
        return tuple(source.claim_name for source in sources if source and not source.read_only)

    @property
    def terminating(self) -> bool:
        """Whether the pod is being deleted."""
        return self.metadata.deletion_timestamp is not None

    def condition(self, kind: str) -> PodCondition | None:
        """The condition of that type, if there is one."""
        return next(
            (condition for condition in self.status.conditions if condition.type == kind), None
        )

    @property
    def gated(self) -> bool:
        """Whether a scheduling gate keeps it from the scheduler."""
        condition = self.condition("PodScheduled")
        return (
            not self.spec.node_name
            and condition is not None
            and condition.reason == "SchedulingGated"
        )

    @property
    def ready(self) -> bool:
        """Whether the readiness probe succeeds."""
        condition = self.condition("Ready")
        ended = self.terminating or self.status.phase in ("Failed", "Succeeded")
        return condition is not None and condition.status == "True" and not ended


class NodeMeta(NamedMeta, rename="camel", gc=False, kw_only=True):
    """`metadata` with labels."""

    labels: dict[str, str] = {}


class Taint(msgspec.Struct, gc=False):
    """`spec.taints[]` of a Node."""

    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(msgspec.Struct, gc=False):
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(msgspec.Struct, rename="camel", gc=False):
    """`status.conditions[]` of a Node, without the heartbeat, which changes every few seconds."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""


class NodeImage(msgspec.Struct, gc=False):
    """`status.images[]` of a Node: one image with all its names; null for one whose tags have moved
    away.
    """

    names: tuple[str, ...] | None = None


class NodeInfo(msgspec.Struct, rename="camel", gc=False):
    kubelet_version: str = ""
    container_runtime_version: str = ""
    kernel_version: str = ""


class RuntimeHandler(msgspec.Struct, gc=False):
    """`status.runtimeHandlers[]` of a Node: the features of one handler of its runtime; an empty
    name: the default.
    """

    name: str = ""
    features: dict[str, bool] = {}


class NodeStatus(msgspec.Struct, rename="camel", gc=False):
    node_info: NodeInfo = msgspec.field(default_factory=NodeInfo)
    runtime_handlers: tuple[RuntimeHandler, ...] = ()
    conditions: tuple[NodeCondition, ...] = ()
    allocatable: dict[str, str] = {}
    # The 50 largest (nodeStatusMaxImages of the kubelet).
    images: tuple[NodeImage, ...] = ()


class Node(msgspec.Struct, gc=False):
    """A Node with its capacity, conditions, taints and images."""

    metadata: NodeMeta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    @property
    def ready(self) -> bool:
        """Whether the condition Ready is True."""
        return any(
            condition.type == "Ready" and condition.status == "True"
            for condition in self.status.conditions
        )


class PersistentVolumeClaimSpec(msgspec.Struct, rename="camel", gc=False):
    volume_name: str = ""
    access_modes: tuple[str, ...] = ()


class PersistentVolumeClaimStatus(msgspec.Struct, gc=False):
    phase: str = ""


class PersistentVolumeClaim(msgspec.Struct, gc=False):
    """A PersistentVolumeClaim, such as a home."""

    metadata: ChildMeta
    spec: PersistentVolumeClaimSpec = msgspec.field(default_factory=PersistentVolumeClaimSpec)
    status: PersistentVolumeClaimStatus = msgspec.field(default_factory=PersistentVolumeClaimStatus)

    @property
    def is_shared(self) -> bool:
        """Whether several pods may use it at the same time."""
        return "ReadWriteMany" in self.spec.access_modes


class Service(msgspec.Struct, gc=False):
    metadata: BareMeta


class Regarding(msgspec.Struct, gc=False):
    """The object of an Event."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class EventSeries(msgspec.Struct, rename="camel", gc=False):
    last_observed_time: str = ""


class Event(msgspec.Struct, rename="camel", gc=False):
    """An Event of `events.k8s.io/v1`."""

    metadata: ChildMeta
    regarding: Regarding = msgspec.field(default_factory=Regarding)
    type: str = ""
    reason: str = ""
    note: str = ""
    event_time: str | None = None
    deprecated_last_timestamp: str | None = None
    series: EventSeries | None = None

    @property
    def seen(self) -> str:
        """The time of its last occurrence, as far as it is known."""
        last = self.series.last_observed_time if self.series else ""
        return (
            last
            or self.deprecated_last_timestamp
            or self.event_time
            or self.metadata.creation_timestamp
        )
