"""What the operator keeps of each object it watches: only the fields that are read, in structs that Python's GC skips.

Decoded by the reflectors, built by hand in tests. `gc=False` is safe: none of these can be part of a reference cycle.
"""

from base64 import b64decode

import msgspec

from vdi.api.meta import OwnerReference
from vdi.api.template import Scheme, Toleration
from vdi.session.capacity import PodResources

APPLIED_HASH = "vdi.kasm.io/applied-hash"
"""Annotation on Service and IngressRoute, which are repaired: hash of what the operator last wrote there."""
TEMPLATE_REVISION = "vdi.kasm.io/template-revision"
"""Annotation on the Pod: generation of the template that it was made from."""
HOST = "vdi.kasm.io/host"
"""Annotation on the IngressRoute: the host that it leads to. Label on a ConfigMap: the host label that it records."""
RUN_STARTED = "vdi.kasm.io/run-started"
"""Annotation on the Pod: when the run began, where that was not when this pod was made."""
RESTARTED_AT = "vdi.kasm.io/restartedAt"
"""Annotation on the session: a new value starts the desktop again; on the Pod: the value that it was made with."""
LAST_FAILURE = "vdi.kasm.io/last-failure"
"""Annotation on the Pod: `status.failures.time` when it was made; another one there: this pod has been given up."""
PROTOCOL = "vdi.kasm.io/protocol"
"""Annotation on the Pod: what its image serves (Web); without it, Selkies."""
SCHEME = "vdi.kasm.io/scheme"
"""Annotation on the Pod: what it speaks on its port (HTTPS); without it, HTTP."""
HOLD = "vdi.kasm.io/hold"
"""Label on the Pod: "true" while the PodDisruptionBudget is to keep evictions away from it, else "false"."""


class BareMeta(msgspec.Struct, rename="camel", gc=False, kw_only=True):
    """`metadata` of a child of whose annotations nothing is read."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    owner_references: tuple[OwnerReference, ...] = ()


class ChildMeta(BareMeta, rename="camel", gc=False, kw_only=True):
    """`metadata` of a child."""

    annotations: dict[str, str] = {}


class PodMeta(ChildMeta, rename="camel", gc=False, kw_only=True):
    """`metadata` of a Pod."""

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
    finished_at: str | None = None
    """Null where the kubelet does not know it (`ContainerStatusUnknown`)."""


class ContainerState(msgspec.Struct, gc=False, frozen=True):
    """One of the three, or none."""

    waiting: Waiting | None = None
    running: Running | None = None
    terminated: Terminated | None = None


class ContainerStatus(msgspec.Struct, rename="camel", gc=False):
    """`status.containerStatuses[]`."""

    name: str
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(name="imageID", default="")
    state: ContainerState = msgspec.field(default_factory=ContainerState)
    last_state: ContainerState = msgspec.field(default_factory=ContainerState)

    @property
    def is_started(self) -> bool:
        """Whether it runs, or has run."""
        return bool(self.state.running or self.state.terminated or self.last_state.terminated)

    @property
    def is_stuck(self) -> bool:
        """Whether it has failed, or waits to be tried again; for an init container, which is to end with status 0."""
        waiting, ended = self.state.waiting, self.state.terminated
        return bool(waiting and waiting.reason != "PodInitializing") or bool(ended and ended.exit_code)


class PodCondition(msgspec.Struct, rename="camel", gc=False, frozen=True):
    """`status.conditions[]` of a Pod."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    transitioned: str | None = msgspec.field(name="lastTransitionTime", default=None)
    """Null where whoever wrote the condition gave none."""

    @property
    def last_transition_time(self) -> str:
        """When it last changed; empty where that is not known."""
        return self.transitioned or ""


READ_CONDITIONS = ("PodScheduled", "Ready", "DisruptionTarget")


class PodStatus(msgspec.Struct, rename="camel", gc=False):
    """`status` of a Pod. Of its conditions those of `READ_CONDITIONS` are kept."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[PodCondition, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()

    def __post_init__(self) -> None:
        self.conditions = tuple(condition for condition in self.conditions if condition.type in READ_CONDITIONS)


class PersistentVolumeClaimSource(msgspec.Struct, rename="camel", gc=False):
    """`spec.volumes[].persistentVolumeClaim`."""

    claim_name: str
    read_only: bool = False


class PodVolume(msgspec.Struct, rename="camel", gc=False):
    """`spec.volumes[]`, as far as it is a claim."""

    name: str
    persistent_volume_claim: PersistentVolumeClaimSource | None = None


class PodSpec(PodResources, rename="camel", gc=False):
    """`spec` of a Pod."""

    volumes: tuple[PodVolume, ...] = ()
    """Those that are claims."""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    """Only as long as it is on no node, as all that says where it may go."""
    tolerations: tuple[Toleration, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.volumes = tuple(volume for volume in self.volumes if volume.persistent_volume_claim)
        if self.node_name:
            self.node_selector, self.tolerations = {}, ()


class Pod(msgspec.Struct, gc=False):
    """The desktop."""

    metadata: PodMeta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def desktop(self) -> ContainerStatus | None:
        """Status of the one container, once the kubelet has reported it.

        While an init container keeps it from starting: that one's.
        """
        desktop = self.status.container_statuses[0] if self.status.container_statuses else None
        if self.status.init_container_statuses and (desktop is None or not desktop.is_started):
            return next((status for status in self.status.init_container_statuses if status.is_stuck), desktop)
        return desktop

    @property
    def home_claim(self) -> str | None:
        """The claim that is mounted as home, if any."""
        sources = (volume.persistent_volume_claim for volume in self.spec.volumes if volume.name == "home")
        return next((source.claim_name for source in sources if source), None)

    @property
    def scheme(self) -> Scheme:
        """What it speaks on its port, whatever the template says by now."""
        return Scheme(self.metadata.annotations.get(SCHEME, Scheme.HTTP))

    @property
    def writes_to(self) -> tuple[str, ...]:
        """The claims that it may write to."""
        sources = (volume.persistent_volume_claim for volume in self.spec.volumes)
        return tuple(source.claim_name for source in sources if source and not source.read_only)

    @property
    def terminating(self) -> bool:
        """Whether it is being deleted."""
        return self.metadata.deletion_timestamp is not None

    def condition(self, kind: str) -> PodCondition | None:
        """The condition of that type, if the Pod has it."""
        return next((condition for condition in self.status.conditions if condition.type == kind), None)

    @property
    def gated(self) -> bool:
        """Whether a scheduling gate keeps it from the scheduler."""
        condition = self.condition("PodScheduled")
        return not self.spec.node_name and condition is not None and condition.reason == "SchedulingGated"

    @property
    def ready(self) -> bool:
        """Whether the desktop answers its readiness probe."""
        condition = self.condition("Ready")
        ended = self.terminating or self.status.phase in ("Failed", "Succeeded")
        return condition is not None and condition.status == "True" and not ended


class NodeMeta(msgspec.Struct, rename="camel", gc=False, kw_only=True):
    """`metadata` of a Node."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Taint(msgspec.Struct, gc=False):
    """`spec.taints[]` of a Node."""

    key: str
    value: str = ""
    effect: str = ""


