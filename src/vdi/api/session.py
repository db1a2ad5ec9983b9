"""`VDISession`: the desktop of one user, with its guests, schedule and status."""

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import (
    CPU,
    DESKTOP_MEMORY,
    EMAIL,
    HOST_LABEL,
    MEMORY,
    NOT_A_KEYED_LABEL,
    NOT_ENCODED,
    PRINTABLE,
    TIME_ZONE,
    VISIBLE,
    Quantity,
    Rule,
    doc,
    duration,
    explanation,
    instant,
    object_name,
    quantities_as_text,
    quantity,
    stays,
)
from vdi.api.meta import Condition, ObjectMeta
from vdi.api.schedule import SessionSchedule
from vdi.api.template import TimeoutAction

# Entries of `spec.access`.
MAX_GUESTS = 64


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


class Role(StrEnum):
    """A person's role in one session."""

    OWNER = "owner"
    VIEWER = GuestRole.VIEWER.value
    COLLABORATOR = GuestRole.COLLABORATOR.value


def describe_role(role: GuestRole) -> str:
    """The permissions of a role, in the words of every interface."""
    match role:
        case GuestRole.VIEWER:
            return "view only"
        case GuestRole.COLLABORATOR:
            return "full control"
    return "no access"


def _has_full_control(role: Role) -> bool:
    match role:
        case Role.OWNER | Role.COLLABORATOR:
            return True
        case Role.VIEWER:
            return False
    return False


# Roles with mouse and keyboard. All others need a desktop that restricts them to viewing.
FULL_CONTROL = frozenset[str](role for role in Role if _has_full_control(role))
# The roles of guests, for descriptions of fields and options.
GUEST_ROLES = " ".join(f"{role}: {describe_role(role)}." for role in GuestRole)


