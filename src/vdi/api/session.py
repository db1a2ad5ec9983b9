"""`VDISession`: one person's desktop."""

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import (
    CPU,
    DURATION,
    EMAIL,
    HOST_LABEL,
    MEMORY,
    NOT_A_KEYED_LABEL,
    NOT_ENCODED,
    OBJECT_NAME,
    VISIBLE,
    Quantity,
    doc,
    quantities_as_text,
    stays,
)
from vdi.api.meta import Condition, ObjectMeta


class Phase(StrEnum):
    """Values of `status.phase` that the operator sets; it is empty before the first."""

    PENDING = "Pending"
    CREATING = "Creating"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    TERMINATING = "Terminating"
    FAILED = "Failed"


class GuestRole(StrEnum):
    """Values of `spec.access[].role`."""

    VIEWER = "viewer"
    COLLABORATOR = "collaborator"


class SessionResources(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the desktop may use (the pod's limits)."""

    gpu: Annotated[
        int, doc("GPUs (shares of one, where they are time-sliced). Ignored by a template for CPU desktops.", minimum=1)
    ] = 1
    memory: Annotated[Quantity, doc("Memory.", MEMORY, maxLength=32)] = "4Gi"
    cpu: Annotated[Quantity | None, doc("CPUs. Left out: as the template says.", CPU, maxLength=32)] = None
    ephemeral_storage: Annotated[
        Quantity | None, doc("Local disk of the node. Left out: as the template says.", MEMORY, maxLength=32)
    ] = None

    def __post_init__(self) -> None:
        quantities_as_text(self, "memory", "cpu", "ephemeral_storage")


class SessionPersistence(msgspec.Struct, rename="camel", omit_defaults=True):
    """The home volume; what is left out comes from the template."""

    enabled: Annotated[
        bool | None,
        doc("Whether files in the home directory outlive the desktop. Left out: as the template says (there: true)."),
    ] = None
    size: Annotated[
        Quantity | None,
        doc(
            "Size of a home volume that is made new, up to the template's persistence.maxSize. "
            "Left out: as the template says.",
            MEMORY,
            maxLength=32,
        ),
    ] = None
    storage_class: Annotated[
        str | None,
        doc(
            "StorageClass of a home volume that is made new. Left out: as the template says.",
            OBJECT_NAME,
            minLength=1,
            maxLength=253,
        ),
    ] = None
    retain: Annotated[
        bool,
        doc(
            "true: the home volume outlives the session, and the next session with the same home finds the files "
            "again (the template's persistence.scope). false: it belongs to this session and is deleted with it."
        ),
    ] = True

    def __post_init__(self) -> None:
        quantities_as_text(self, "size")


class Access(msgspec.Struct, rename="camel", omit_defaults=True):
    """Somebody whom the owner lets into the desktop. The gateway enforces it; without one it is a note."""

    user: Annotated[str, doc("E-mail address of the guest.", EMAIL, VISIBLE, pattern=r"^\S+@\S+\.\S+$", maxLength=254)]
    role: Annotated[
        str,
        doc(
            "viewer: sees the desktop. collaborator: uses mouse and keyboard too.",
            enum=[role.value for role in GuestRole],
        ),
    ] = GuestRole.VIEWER.value
    expires: Annotated[
        str | None, doc("When the guest's access ends. Left out: with the session.", format="date-time", maxLength=40)
    ] = None


class SessionSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the user asks for."""

    user: Annotated[
        str,
        doc(
            "E-mail address of the person whose desktop this is. Fixed once the session exists.",
            EMAIL,
            VISIBLE,
            stays("make a new session for another user"),
            pattern=r"^\S+@\S+\.\S+$",
            maxLength=254,
        ),
    ]
    template: Annotated[
        str,
        doc(
            "Name of the VDITemplate to start. Fixed once the session exists.",
            OBJECT_NAME,
            stays("make a new session for another template"),
            minLength=1,
            maxLength=253,
        ),
    ]
    resources: Annotated[
        SessionResources | None,
        doc(
            "Limits of this desktop. Left out: the template's defaults hold. "
            "Given: what is left out in it has the defaults here."
        ),
    ] = None
    persistence: Annotated[SessionPersistence | None, doc("The home volume. Left out: as the template says.")] = None
    hostname: Annotated[
        str | None,
        doc(
            "First label of the desktop's host name. The first user who gets it keeps it, also after the session. "
            "Left out: the session's name and a hash that no other user can get, such as alice-5tq2mzk4.",
            HOST_LABEL,
            NOT_A_KEYED_LABEL,
            NOT_ENCODED,
            minLength=1,
            maxLength=63,
        ),
    ] = None
    timeout: Annotated[
        str,
        doc(
            "Length of one run, counted from status.startTime and capped by the template's lifecycle.maxTimeout, or "
            "without one by the cluster's sessions.maxTimeout (a value of the chart); "
            "then the template's lifecycle.onTimeout is done. An edit counts at once.",
            DURATION,
            maxLength=32,
        ),
    ] = "8h"
    idle_timeout: Annotated[
        str | None,
        doc(
            "How long it may be without a connection and without input; then the template's lifecycle.onIdle is done. "
            "Left out: the template's lifecycle.idleTimeout, and without that: for ever.",
            DURATION,
            maxLength=32,
        ),
    ] = None
    suspended: Annotated[
        bool,
        doc("true: the desktop is stopped and its GPU is free; home and address are kept. false again: a new run."),
    ] = False
    priority: Annotated[
        int,
        doc("A waiting session with a higher priority starts first.", minimum=-1000, maximum=1000),
    ] = 0
    access: Annotated[
        tuple[Access, ...], doc("Who else may open this desktop, and as what.", list_key="user", maxItems=64)
    ] = ()


class QueueStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """Where a session stands that waits for room in the cluster."""

    position: Annotated[
        int, doc("1: the next one. Left out: nobody's end would make room, only a change of the cluster.")
    ] = 0
    reason: Annotated[str, doc("What there is too little of, in one word for programs.")] = ""
    earliest_slot: Annotated[
        str,
        doc(
            "When capacity is expected, unless another session ends earlier, is extended, or goes first.",
            format="date-time",
        ),
    ] = ""
    node_request_time: Annotated[
        str,
        doc(
            "Since when a node for it is requested from the cluster's autoscaler. Left out: none is requested.",
            format="date-time",
        ),
    ] = ""


class GraphicsStatus(msgspec.Struct, rename="camel", omit_defaults=True, frozen=True):
    """What draws and what encodes the picture of a desktop, as its image decided when it started."""

    renderer: Annotated[
        str,
        doc(
            "What draws OpenGL: Zink (Mesa on the GPU's Vulkan driver) or Software (Mesa on the CPU).",
            pattern="^[A-Za-z]{1,32}$",
            maxLength=32,
        ),
    ]
    device: Annotated[str, doc("What OpenGL names as its renderer.", maxLength=256)] = ""
    reason: Annotated[
        str,
        doc("Why OpenGL is drawn in software, in one word for programs.", pattern="^[A-Za-z]{0,32}$", maxLength=32),
    ] = ""
    message: Annotated[str, doc("Why, in a sentence for people.", maxLength=256)] = ""
    encoder: Annotated[
        str, doc("What encodes the stream, such as nvenc or x264.", pattern="^[A-Za-z0-9 ._-]{0,32}$", maxLength=32)
    ] = ""
    hardware_encoder: Annotated[bool, doc("true: the GPU encodes.")] = False
    encoder_message: Annotated[str, doc("Why the GPU does not encode, as the encoder says.", maxLength=256)] = ""


class FailureStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """How often the desktop was lost in a row, and why the last time. Absent while all is well."""

    count: Annotated[int, doc("Losses in a row; after the fifth the session is not started again by itself.")] = 0
    reason: Annotated[str, doc("Why, in one word for programs.")] = ""
    message: Annotated[str, doc("Why, in a sentence for people.")] = ""
    time: Annotated[str, doc("When the last one was seen.", format="date-time")] = ""
    generation: Annotated[int, doc("Generation of the session that was counted for; another one starts from zero.")] = 0
    restarted_at: Annotated[
        str, doc("The annotation vdi.kasm.io/restartedAt that was counted for; another one starts from zero.")
    ] = ""


class SessionStatus(msgspec.Struct, rename="camel", omit_defaults=True):
    """What the operator has seen and done. Times are RFC 3339, UTC, whole seconds."""

    phase: Annotated[str, doc("Where the session stands.", enum=[phase.value for phase in Phase])] = ""
    url: Annotated[str, doc("Where the desktop is opened in a browser. Known before the desktop runs.")] = ""
    message: Annotated[str, doc("What the session waits for, or what is wrong, in one sentence.")] = ""
    start_time: Annotated[
        str,
        doc(
            "When this run began: its pod was made, or taken from a pool. The timeout counts from here. "
            "Empty while the session waits or is suspended.",
            format="date-time",
        ),
    ] = ""
    ready_time: Annotated[str, doc("When the desktop of this run first answered.", format="date-time")] = ""
    expires_at: Annotated[str, doc("When this run ends.", format="date-time")] = ""
    last_activity_time: Annotated[
        str, doc("When somebody last connected or touched mouse or keyboard, as far as written.", format="date-time")
    ] = ""
    queue: Annotated[QueueStatus | None, doc("Where it stands in the queue; absent while it does not wait.")] = None
    failures: Annotated[FailureStatus | None, doc("How often the desktop was lost in a row, and why.")] = None
    graphics: Annotated[
        GraphicsStatus | None,
        doc("What draws and encodes the picture, as the agent in the desktop reports; absent before, and without one."),
    ] = None
    template_revision: Annotated[str, doc("Generation of the template that this run was started with.")] = ""
    pod_name: Annotated[str, doc("The desktop's pod.")] = ""
    pod_ip: Annotated[str, doc("The pod's address while the session is Running: where the gateway finds it.")] = (
        msgspec.field(name="podIP", default="")
    )
    node_name: Annotated[str, doc("The node that the pod runs on.")] = ""
    home_claim: Annotated[
        str, doc("The PersistentVolumeClaim of the home, also before it exists. Empty: this desktop has no home.")
    ] = ""
    observed_generation: Annotated[int, doc("Generation of the session that this status speaks of.")] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        doc("The steps on the way to a desktop, each with its reason.", list_key="type", maxItems=32),
    ] = ()


class VDISession(msgspec.Struct, rename="camel", omit_defaults=True):
    """One person's desktop: applied, the operator starts it and writes its address to status.url."""

    plural: ClassVar[str] = "vdisessions"

    metadata: ObjectMeta
    spec: SessionSpec
    status: SessionStatus = msgspec.field(default_factory=SessionStatus)