class NodeSpec(msgspec.Struct, gc=False):
    """`spec` of a Node."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeCondition(msgspec.Struct, rename="camel", gc=False):
    """`status.conditions[]` of a Node, without its heartbeat, which changes all the time."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str = ""


class NodeImage(msgspec.Struct, gc=False):
    """`status.images[]` of a Node: one image under all its names (tags, digest); null for one that has lost them."""

    names: tuple[str, ...] | None = None


class NodeStatus(msgspec.Struct, gc=False):
    """`status` of a Node."""

    conditions: tuple[NodeCondition, ...] = ()
    allocatable: dict[str, str] = {}
    images: tuple[NodeImage, ...] = ()
    """The kubelet names the 50 largest (nodeStatusMaxImages)."""


class Node(msgspec.Struct, gc=False):
    """A machine that desktops run on."""

    metadata: NodeMeta
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)

    @property
    def ready(self) -> bool:
        """Whether its kubelet answers and says that it is fit."""
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions)


class PersistentVolumeClaimSpec(msgspec.Struct, rename="camel", gc=False):
    """`spec` of a PersistentVolumeClaim."""

    volume_name: str = ""
    access_modes: tuple[str, ...] = ()


class PersistentVolumeClaimStatus(msgspec.Struct, gc=False):
    """`status` of a PersistentVolumeClaim."""

    phase: str = ""


class PersistentVolumeClaim(msgspec.Struct, gc=False):
    """A home."""

    metadata: ChildMeta
    spec: PersistentVolumeClaimSpec = msgspec.field(default_factory=PersistentVolumeClaimSpec)
    status: PersistentVolumeClaimStatus = msgspec.field(default_factory=PersistentVolumeClaimStatus)

    @property
    def is_shared(self) -> bool:
        """Whether several desktops may use it at the same time."""
        return "ReadWriteMany" in self.spec.access_modes


class Service(msgspec.Struct, gc=False):
    """The Service in front of the Pod."""

    metadata: BareMeta


class RouteAnnotations(msgspec.Struct, gc=False):
    """`metadata.annotations` of an IngressRoute."""

    host: str = msgspec.field(name=HOST, default="")


class RouteMeta(BareMeta, rename="camel", gc=False, kw_only=True):
    """`metadata` of an IngressRoute."""

    annotations: RouteAnnotations = msgspec.field(default_factory=RouteAnnotations)


class Route(msgspec.Struct, gc=False):
    """The IngressRoute."""

    metadata: RouteMeta

    @property
    def host(self) -> str:
        """The host it leads to (empty when the annotation is missing)."""
        return self.metadata.annotations.host


class SecretData(msgspec.Struct, rename="camel", gc=False):
    """`data` of a Secret, without the password: the operator forgets that as soon as it is sent."""

    agent_token: str = ""
    """Base64."""


class Secret(msgspec.Struct, gc=False):
    """The Secret of one desktop."""

    metadata: BareMeta
    data: SecretData = msgspec.field(default_factory=SecretData)

    @property
    def agent_token(self) -> str:
        """Empty without one, and for what is no text."""
        try:
            return b64decode(self.data.agent_token).decode()
        except ValueError:
            return ""


class ReservationData(msgspec.Struct, gc=False):
    """`data` of the ConfigMap that records who owns a host label."""

    user: str = ""


class HostReservation(msgspec.Struct, gc=False):
    """The ConfigMap that records who owns a host label."""

    metadata: ChildMeta
    data: ReservationData = msgspec.field(default_factory=ReservationData)


class Regarding(msgspec.Struct, gc=False):
    """What an Event is about."""

    kind: str = ""
    name: str = ""
    uid: str = ""


class Event(msgspec.Struct, rename="camel", gc=False):
    """An Event of `events.k8s.io/v1`."""

    metadata: ChildMeta
    regarding: Regarding = msgspec.field(default_factory=Regarding)
    type: str = ""
    reason: str = ""
    note: str = ""
    event_time: str | None = None
    deprecated_last_timestamp: str | None = None

    @property
    def seen(self) -> str:
        """When it was last seen, as far as that is known."""
        return self.deprecated_last_timestamp or self.event_time or self.metadata.creation_timestamp