class SessionResources(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Resources of the desktop (the pod's limits)."""

    gpu: Annotated[
        int,
        doc(
            "GPUs (shares of one, where they are time-sliced). Ignored by a template for CPU"
            " desktops.",
            minimum=1,
        ),
    ] = 1
    memory: Annotated[Quantity, quantity("Memory.", DESKTOP_MEMORY)] = "4Gi"
    cpu: Annotated[Quantity | None, quantity("CPUs. Default: the template's value.", CPU)] = None
    ephemeral_storage: Annotated[
        Quantity | None, quantity("Local disk of the node. Default: the template's value.", MEMORY)
    ] = None

    def __post_init__(self) -> None:
        quantities_as_text(self, "memory", "cpu", "ephemeral_storage")


class SessionPersistence(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """The home volume; omitted fields have the template's values."""

    enabled: Annotated[
        bool | None,
        doc(
            "Whether files in the home directory are kept when the desktop ends. Default: the"
            " template's value (there: true)."
        ),
    ] = None
    size: Annotated[
        Quantity | None,
        quantity(
            "Size of a newly created home volume, up to the template's persistence.maxSize."
            " Default: the template's value.",
            MEMORY,
        ),
    ] = None
    storage_class: Annotated[
        str | None,
        object_name("StorageClass of a newly created home volume. Default: the template's value."),
    ] = None
    retain: Annotated[
        bool,
        doc(
            "true: the home volume is kept when the session ends, and the next session with the"
            " same home uses it again (the template's persistence.scope). false: the home volume"
            " belongs to this session and is deleted with it."
        ),
    ] = True

    def __post_init__(self) -> None:
        quantities_as_text(self, "size")


class Access(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """A guest of the desktop. The gateway enforces the role; without a gateway it has no effect."""

    user: Annotated[
        str,
        doc(
            "E-mail address of the guest.", EMAIL, VISIBLE, pattern=r"^\S+@\S+\.\S+$", maxLength=254
        ),
    ]
    role: Annotated[str, doc(GUEST_ROLES, enum=[role.value for role in GuestRole])] = (
        GuestRole.VIEWER.value
    )
    expires: Annotated[
        str | None,
        doc(
            "When the guest's access ends. Default: when the session ends.",
            format="date-time",
            maxLength=40,
        ),
    ] = None


class AccessRequest(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """A request of an administrator for access, which the owner of the desktop allows or
    refuses.
    """

    user: Annotated[str, doc("E-mail address of the administrator.", EMAIL, VISIBLE, maxLength=254)]
    role: Annotated[str, doc(GUEST_ROLES, enum=[role.value for role in GuestRole])]
    length: Annotated[str, duration("How long the access lasts, if it is allowed.")]
    expires: Annotated[
        str, doc("When the request lapses without an answer.", format="date-time", maxLength=40)
    ]


class PlannedEnd(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """An end of the desktop that its users are told in advance."""

    time: Annotated[str, doc("When the operator acts.", format="date-time", maxLength=40)]
    action: Annotated[TimeoutAction, doc("Suspend the session, or delete it (Terminate).")]
    message: Annotated[
        str, doc("Reason, shown in the desktop and in the portal.", PRINTABLE, maxLength=200)
    ] = ""


class SessionSpec(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """The requested desktop."""

    user: Annotated[
        str,
        doc(
            "E-mail address of the desktop's owner. Fixed once the session exists.",
            EMAIL,
            VISIBLE,
            stays("create a new session for another user"),
            pattern=r"^\S+@\S+\.\S+$",
            maxLength=254,
        ),
    ]
    template: Annotated[
        str,
        object_name(
            "Name of the VDITemplate to start. Fixed once the session exists.",
            stays("create a new session for another template"),
        ),
    ]
    resources: Annotated[
        SessionResources | None,
        doc(
            "Resources of this desktop. Default: the template's defaults. If set, omitted fields"
            " have the defaults listed here. Changes of memory and cpu apply to a running desktop,"
            " others at the next start."
        ),
    ] = None
    persistence: Annotated[
        SessionPersistence | None, doc("The home volume. Default: the template's value.")
    ] = None
    hostname: Annotated[
        str | None,
        doc(
            "First label of the desktop's host name. The first user who gets it keeps it, also"
            " after the session. Default: the session's name and a hash that no other user can get,"
            " such as alice-5tq2mzk4.",
            HOST_LABEL,
            NOT_A_KEYED_LABEL,
            NOT_ENCODED,
            minLength=1,
            maxLength=63,
        ),
    ] = None
    timeout: Annotated[
        str,
        duration(
            "Length of one run, counted from status.startTime and limited by the template's"
            " lifecycle.maxTimeout, or by the cluster's sessions.maxTimeout (a value of the chart)"
            " if the template has none. After it, the template's lifecycle.onTimeout applies."
            " Changes take effect immediately."
        ),
    ] = "8h"
    idle_timeout: Annotated[
        str | None,
        duration(
            "How long the desktop may be without a connection and without input. After it, the"
            " template's lifecycle.onIdle applies. Default: the template's lifecycle.idleTimeout;"
            " no limit if the template has none."
        ),
    ] = None
    time_zone: Annotated[
        str | None,
        doc(
            "Time zone of the desktop, such as Europe/Berlin (IANA name): its variable TZ. Changes"
            " apply at the next start; a desktop that a pool has started already keeps its own zone"
            " until then. Default: TZ in the template's env, or that of the image (UTC).",
            TIME_ZONE,
            minLength=1,
            maxLength=64,
        ),
    ] = None
    suspended: Annotated[
        bool,
        doc(
            "true: the desktop is stopped and its GPU is released; home and address are kept. false"
            " again: a new run starts."
        ),
    ] = False
    schedule: Annotated[
        SessionSchedule | None,
        doc(
            "Times at which a suspended desktop is resumed, and suspended again. At the end of a"
            " run, a session with a schedule is always suspended, and never deleted.",
            Rule(
                # True if one of them is no time of day: the field's own rule refuses that.
                "!has(self.end) || ![self.start, self.end].all(time,"
                " time.matches('^[0-9][0-9]:[0-9][0-9]$')) || (int(self.start.substring(0, 2)) * 60"
                " + int(self.start.substring(3, 5)) - int(self.end.substring(0, 2)) * 60 -"
                " int(self.end.substring(3, 5)) + 1440) % 1440 > 5",
                "end must not be start, nor in the 5 minutes before it, in which the desktop is"
                " resumed",
                '"\'" + self.end + "\' is start, or in the 5 minutes before it, in which the'
                ' desktop is resumed"',
                ".end",
            ),
        ),
    ] = None
    planned_end: Annotated[
        PlannedEnd | None,
        doc(
            "An announced suspension or deletion. Remove it to cancel; the operator removes it when"
            " it has acted."
        ),
    ] = None
    priority: Annotated[
        int,
        doc("A waiting session with a higher priority starts first.", minimum=-1000, maximum=1000),
    ] = 0
    access_request: Annotated[
        AccessRequest | None,
        doc("An administrator's request for access. The gateway writes and removes it."),
    ] = None
    access: Annotated[
        tuple[Access, ...],
        doc("Guests of this desktop and their roles.", list_key="user", maxItems=MAX_GUESTS),
    ] = ()


class QueueStatus(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Position of a session that waits for capacity."""

    position: Annotated[
        int,
        doc(
            "1: the next one. Absent: the end of another session would not help, only a change of"
            " the cluster."
        ),
    ] = 0
    reason: Annotated[str, doc("Code of the resource that is short, for programs.")] = ""
    earliest_slot: Annotated[
        str,
        instant(
            "When capacity is expected, unless another session ends earlier, is extended, or has"
            " priority."
        ),
    ] = ""
    available_gpu: Annotated[
        int,
        doc(
            "GPUs, fewer than requested, with which the session would start at once. Absent: not"
            " even with one."
        ),
    ] = 0
    node_request_time: Annotated[
        str,
        instant(
            "Since when a node for this session has been requested from the cluster's autoscaler."
            " Absent if none is requested."
        ),
    ] = ""


class GraphicsStatus(msgspec.Struct, rename="camel", omit_defaults=True, gc=False, frozen=True):
    """Renderer and encoder of the picture, chosen by the image when the desktop started."""

    renderer: Annotated[
        str,
        doc(
            "OpenGL renderer: Zink (Mesa on the GPU's Vulkan driver, on X11), Native (the GPU's own"
            " OpenGL driver) or Software (Mesa on the CPU).",
            pattern="^[A-Za-z]{1,32}$",
            maxLength=32,
        ),
    ]
    device: Annotated[
        str, doc("The renderer name that OpenGL reports.", PRINTABLE, maxLength=256)
    ] = ""
    reason: Annotated[
        str,
        doc(
            "Code of the reason for software rendering, for programs.",
            pattern="^[A-Za-z]{0,32}$",
            maxLength=32,
        ),
    ] = ""
    message: Annotated[str, doc("Explanation for people.", PRINTABLE, maxLength=256)] = ""
    encoder: Annotated[
        str,
        doc(
            "Encoder of the stream, such as nvenc or x264.",
            pattern="^[A-Za-z0-9 ._-]{0,32}$",
            maxLength=32,
        ),
    ] = ""
    hardware_encoder: Annotated[bool, doc("true: the GPU encodes.")] = False
    encoder_message: Annotated[
        str,
        doc("Why the GPU does not encode, as reported by the encoder.", PRINTABLE, maxLength=256),
    ] = ""
    display: Annotated[
        str,
        doc("Display of the desktop: X11 or Wayland.", pattern="^[A-Za-z0-9]{0,32}$", maxLength=32),
    ] = ""


class IsolationStatus(msgspec.Struct, rename="camel", omit_defaults=True, gc=False, frozen=True):
    """Isolation of the desktop's pod."""

    user_namespace: Annotated[bool, doc("true: the pod's user ids are none of the node's.")] = False
    message: Annotated[
        str, explanation("Why the pod has no user namespace; empty: it has one.")
    ] = ""


class RecordingStatus(msgspec.Struct, rename="camel", omit_defaults=True, gc=False, frozen=True):
    """The recording of a desktop."""

    mode: Annotated[
        str,
        doc(
            "OnDemand or Always, as the template had it at the start.",
            pattern="^[A-Za-z]{1,32}$",
            maxLength=32,
        ),
    ]
    state: Annotated[
        str,
        doc(
            "Starting: not reported yet. On: it is made and fetched. Off: none is made. Failed: one"
            " should be made.",
            pattern="^[A-Za-z]{1,32}$",
            maxLength=32,
        ),
    ] = "Starting"
    message: Annotated[str, doc("Why no recording is made.", PRINTABLE, maxLength=256)] = ""


class FailureStatus(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """Consecutive failures of the desktop, and the last reason. Absent without failures."""

    count: Annotated[
        int,
        doc("Consecutive failures; after the fifth the session is not restarted automatically."),
    ] = 0
    reason: Annotated[str, doc("Reason code, for programs.")] = ""
    message: Annotated[str, explanation("Explanation for people.")] = ""
    log: Annotated[
        str,
        explanation(
            "The last lines that the container wrote before it ended. Its pod, and so its log, is"
            " deleted."
        ),
    ] = ""
    time: Annotated[str, instant("When the last failure was observed.")] = ""
    generation: Annotated[
        int,
        doc(
            "Generation of the session for which failures are counted; the count restarts with"
            " another one."
        ),
    ] = 0
    restarted_at: Annotated[
        str,
        doc(
            "The annotation vdi.kasm.io/restartedAt for which failures are counted; the count"
            " restarts with another one."
        ),
    ] = ""


class SessionStatus(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """The session's state, as observed by the operator. Times are RFC 3339, UTC, whole seconds."""

    phase: Annotated[str, doc("Phase of the session.", enum=[phase.value for phase in Phase])] = ""
    url: Annotated[
        str, doc("Address of the desktop for the browser. Known before the desktop runs.")
    ] = ""
    message: Annotated[
        str, explanation("What the session waits for, or what failed, in one sentence.")
    ] = ""
    start_time: Annotated[
        str,
        instant(
            "When this run started: its pod was created, or taken from a pool. The timeout counts"
            " from here. Empty while the session waits or is suspended."
        ),
    ] = ""
    ready_time: Annotated[str, instant("When the desktop of this run first responded.")] = ""
    expires_at: Annotated[str, instant("When this run ends.")] = ""
    next_start: Annotated[
        str,
        instant("When spec.schedule has the desktop ready next. It is resumed 5 minutes earlier."),
    ] = ""
    last_activity_time: Annotated[
        str, instant("When a user last connected or used mouse or keyboard, as last recorded.")
    ] = ""
    queue: Annotated[
        QueueStatus | None, doc("Position in the queue; absent while the session does not wait.")
    ] = None
    failures: Annotated[
        FailureStatus | None, doc("Consecutive failures of the desktop, and the reason.")
    ] = None
    graphics: Annotated[
        GraphicsStatus | None,
        doc(
            "Renderer and encoder of the picture, as reported by the agent in the desktop; absent"
            " before, and without an agent."
        ),
    ] = None
    isolation: Annotated[
        IsolationStatus | None,
        doc("Whether the desktop has a user namespace, and why not; absent without a pod."),
    ] = None
    recording: Annotated[
        RecordingStatus | None,
        doc(
            "The recording of this desktop while it runs; absent without `recording` in its template."
        ),
    ] = None
    template_revision: Annotated[
        str, doc("Generation of the template that this run was started with.")
    ] = ""
    pod_name: Annotated[str, doc("The desktop's pod.")] = ""
    pod_ip: Annotated[
        str, doc("The pod's address while the session is Running: where the gateway finds it.")
    ] = msgspec.field(name="podIP", default="")
    node_name: Annotated[str, doc("The node that the pod runs on.")] = ""
    home_claim: Annotated[
        str,
        doc(
            "The PersistentVolumeClaim of the home, also before it exists. Empty if this desktop"
            " has no home."
        ),
    ] = ""
    observed_generation: Annotated[
        int, doc("Generation of the session that this status describes.")
    ] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        doc("The steps of the start, each with its reason.", list_key="type", maxItems=32),
    ] = ()


class VDISession(msgspec.Struct, rename="camel", omit_defaults=True, gc=False):
    """A user's desktop. The operator starts it and writes its address to status.url."""

    plural: ClassVar[str] = "vdisessions"

    metadata: ObjectMeta
    spec: SessionSpec
    status: SessionStatus = msgspec.field(default_factory=SessionStatus)
